"""Does a column know what its target does later?

For columns that come from outside and were wrong before they came. A column that holds the target
some steps later (a value, a mean, a change; noisy, transformed, in a part of the rows) agrees at
that lead with what the target's own past leaves open. Honest columns may do so too, but
differently: they say most of the step at which they are recorded, they move by themselves whatever
the target does, or several leads each explain a part of them. A noisy copy does none of that: given
the one later value, the rest of it is noise.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.leaks import LeakFinding

MAX_ROWS = 20_000  # of one group, evenly over time; 20,000 find a correlation of .04
MIN_ROWS = 150  # of one group: some 40 columns of the past are fitted first
MAX_SERIES = 200  # that are tested one by one, evenly over the panel
N_PERIODS = 3  # that are tested one by one: a column may be filled with hindsight up to a date only
FALSE_ALARM_FRAC = 0.001  # of honest datasets, by Bonferroni over columns, leads and groups
# Real loads, prices and volumes reach .10 with each other at the next step or over the next ones
MIN_CORRELATION = 0.12
MIN_CORRELATION_AT_A_LEAD = 0.06  # from two steps on: what is honest there also moves by itself
MAX_CORRELATION = 0.8  # two thirds of what the past leaves open: honest columns of real data stay below .4
COPIED_FRAC = 0.8  # of a column, explained by one later value with no help of the column's own past
MOVES_BY_ITSELF = 0.5  # autocorrelation of what that value leaves unexplained of the column
# F of the leads around it, some eight degrees of freedom: chance does this once in 2,000
SEVERAL_LEADS_F = 3.5
ONE_LEAD_FRAC = 0.95  # of what all those leads explain, by the one
# The agreement must be there all along: t of its mean over so many stretches of rows
N_BLOCKS, MIN_BLOCK_T = 16, 3.0
# A part of the rows must agree so many times more than all, where all were found honest
MORE_THAN_CLEARED = 1.5
MOST_FRAC = 0.97  # of the rows: a part that is larger is all of them
N_TRIMS = 4  # of a line through the closer half of the rows
CHUNK = 64  # leads at a time, so that memory does not grow with the horizon

ALL = "all"
Verdict = Literal["leak", "honest", "nothing"]

Array = np.ndarray


class Lead(NamedTuple):
    """The target *steps* steps after the cutoff (kind `value`), or its mean over the steps from
    the next to that one (kind `mean`).
    """

    kind: str
    steps: int


class Evidence(NamedTuple):
    """How a column agrees with the target at a lead, in one group of rows.

    r: partial correlation, given the target up to the cutoff and the column's own past.
    r_now: that of the column with the target at the cutoff, given the target at the lead.
    errors, limit: |r| in standard errors, and how many chance reaches in one of a thousand
    datasets.
    n_rows: rows compared. group: all, a series, or a period.
    """

    column: str
    group: str
    lead: Lead
    r: float
    r_now: float
    errors: float
    limit: float
    n_rows: int


def find_leading(
    table: pl.DataFrame, about: About, names: Sequence[str]
) -> tuple[list[LeakFinding], list[dict[str, Any]]]:
    """Columns of *table* (FEATURES) among *names* that hold what the target is later; and each
    column's strongest agreement.

    Leads: every step after the cutoff up to twice the horizon, and the means up to them. Target and
    columns are compared by their ranks within a series, so that any rising or falling function of
    the target is found as well as the target.
    """
    # Only the gate needs it, and the service imports this package
    from threadpoolctl import threadpool_limits

    if not names or table.is_empty():
        return [], []
    # The same bits whatever the machine; two threads gain nothing at this size
    with threadpool_limits(1, "blas"):
        leaking, seen = _find_evidence(table, about, names)
    return [_build_finding(leaking[n], table) for n in names if n in leaking], [
        _build_figures(seen[n]) for n in names if n in seen
    ]


def _find_evidence(
    table: pl.DataFrame, about: About, names: Sequence[str]
) -> tuple[dict[str, Evidence], dict[str, Evidence]]:
    """The strongest evidence of a leak by column, and the strongest evidence of every column."""
    panel = _LeadPanel.of(table, about, names)
    groups = list(_iterate_groups(panel, table))
    n_tests = len(names) * sum(len(_list_leads(n_steps)) for _, _, n_steps in groups)
    strongest: dict[str, Evidence] = {}
    leaking: dict[str, Evidence] = {}
    honest: dict[str, float] = {}
    for group, rows, n_steps in groups:
        found = [*_compare_columns(panel, group, rows, _list_leads(n_steps), _compute_limit(n_tests))]
        for f, part in _iterate_parts(panel, rows):
            found += _compare_columns(
                panel.select_column(f), group, part, _list_leads(n_steps), _compute_limit(n_tests)
            )
        for evidence, verdict in found:
            name = evidence.column
            if group == ALL and verdict == "honest":
                honest[name] = abs(evidence.r)
            leaks = verdict == "leak" and abs(evidence.r) > MORE_THAN_CLEARED * honest.get(name, 0.0)
            kept = leaking if leaks else strongest
            if name not in kept or evidence.errors > kept[name].errors:
                kept[name] = evidence
    return leaking, {**strongest, **leaking}


class _LeadPanel(NamedTuple):
    """A table as arrays, series after series.

    y: (n,) rank scores of the target, its holes bridged in a straight line. known: (n,) where there
    was a value.
    x: (n, F) rank scores of the columns, 0 where unknown, there: (n, F) where known. first, last:
    (n,) the row's series' first and last row.
    sums: (n + 1,) of y up to each row. season_steps, n_steps: of the dataset; twice the horizon.
    """

    names: Sequence[str]
    y: Array
    known: Array
    x: Array
    there: Array
    first: Array
    last: Array
    sums: Array
    season_steps: int
    n_steps: int

    @classmethod
    def of(cls, table: pl.DataFrame, about: About, names: Sequence[str]) -> "_LeadPanel":
        scores = _compute_rank_scores(table, ["z", *names])
        lengths = table["series_id"].rle().struct.field("len").to_numpy().astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        y, known = scores[:, 0], np.isfinite(scores[:, 0])
        for start, n in zip(starts, lengths, strict=True):
            part, there = y[start : start + n], known[start : start + n]
            if there.any() and not there.all():
                part[~there] = np.interp(np.flatnonzero(~there), np.flatnonzero(there), part[there])
        y = np.nan_to_num(y)
        first, last = np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths)
        sums = np.concatenate([[0.0], np.cumsum(y)])
        x = scores[:, 1:]
        return cls(
            names,
            y,
            known,
            np.nan_to_num(x),
            np.isfinite(x),
            first,
            last,
            sums,
            about.season_steps,
            2 * about.horizon_steps,
        )

    def select_column(self, f: int) -> "_LeadPanel":
        """The panel with one column."""
        return self._replace(
            names=self.names[f : f + 1], x=self.x[:, f : f + 1], there=self.there[:, f : f + 1]
        )

    def get_lagged(self, values: Array, rows: Array, k: int) -> Array:
        """*values* k steps before *rows*, the series' first where there are fewer."""
        return values[np.maximum(rows - k, self.first[rows])]

    def mean(self, end: Array, start: Array) -> Array:
        """Mean of y over the rows from *start* to *end*, both included."""
        mean: Array = (self.sums[end + 1] - self.sums[start]) / (end + 1 - start)
        return mean

    def at(self, lead: Lead, rows: Array) -> Array:
        """The target at *lead* after each of *rows*."""
        return self.y[rows + lead.steps] if lead.kind == "value" else self.mean(rows + lead.steps, rows + 1)


def _compute_rank_scores(table: pl.DataFrame, names: Sequence[str]) -> Array:
    """Normal scores of the ranks within each series, (n, len(names)); NaN where unknown; equal
    values share one.
    """
    # Only the gate needs it, and the service imports this package
    from scipy.special import ndtri

    value = [pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in names]
    parts = [
        ((v.rank("average") - 0.5) / v.count()).over("series_id").alias(str(i)) for i, v in enumerate(value)
    ]
    scores: Array = ndtri(table.select(parts).to_numpy())
    return scores


def _iterate_groups(panel: _LeadPanel, table: pl.DataFrame) -> Iterator[tuple[str, Array, int]]:
    """(name, rows, leads): all rows; each series, where there are several; each of some periods.

    Too small ones are left out.
    """
    place, longest = np.arange(len(panel.y)), int((panel.last - panel.first).max()) + 1
    when = table["event_time"].to_physical().to_numpy()
    borders = np.quantile(when, np.linspace(0, 1, N_PERIODS + 1)[1:-1])
    period = np.searchsorted(borders, when, side="right")
    starts = np.unique(panel.first)
    some = starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MAX_SERIES)).astype(np.int64))]
    members: list[tuple[str, Array]] = [(ALL, place)]
    if len(starts) > 1:
        members += [
            (table["series_id"][int(start)], np.arange(start, panel.last[start] + 1)) for start in some
        ]
    members += [(f"period {p + 1} of {N_PERIODS}", np.flatnonzero(period == p)) for p in range(N_PERIODS)]
    n_steps = max(min(panel.n_steps, longest // 3), 1)
    for name, rows in members:
        usable = rows[
            panel.known[rows] & (rows - panel.first[rows] > 1) & (rows + n_steps <= panel.last[rows])
        ]
        if len(usable) >= MIN_ROWS:
            yield name, usable[:: -(-len(usable) // MAX_ROWS)], n_steps


def _iterate_parts(panel: _LeadPanel, rows: Array) -> Iterator[tuple[int, Array]]:
    """(column, rows) where a column is known in a part of *rows* only, or most of it lies close to
    a line through the target at the cutoff.

    Where the target moves little from step to step, a copy of it is hidden by the other rows. The
    choice knows no later value.
    """
    for f in range(len(panel.names)):
        known = rows[panel.there[rows, f]]
        if MIN_ROWS <= len(known) < MOST_FRAC * len(rows):
            yield f, known
        if len(known) < MIN_ROWS:
            continue
        x, y = panel.x[known, f], np.column_stack([np.ones(len(known)), panel.y[known]])
        size = np.abs(x - y @ np.linalg.lstsq(y, x, rcond=None)[0])
        for _ in range(N_TRIMS):
            half = size <= np.median(size)
            size = np.abs(x - y @ np.linalg.lstsq(y[half], x[half], rcond=None)[0])
        # Of a normal, a quarter lies within .3186 standard deviations
        spread = float(np.quantile(size, 0.25)) / 0.3186
        close = size < 3 * spread
        if spread < 0.5 * float(np.sqrt(np.mean(size**2))) and MIN_ROWS <= close.sum() < MOST_FRAC * len(
            known
        ):
            yield f, known[close]


def _list_spans(n_steps: int) -> list[int]:
    """Lengths of means: each up to 12, then a sixth longer each time."""
    spans, longer = list(range(2, min(n_steps, 12) + 1)), 14
    while longer <= n_steps:
        spans.append(longer)
        longer = longer * 7 // 6
    return spans


def _list_leads(n_steps: int) -> list[Lead]:
    return [
        *(Lead("value", s) for s in range(1, n_steps + 1)),
        *(Lead("mean", k) for k in _list_spans(n_steps)),
    ]


def _compute_honest_correlation(lead: Lead) -> float:
    """The correlation that honest data has at *lead*."""
    return MIN_CORRELATION_AT_A_LEAD if lead.kind == "value" and lead.steps > 1 else MIN_CORRELATION


def _compute_limit(n_tests: int) -> float:
    """Standard errors that the largest of so many tests reaches by chance in FALSE_ALARM_FRAC of
    all cases.
    """
    from scipy.special import ndtri

    return float(-ndtri(FALSE_ALARM_FRAC / 2 / max(n_tests, 1)))


def _build_past_basis(panel: _LeadPanel, rows: Array) -> Array:
    """What the target says before each row: lags, means, the place in the season and in seven
    seasons; an orthonormal basis of it.
    """
    season, n_steps = panel.season_steps, panel.n_steps
    lags = {1, 2, 3, *((season - 1, season, season + 1, 2 * season, 7 * season) if season > 1 else ())}
    before = np.maximum(rows - 1, panel.first[rows])
    columns = [np.ones(len(rows)), *(panel.get_lagged(panel.y, rows, k) for k in sorted(lags) if k)]
    level, longer = panel.y[before], panel.mean(before, np.maximum(rows - 22, panel.first[rows]))
    # Ranks bend: what depends on the level must not look like a later turn
    columns += [level**2, level**3, longer**2, longer**3]
    columns += [panel.mean(before, np.maximum(rows - k, panel.first[rows])) for k in _list_spans(n_steps)] + [
        longer
    ]
    turns = 2 * np.pi * (rows - panel.first[rows])
    periods = [season / h for h in (1, 2, 3)] + [7 * season / h for h in (1, 2)] if season > 1 else []
    columns += [wave(turns / period) for period in periods for wave in (np.sin, np.cos)]
    basis, r = np.linalg.qr(np.column_stack(columns))
    size = np.abs(np.diag(r))
    kept: Array = basis[:, size > 1e-6 * np.sqrt(len(rows))]
    return kept


def _compute_residuals(values: Array, basis: Array) -> Array:
    """What an orthonormal *basis* leaves of the columns of *values*."""
    left: Array = values - basis @ (basis.T @ values)
    return left


def _compute_correlation(a: Array, b: Array) -> float:
    """Correlation of two residuals; 0 where one is empty."""
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _compare_columns(
    panel: _LeadPanel, group: str, rows: Array, leads: list[Lead], limit: float
) -> Iterator[tuple[Evidence, Verdict]]:
    """For each column its strongest lead in *rows*, and whether that is a leak, or strong and
    honest.

    Everything is a residual of the target's past (Frisch and Waugh), so that a column costs a few
    products.
    """
    past = _build_past_basis(panel, rows)
    y = _compute_residuals(panel.y[rows], past)
    # A third lag of its own
    own_lags = (0, 1, 2, panel.season_steps if panel.season_steps > 2 else 3)
    n_columns = panel.x.shape[1]
    x = np.stack([panel.get_lagged(panel.x, rows, k) for k in own_lags], axis=2).reshape(len(rows), -1)
    x = _compute_residuals(x, past)
    xx = np.einsum("nfa,nfb->fab", *[x.reshape(len(rows), n_columns, len(own_lags))] * 2)
    xy = (x.T @ y).reshape(n_columns, -1)
    of_lead = []
    for start in range(0, len(leads), CHUNK):
        c = _compute_residuals(
            np.column_stack([panel.at(lead, rows) for lead in leads[start : start + CHUNK]]), past
        )
        of_lead.append((np.square(c).sum(axis=0), c.T @ y, (c.T @ x).reshape(c.shape[1], n_columns, -1)))
    cc, cy, cx = (np.concatenate(parts) for parts in zip(*of_lead, strict=True))
    dof = len(rows) - past.shape[1] - len(own_lags) - 1
    for f, name in enumerate(panel.names):
        found = _find_strongest_lead(xx[f], xy[f], cx[:, f], cc, cy, float(y @ y))
        if found is None:
            continue
        best, r, r_now, copied = found
        evidence = Evidence(
            name, group, leads[best], r, r_now, abs(r) * float(np.sqrt(dof)), limit, len(rows)
        )
        verdict: Verdict = "nothing"
        if evidence.errors > limit and abs(r) > _compute_honest_correlation(leads[best]):
            residuals = _Residuals(panel, rows, past, y, x[:, f * len(own_lags) : (f + 1) * len(own_lags)])
            certain = abs(r) >= MAX_CORRELATION or copied.max() >= COPIED_FRAC
            noisy = _is_silent_on_present(r, r_now, dof) and residuals.is_noise_besides(
                leads, leads[int(copied.argmax())], copied.max()
            )
            leaks = (certain or noisy) and residuals.is_consistent(leads[best])
            verdict = "leak" if leaks else "honest"
        yield evidence, verdict


def _find_strongest_lead(
    xx: Array, xy: Array, cx: Array, cc: Array, cy: Array, yy: float
) -> tuple[int, float, float, Array] | None:
    """(lead, r, r_now, share of the column that each lead explains given y alone) from products of
    residuals; None for a constant.

    xx: (a, a) of the column now and before; xy: (a,); cx: (leads, a); cc, cy: (leads,) of the
    leads.
    """
    if xx[0, 0] <= 1e-9 or yy <= 1e-9:
        return None
    inverse = np.linalg.pinv(xx[1:, 1:], rcond=1e-9, hermitian=True)
    by_past = xx[0, 1:] @ inverse
    sxx, sxy = xx[0, 0] - by_past @ xx[1:, 0], xy[0] - by_past @ xy[1:]
    syy, sxc = yy - xy[1:] @ inverse @ xy[1:], cx[:, 0] - cx[:, 1:] @ by_past
    syc = cy - cx[:, 1:] @ inverse @ xy[1:]
    scc = cc - np.einsum("ka,ab,kb->k", cx[:, 1:], inverse, cx[:, 1:])
    if sxx <= 1e-6 * xx[0, 0] or syy <= 1e-6 * yy:  # it follows from its own past, or the target from it
        return None
    tiny = 1e-12 * yy
    r = (sxc - sxy * syc / syy) / np.sqrt(
        np.maximum(sxx - sxy**2 / syy, tiny) * np.maximum(scc - syc**2 / syy, tiny)
    )
    best = int(np.argmax(np.abs(r)))
    now = sxy - sxc[best] * syc[best] / scc[best]
    size = (sxx - sxc[best] ** 2 / scc[best]) * (syy - syc[best] ** 2 / scc[best])
    left = xx[0, 0] - xy[0] ** 2 / yy
    copied = (cx[:, 0] - xy[0] * cy / yy) ** 2 / np.maximum(left * (cc - cy**2 / yy), tiny)
    return best, float(np.clip(r[best], -1, 1)), float(now / np.sqrt(max(size, tiny))), copied


def _is_silent_on_present(r: float, r_now: float, dof: int) -> bool:
    """A copy of the later value says nothing of the present once that value is known; a change
    up to it, as much with the other sign.
    """
    error = 1.0 / np.sqrt(dof)
    if r * r_now < 0:
        return abs(r_now) <= abs(r) + 2.5 * error
    return abs(r_now) <= 0.8 * abs(r) + error and abs(r) - abs(r_now) > 2 * np.sqrt(2) * error


class _Residuals(NamedTuple):
    """A column in a group of rows: residuals of the target's past. y: (n,) of the target at the
    cutoff, x: (n, a) of the column now and before.
    """

    panel: _LeadPanel
    rows: Array
    past: Array
    y: Array
    x: Array

    def is_noise_besides(self, leads: list[Lead], lead: Lead, copied: float) -> bool:
        """Whether what *lead* leaves open of the column is noise: no course of its own, nothing
        that the leads around explain.
        """
        near = range(lead.steps - 3, lead.steps + 4)
        others = sorted({1, 2, 3, *near} & {other.steps for other in leads if other.kind == "value"})
        columns = [
            self.panel.at(lead, self.rows),
            *(self.panel.at(Lead("value", s), self.rows) for s in others if Lead("value", s) != lead),
        ]
        now = (self.y / np.sqrt(self.y @ self.y))[:, None]
        around = _compute_residuals(_compute_residuals(np.column_stack(columns), self.past), now)
        left = _compute_residuals(self.x[:, 0], now)
        one = around[:, :1] / np.sqrt(np.square(around[:, 0]).sum())
        rest, after = _compute_residuals(left, one), _compute_residuals(left, np.linalg.qr(around)[0])
        n, q = len(self.rows) - self.past.shape[1], len(columns) - 1
        f = (rest @ rest - after @ after) / q / max(float(after @ after) / (n - q), 1e-300)
        explained = 1 - float(after @ after) / float(left @ left) - q / n
        by_itself = _compute_correlation(rest[:-1], rest[1:])
        return abs(by_itself) < MOVES_BY_ITSELF and (
            f < SEVERAL_LEADS_F or copied > ONE_LEAD_FRAC * explained
        )

    def is_consistent(self, lead: Lead) -> bool:
        """Whether column and lead agree in stretch after stretch of rows, and not through a few
        long swings.
        """
        given = np.linalg.qr(np.column_stack([self.y, self.x[:, 1:]]))[0]
        both = _compute_residuals(
            _compute_residuals(np.column_stack([self.x[:, 0], self.panel.at(lead, self.rows)]), self.past),
            given,
        )
        sums = np.array([part.sum() for part in np.array_split(both[:, 0] * both[:, 1], N_BLOCKS)])
        return abs(sums.mean()) > MIN_BLOCK_T * sums.std(ddof=1) / np.sqrt(N_BLOCKS)


def _build_figures(evidence: Evidence) -> dict[str, Any]:
    return {
        "column": evidence.column,
        "group": evidence.group,
        "kind": evidence.lead.kind,
        "lead_steps": evidence.lead.steps,
        "r": round(evidence.r, 3),
        "r_now": round(evidence.r_now, 3),
        "standard_errors": round(evidence.errors, 1),
        "limit": round(evidence.limit, 1),
        "n_rows": evidence.n_rows,
    }


def _build_finding(evidence: Evidence, table: pl.DataFrame) -> LeakFinding:
    name, lead = evidence.column, evidence.lead
    what = (
        f"{lead.steps} step(s) later"
        if lead.kind == "value"
        else f"on average over the {lead.steps} steps after it"
    )
    where = "" if evidence.group == ALL else f" in {evidence.group!r}"
    series = evidence.group if evidence.group in table["series_id"] else None
    return LeakFinding(
        rule="leading",
        feature=name,
        series_id=series,
        lead_steps=lead.steps,
        seen=round(evidence.r, 3),
        allowed=_compute_honest_correlation(lead),
        n_rows=evidence.n_rows,
        says=f"{name!r} knows what the target is {what}{where}: correlation {evidence.r:.2f} over "
        f"{evidence.n_rows} rows with what "
        f"the target's own past leaves open, {evidence.errors:.0f} standard errors from 0 where chance "
        f"reaches {evidence.limit:.1f}; "
        f"of the target at the cutoff it says {abs(evidence.r_now):.2f}. Its column holds later values. "
        f"Take it out of `features.list`, or find "
        "out when it was known: what is published ahead belongs into `about.covariates.known_ahead`, and a "
        "column that honestly "
        f"leads the target into `features.leaks.leading: [{name}]`.",
    )
