"""A page as a PDF, by weasyprint, an extra of the package."""

from pathlib import Path

from tasks.core.errors import SettingsError
from tasks.edges.files import replace_file

# A page of paper has no width to scroll; without !important the page's own style wins
_PRINT = """
@page{size:A4;margin:14mm}
body{font-size:10.5px!important;background:#fff!important}
main{max-width:none!important;padding:0!important}
table{font-size:7px!important}
th,td{padding:2px 3px!important;white-space:normal!important}
code{overflow-wrap:anywhere}
pre{white-space:pre-wrap;font-size:8.5px!important}
"""


def write_pdf(page: Path) -> Path:
    """Write the HTML *page* next to it as a PDF; its path.

    Raises SettingsError when weasyprint or Pango is not installed.
    """
    try:
        from weasyprint import CSS, HTML
    except (ImportError, OSError) as error:  # OSError: weasyprint without Pango
        raise SettingsError(
            f"A PDF needs weasyprint and Pango: {error}. Install the package weasyprint, and Pango as the"
            " system has it (Debian: libpangoft2-1.0-0 libharfbuzz-subset0)."
        ) from error
    path = page.with_suffix(".pdf")
    replace_file(path, lambda target: HTML(filename=page).write_pdf(target, stylesheets=[CSS(string=_PRINT)]))
    return path
