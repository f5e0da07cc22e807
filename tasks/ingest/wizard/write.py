"""Writing the entry into params.yaml, each reason as a comment at the end of its line.

Everything else in the file stays the same, byte for byte.
"""

import io
import re
from pathlib import Path
from typing import Any

import yaml as plain_yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from tasks.core.errors import ParamsError
from tasks.edges.artifacts import write_text
from tasks.edges.params import check_top_level, convert_yaml_errors
from tasks.edges.settings import ROOT
from tasks.ingest.wizard.decide.draft import EntryProposal

_NAME = r"[a-z][a-z0-9_]{0,39}"
# text that needs no quotes; `1e5` would be a number
_PLAIN = r"[A-Za-z][\w /().:-]*[\w)]|[A-Za-z]|[1-9]\d*(mo|[a-df-z])"
_BLOCKS = {
    (),
    ("about",),
    ("about", "target"),
    ("models",),
    ("ingest",),
    ("ingest", "source"),
    ("validate",),
    ("validate", "columns"),
    ("validate", "rows"),
    ("features",),
    ("features", "list"),
    ("train",),
    ("promote",),
    ("retrain",),
}


def check_name(name: str) -> None:
    """Raises ParamsError for a name that DVC, folders or model registries cannot take."""
    if not re.fullmatch(_NAME, name):
        plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")[:30]
        better = plain if re.fullmatch(_NAME, plain) else f"feed_{plain}".rstrip("_")
        raise ParamsError(
            "A dataset's name has lowercase letters, digits and _, starts with a letter and has at most 40"
            f" characters; {name!r} does not. Try `{better}`."
        )


def read_commented_params(root: Path = ROOT) -> Any:
    """params.yaml with its comments, as ruamel.yaml reads it."""
    path = root / "params.yaml"
    if not path.exists():
        raise ParamsError(
            f"{path} is missing. Run from the checkout, or restore the file with `git checkout params.yaml`."
        )
    with convert_yaml_errors(path, YAMLError):
        document = _build_yaml().load(path.read_text())
    check_top_level(document)
    return document


def write_commented_params(document: Any, root: Path = ROOT) -> None:
    """Write params.yaml, by rename."""
    write_text(root / "params.yaml", _render_document(document))


def write_entry(name: str, proposal: EntryProposal, root: Path = ROOT, *, replace: bool = False) -> None:
    """Write the entry under `datasets`.

    Raises ParamsError when the name exists and *replace* is not set.
    """
    check_name(name)
    document = read_commented_params(root)
    if name in document["datasets"] and not replace:
        raise ParamsError(
            f"There is a dataset {name!r} already. Take another name, or overwrite it with `--replace`."
        )
    document["datasets"][name] = build_commented_entry(proposal)
    write_commented_params(document, root)


def remove_entry(name: str, root: Path = ROOT) -> None:
    """Remove the entry of a dataset; every other line stays, comments between entries too.

    Raises ParamsError when the rest would not be the same without it.
    """
    path = root / "params.yaml"
    text = path.read_text()
    content = plain_yaml.safe_load(text)
    first, end = _find_entry_lines(text, name)
    lines = text.splitlines(keepends=True)
    rest = "".join(lines[:first] + lines[end:])
    del content["datasets"][name]
    try:
        is_same = plain_yaml.safe_load(rest) == content
    except plain_yaml.YAMLError:
        is_same = False
    if not is_same:
        raise ParamsError(
            f"{path}: datasets.{name} cannot be removed without changing the rest, which refers to it or"
            " shares its lines. Remove it by hand."
        )
    write_text(path, rest)


def _find_entry_lines(text: str, name: str) -> tuple[int, int]:
    """First line of the entry, and the line after its last; comments before the next stay."""
    top: Any = plain_yaml.compose(text)
    (datasets,) = [value for key, value in top.value if key.value == "datasets"]
    keys = [key for key, _ in datasets.value]
    index = next(i for i, key in enumerate(keys) if key.value == name)
    first, indent = keys[index].start_mark.line, keys[index].start_mark.column
    later = [key.start_mark.line for key in (*keys[index + 1 :], *(key for key, _ in top.value))]
    lines = text.splitlines()
    end = min([line for line in later if line > first], default=len(lines))
    while end > first + 1 and _is_between_entries(lines[end - 1], indent):
        end -= 1
    return first, end


def _is_between_entries(line: str, indent: int) -> bool:
    stripped = line.lstrip()
    return not stripped or (stripped.startswith("#") and len(line) - len(stripped) <= indent)


def render_entry(name: str, proposal: EntryProposal) -> str:
    """The entry as text of params.yaml."""
    return _render_document(CommentedMap({"datasets": CommentedMap({name: build_commented_entry(proposal)})}))


def build_commented_entry(proposal: EntryProposal) -> CommentedMap:
    """The entry as ruamel.yaml writes it, with its reasons as comments."""
    node: CommentedMap = _build_node(proposal.entry, (), proposal.reasons)
    return node


def _build_node(value: Any, path: tuple[str | int, ...], reasons: dict[tuple[str | int, ...], str]) -> Any:
    is_block = path in _BLOCKS
    if isinstance(value, dict):
        node: Any = CommentedMap()
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        node, items = CommentedSeq([None] * len(value)), enumerate(value)
    else:
        return (
            DoubleQuotedScalarString(value)
            if isinstance(value, str) and not re.fullmatch(_PLAIN, value)
            else value
        )
    for key, item in items:
        node[key] = _build_node(item, (*path, key), reasons)
        if is_block and (reason := reasons.get((*path, key))):
            comment = CommentToken(f" # {reason}", CommentMark(0), None)
            node.ca.items[key] = (
                [None, None, comment, None] if isinstance(node, CommentedMap) else [comment, None]
            )
    node.fa.set_block_style() if is_block and value else node.fa.set_flow_style()
    return node


def _build_yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100_000  # a line is never folded: a reason is on the line of its value
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _render_document(document: Any) -> str:
    out = io.StringIO()
    _build_yaml().dump(document, out)
    return out.getvalue()
