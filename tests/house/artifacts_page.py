"""The part of docs/reference/artifacts.md on JSON files, made from tasks/core/reports.

`.venv/bin/python tests/house/artifacts_page.py` writes it; a test compares it.
"""

import importlib
import pkgutil
import re
import sys
import types
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/artifacts.md"
COMMAND = ".venv/bin/python tests/house/artifacts_page.py"
BEGIN, END = f"<!-- from here on by `{COMMAND}` -->", "<!-- up to here -->"
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
NAMES |= {datetime: "time", AwareDatetime: "time"}


def list_files():
    """Every model of a file: the feed's, then the stages' in the order of the data."""
    import tasks.core.reports as package
    from tasks.core.reports.base import StageFile
    from tasks.edges.params import STAGES

    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    ordered = [*sorted(set(modules) - set(STAGES)), *(stage for stage in STAGES if stage in modules)]
    return [
        value
        for name in (f"{package.__name__}.{module}" for module in ordered)
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, StageFile)
        if value.__module__ == name and vars(value).get("PATH")
    ]


def read_field_texts(model):
    """Field -> what the docstrings of *model* and of what it inherits from say of it.

    In them a field is a line `name: text` or `name, name: text` after the summary, and its
    continuation lines.
    """
    texts = {}
    for base in reversed(model.__mro__):
        names = []
        for line in (vars(base).get("__doc__") or "").partition("\n\n")[2].splitlines():
            described = re.match(r"    (\w+(?:, \w+)*): (.+)", line)
            if described:
                names = described[1].split(", ")
                texts |= dict.fromkeys(names, described[2])
            elif line.strip() and names:
                texts |= dict.fromkeys(names, f"{texts[names[0]]} {line.strip()}")
    return texts


def list_rows(model, prefix=""):
    """(key, type, text) of every field, those of nested models after it with a dot."""
    texts = read_field_texts(model)
    for name, field in model.model_fields.items():
        if name != "schema_version":
            yield prefix + name, describe_type(field.annotation), texts.get(name, "")
            inner, suffix = find_nested(field.annotation)
            if inner is not None:
                yield from list_rows(inner, f"{prefix}{name}{suffix}.")


def find_nested(kind, suffix=""):
    """(the model somewhere in the type *kind*, how a key gets there), (None, "") without one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, suffix
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict:
        return find_nested(arguments[1], f"{suffix}.<name>")
    if origin is tuple:
        return find_nested(arguments[0], f"{suffix}[]")
    for argument in arguments if origin in {Union, types.UnionType, Annotated} else ():
        found = find_nested(argument, suffix)
        if found[0] is not None:
            return found
    return None, ""


def describe_type(kind):
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        arguments = arguments[:1]
    if origin in {Annotated, Union, types.UnionType}:
        return " or ".join(dict.fromkeys(map(describe_type, arguments)))
    if origin is tuple:
        parts = [describe_type(argument) for argument in arguments if argument is not ...]
        return f"list of {' and '.join(dict.fromkeys(parts))}"
    if origin is dict:
        several = len(get_args(arguments[1])) > 2
        return f"{'value' if several else describe_type(arguments[1])} by name"
    return NAMES.get(kind, "object" if isinstance(kind, type) and kind is not object else "any")


def render_file(model):
    summary = model.__doc__.strip().splitlines()[0]
    root = model.model_fields.get("root")
    if root is None:
        rows = list(list_rows(model))
    else:
        inner, suffix = find_nested(root.annotation)
        rows = list(list_rows(inner, f"{suffix.lstrip('.')}."))
    lines = [f"### `{model.PATH}`", "", summary, "", "| key | type | holds |", "|---|---|---|"]
    for (kind, text), same in groupby(rows, key=lambda row: row[1:]):
        keys = ", ".join(f"`{key}`" for key, *_ in same)
        lines.append(f"| {keys} | {kind} | {text} |".replace("|  |", "| |"))
    return "\n".join(lines)


def render_section():
    files = "\n\n".join(map(render_file, list_files()))
    return f"{BEGIN}\n\n{files}\n\n{END}"


def render_page():
    """The page with this part of it made again."""
    part = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    return re.sub(part, lambda _: render_section(), PAGE.read_text(), flags=re.DOTALL)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(render_page())
