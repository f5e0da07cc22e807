"""params.yaml, read in one place. A stage gets a frozen, typed object that refuses unknown keys.

A stage's parameters are its section (defaults for every dataset) overlaid with the same section of
the current dataset's entry.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.core.about import About
from tasks.core.errors import ParamsError
from tasks.edges.settings import ROOT

P = TypeVar("P", bound=BaseModel)  # the syntax `def f[P]` needs 3.12

STAGES = (
    "ingest",
    "validate",
    "features",
    "train",
    "ensemble",
    "explain",
    "quantize",
    "package",
    "promote",
    "monitor",
    "retrain",
)


def read_document(root: Path = ROOT) -> dict[str, Any]:
    """The whole of params.yaml as plain data."""
    path = root / "params.yaml"
    if not path.exists():
        raise ParamsError(
            f"{path} is missing. Run from the checkout, or restore the file with `git checkout params.yaml`."
        )
    # libyaml: a tenth of the time
    document: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return document


def read_dataset(root: Path = ROOT) -> str:
    """Name of the current dataset. Raises ParamsError with the known names when it has no entry."""
    document = read_document(root)
    name = document["dataset"]
    if name not in document["datasets"]:
        raise ParamsError(
            f"`dataset: {name}` has no entry under `datasets`; there are {sorted(document['datasets'])}."
            " `tidemill use NAME` sets it."
        )
    return name


def read_about(root: Path = ROOT) -> About:
    """What the current dataset is."""
    return parse_params(About, _read_current_entry(root)["about"], f"datasets.{read_dataset(root)}.about")


def read_models(root: Path = ROOT) -> tuple[str, ...]:
    """The models of this checkout: the top-level `models`.

    Raises ParamsError when they are not those of the current dataset's entry.
    """
    listed, entry = read_document(root)["models"], list(_read_current_entry(root)["models"])
    if listed != entry:
        raise ParamsError(
            f"`models` is {listed}, but dataset {read_dataset(root)!r} has {entry}. Run `tidemill use"
            f" {read_dataset(root)}`, which writes the list."
        )
    return tuple(listed)


def read_model_params(model: str, root: Path = ROOT) -> dict[str, Any]:
    """Parameters of one model for the current dataset."""
    return dict(_read_current_entry(root)["models"].get(model) or {})


def read_params(stage: str, kind: type[P], root: Path = ROOT) -> P:
    """Parameters of *stage* for the current dataset.

    Raises ParamsError that names the key, the value and the file.
    """
    document = read_document(root)
    merged = {**(document.get(stage) or {}), **(_read_current_entry(root).get(stage) or {})}
    return parse_params(kind, merged, f"{stage} (with datasets.{read_dataset(root)}.{stage})")


def read_section(name: str, root: Path = ROOT) -> dict[str, Any] | None:
    """A section that a dataset's entry need not have (`feed`); None when the entry has none.

    It overlays the section of the same name for all datasets.
    """
    section = _read_current_entry(root).get(name)
    return None if section is None else {**(read_document(root).get(name) or {}), **section}


def read_entry(name: str, root: Path = ROOT) -> dict[str, Any]:
    """The entry of a dataset that need not be the current one.

    Raises ParamsError with the known names.
    """
    entries = read_document(root)["datasets"]
    if name not in entries:
        raise ParamsError(
            f"There is no dataset {name!r}, but {', '.join(entries)}. `tidemill new NAME --csv FILE` makes"
            " one."
        )
    return dict(entries[name])


def read_gate_steps(root: Path = ROOT) -> int:
    """`promote.gate_steps`: steps at the end that nothing of a challenger may see.

    Neither fits nor weights nor conformal state.
    """
    document = read_document(root)
    return int({**document["promote"], **(_read_current_entry(root)["promote"] or {})}["gate_steps"])


def _read_current_entry(root: Path) -> dict[str, Any]:
    entry: dict[str, Any] = read_document(root)["datasets"][read_dataset(root)]
    if missing := [key for key in ("about", "models", *STAGES) if key not in entry]:
        raise ParamsError(
            f"datasets.{read_dataset(root)} has no section {missing}; a section may be empty (`{{}}`), but"
            " DVC stops where it is absent."
        )
    return entry


def parse_params(kind: type[P], content: dict[str, Any], where: str) -> P:
    """*content* as *kind*.

    Raises ParamsError that names each fault, *where* it is and what was found.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'section'}: {e['msg']} (found {str(e.get('input'))[:60]!r})"
            for e in error.errors()
        )
        raise ParamsError(f"params.yaml, {where}: {faults}.") from error
