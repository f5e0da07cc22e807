"""What a command prints: its result on stdout, as JSON where that is asked for."""

import json
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def report_json(content: object) -> None:
    """Print *content*: plain data, or a model."""
    dump = getattr(content, "model_dump", None)  # pydantic: a `--help` need not pay for it
    print(json.dumps(content if dump is None else dump(mode="json"), indent=2, default=str))
