"""The palette and the stylesheet of all pages."""

INK, MUTED, GRID, PAPER, PANEL = "#1f2933", "#6b7785", "#e3e7eb", "#fbfcfd", "#eef2f6"
BLUE, BAND, ORANGE, AMBER, GREEN, RED = "#2463a6", "#bcd4ee", "#c8641e", "#f0c27a", "#3c8d5a", "#b3261e"
# In this order, for several things of one kind; more than ten could not be distinguished
SERIES = (BLUE, BAND, ORANGE, GREEN, "#8a6fae", "#d8b24a", MUTED, "#7fb3a0", "#b0677a", "#9aa0a6")

STYLE = f"""
:root{{--ink:{INK};--muted:{MUTED};--line:{GRID};--paper:{PAPER};--panel:{PANEL};--link:{BLUE}}}
@media(prefers-color-scheme:dark){{
:root{{--ink:#dde1e6;--muted:#98a4b1;--line:#343b43;--paper:#16191d;--panel:#23282e;--link:#7fb3f0}}}}
body{{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}}
main{{max-width:1080px;margin:0 auto;padding:24px}}
h1{{margin:0 0 4px;font-size:26px}}
h2{{margin:36px 0 8px;font-size:18px;border-bottom:1px solid var(--line);padding-bottom:4px}}
h3{{margin:18px 0 4px;font-size:15px}}
a{{color:var(--link)}}
img{{max-width:100%;display:block;margin:6px 0;background:#fff;border-radius:3px}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}}
th,td{{padding:4px 10px;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}}
.n{{text-align:right}}
th{{color:var(--muted);font-weight:600;white-space:normal;vertical-align:bottom}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;font-size:13.5px}}
dt{{color:var(--muted)}}
dd{{margin:0;overflow-wrap:anywhere}}
code{{background:var(--panel);padding:1px 5px;border-radius:3px}}
code b{{color:var(--link)}}
pre{{background:var(--panel);padding:12px 16px;overflow:auto;font-size:13px}}
summary{{cursor:pointer;color:var(--muted)}}
.card td{{white-space:normal}}
.lead{{color:var(--muted);margin:0}}
.verdict{{font-weight:600}}
.none{{color:var(--muted)}}
.good{{color:{GREEN}}}
.bad{{color:{RED};font-weight:600}}
.next li{{margin:4px 0}}
"""
