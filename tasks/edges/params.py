"""params.yaml, read in one place. A stage gets a frozen, typed object that refuses unknown keys.

A stage's parameters are its section (defaults for every dataset) overlaid with the same section of
the current dataset's entry. A command reads the file once (`read_document`) and asks the document;
the other `read_...` are for code that needs one value.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.core.about import About, Bounds
from tasks.core.errors import ParamsError
from tasks.edges.settings import ROOT

Section = dict[str, Any]  # a part of params.yaml that nothing has checked yet
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


_OPTIONAL = ("feed", "rollout", "service", "service_levels", "alerts")  # sections that may be absent
ENTRY_KEYS = ("about", "models", *_OPTIONAL, *STAGES)  # of a dataset's entry
TOP_LEVEL_KEYS = ("dataset", "datasets", "models", *_OPTIONAL, *STAGES)

_RESTORE = "Correct it, or restore the file with `git checkout params.yaml`."
_TOP_LEVEL = (
    ("dataset", str, "the name of a dataset"),
    ("datasets", Mapping, "a mapping of names to entries"),
)


@dataclass(frozen=True)
class ParamsDocument:
    """params.yaml as one command saw it. content: the whole file as plain data.

    Every question raises ParamsError that names the key, the value and the file.
    """

    content: Section

    @cached_property
    def dataset(self) -> str:
        """Name of the current dataset."""
        name: str = self.content["dataset"]
        if name not in self.content["datasets"]:
            raise ParamsError(
                f"`dataset: {name}` has no entry under `datasets`; there are"
                f" {sorted(self.content['datasets'])}. `tidemill use NAME` sets it."
            )
        return name

    def select_dataset(self, name: str) -> "ParamsDocument":
        """The same file as if *name* were the current dataset."""
        models = list(self.get_entry(name).get("models") or ())
        return ParamsDocument({**self.content, "dataset": name, "models": models})

    @cached_property
    def about(self) -> About:
        """What the current dataset is."""
        return parse_about(self._entry["about"], f"datasets.{self.dataset}.about")

    @cached_property
    def bounded_about(self) -> About:
        """`about` with the bounds of the target's column in the contract."""
        about = self.about
        rule = (self._merge_section("validate").get("columns") or {}).get(about.target.column) or {}
        kept = {key: rule[key] for key in Bounds.model_fields if rule.get(key) is not None}
        if about.target.derive is not None or not kept:
            return about
        bounds = parse_params(Bounds, kept, f"datasets.{self.dataset}.validate")
        return about.model_copy(update={"target": about.target.model_copy(update={"bounds": bounds})})

    def list_models(self) -> tuple[str, ...]:
        """The models of this checkout: the top-level `models`.

        They must be those of the current dataset's entry.
        """
        listed, entry = self.content.get("models"), list(self._entry["models"])
        if listed != entry:
            raise ParamsError(
                f"`models` is {listed}, but dataset {self.dataset!r} has {entry}. Run `tidemill use"
                f" {self.dataset}`, which writes the list."
            )
        return tuple(entry)

    @property
    def gate_steps(self) -> int:
        """`promote.gate_steps`: steps at the end that nothing of a challenger may see.

        Neither fits nor weights nor conformal state.
        """
        return int(self._merge_section("promote")["gate_steps"])

    def get_model_params(self, model: str) -> Section:
        """Parameters of one model for the current dataset."""
        return dict(self._entry["models"].get(model) or {})

    def list_parameters(self) -> dict[str, Section]:
        """Parameters of each model, and of the ensemble."""
        of_models = {model: self.get_model_params(model) for model in self.list_models()}
        return {**of_models, "ensemble": self._merge_section("ensemble")}

    def list_quantile_models(self) -> dict[str, float]:
        """By model that forecasts a quantile which; such a model has no part in the point."""
        params = {model: self.get_model_params(model) for model in self.list_models()}
        return {m: float(of["quantile"]) for m, of in params.items() if of.get("quantile") is not None}

    def get_entry(self, name: str) -> Section:
        """The entry of a dataset that need not be the current one."""
        known = self.content["datasets"]
        if name not in known:
            raise ParamsError(
                f"There is no dataset {name!r}, but {', '.join(known)}. `tidemill new NAME --csv FILE` makes"
                " one."
            )
        return dict(known[name])

    def find_section(self, name: str) -> Section | None:
        """A section that a dataset's entry need not have (`feed`); None when the entry has none.

        It overlays the section of the same name for all datasets.
        """
        return None if self._entry.get(name) is None else self._merge_section(name)

    def parse_stage(self, stage: str, kind: type[P]) -> P:
        """Parameters of *stage* for the current dataset."""
        return parse_params(
            kind, self._merge_section(stage), f"{stage} (with datasets.{self.dataset}.{stage})"
        )

    @cached_property
    def _entry(self) -> Section:
        entry: Section = self.content["datasets"][self.dataset]
        if missing := [key for key in ("about", "models", *STAGES) if key not in entry]:
            raise ParamsError(
                f"datasets.{self.dataset} has no section {missing}; a section may be empty (`{{}}`), but DVC"
                " stops where it is absent."
            )
        where = f"datasets.{self.dataset}"
        check_keys(entry, ENTRY_KEYS, where)
        if wrong := [key for key, part in entry.items() if not isinstance(part, Mapping | None)]:
            raise ParamsError(
                f"params.yaml: `{where}.{wrong[0]}` is {entry[wrong[0]]!r:.60}, not a mapping of keys."
            )
        return entry

    def _merge_section(self, name: str) -> Section:
        return {**(self.content.get(name) or {}), **(self._entry.get(name) or {})}


def read_document(root: Path = ROOT) -> ParamsDocument:
    """The params.yaml of the checkout *root*. Raises ParamsError when it is not there."""
    path = root / "params.yaml"
    if not path.exists():
        raise ParamsError(
            f"{path} is missing. Run from the checkout, or restore the file with `git checkout params.yaml`."
        )
    with convert_yaml_errors(path, yaml.YAMLError):
        # libyaml: a tenth of the time
        content = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    check_top_level(content)
    return ParamsDocument(content)


@contextmanager
def convert_yaml_errors(path: Path, kind: type[Exception]) -> Iterator[None]:
    """Raise ParamsError that names the line for an error of a YAML library."""
    try:
        yield
    except kind as error:
        place = getattr(error, "problem_mark", None)
        where = "" if place is None else f", line {place.line + 1}, column {place.column + 1}"
        fact = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ParamsError(
            f"{path}{where} is no YAML: {fact}. Correct the line; text with `: `, `#`, `[` or `{{` needs"
            " quotes."
        ) from error


def check_keys(section: Section, known: Collection[str], where: str) -> None:
    """Raise ParamsError for a key of *section* that is not *known*, with the nearest one."""
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(known)}."
            raise ParamsError(f"params.yaml: {where} has the key `{key}`, which nothing reads. {hint}")


def check_top_level(content: object) -> None:
    """Raise ParamsError unless *content* has `dataset`, `models` and an entry for each dataset."""
    if not isinstance(content, Mapping):
        raise ParamsError(f"params.yaml is {type(content).__name__}, not a mapping of sections. {_RESTORE}")
    for key, kind, form in _TOP_LEVEL:
        if not isinstance(content.get(key), kind):
            raise ParamsError(f"params.yaml: `{key}` is {content.get(key)!r:.60}, not {form}. {_RESTORE}")
    if wrong := [name for name, entry in content["datasets"].items() if not isinstance(entry, Mapping)]:
        raise ParamsError(f"params.yaml: `datasets.{wrong[0]}` is no mapping of sections. {_RESTORE}")


def read_dataset(root: Path = ROOT) -> str:
    """See ParamsDocument.dataset."""
    return read_document(root).dataset


def read_about(root: Path = ROOT) -> About:
    """See ParamsDocument.about."""
    return read_document(root).about


def read_models(root: Path = ROOT) -> tuple[str, ...]:
    """See ParamsDocument.list_models."""
    return read_document(root).list_models()


def read_params(stage: str, kind: type[P], root: Path = ROOT) -> P:
    """See ParamsDocument.parse_stage."""
    return read_document(root).parse_stage(stage, kind)


def read_section(name: str, root: Path = ROOT) -> Section | None:
    """See ParamsDocument.find_section."""
    return read_document(root).find_section(name)


def parse_about(content: Section, where: str) -> About:
    """*content* as `about`, checked by the kind of its target.

    Raises ParamsError that names each fault and *where* it is.
    """
    from tasks.core.kinds import get_kind  # numpy, which a command with nothing to do must not pay

    about = parse_params(About, content, where)
    try:
        get_kind(about.target).check(about)
    except ParamsError as error:
        raise ParamsError(f"params.yaml, {where}: {error}") from error
    return about


def parse_params(kind: type[P], content: Section, where: str) -> P:
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
