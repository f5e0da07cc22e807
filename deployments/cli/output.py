"""What every command prints: results on stdout, as JSON with `--json`; progress on stderr."""

import json
import sys
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def report_json(content: object) -> None:
    """Print *content*: plain data, or a model."""
    dump = getattr(content, "model_dump", None)  # without an import of pydantic: `--help` stays fast
    print(json.dumps(content if dump is None else dump(mode="json"), indent=2, default=str))


def report_progress(line: str) -> None:
    """Print a line of progress, unless `--log-level` leaves it out."""
    from tasks.edges.settings import read_settings  # pydantic: `--help` stays fast

    if read_settings().log_level in {"debug", "info"}:
        print(line, file=sys.stderr, flush=True)
