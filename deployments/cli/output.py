"""Print a command's result on stdout, as JSON with `--json`."""

import json
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def report_json(content: object) -> None:
    """Print *content*: plain data, or a model."""
    dump = getattr(content, "model_dump", None)  # without an import of pydantic: `--help` stays fast
    print(json.dumps(content if dump is None else dump(mode="json"), indent=2, default=str))
