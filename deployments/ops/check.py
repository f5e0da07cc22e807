"""Checking a user's own model, feature function or source against the project's laws."""

from pathlib import Path
from typing import NamedTuple

import tasks.extensions
from tasks.core.about import About, Target
from tasks.core.errors import ParamsError
from tasks.core.extensions import FOLDER, OLD_FOLDER
from tasks.edges.extensions import import_extension
from tasks.edges.params import Section, parse_params, read_document
from tasks.edges.settings import ROOT
from tasks.laws.law import LawVerdict, run_laws


class CheckOptions(NamedTuple):
    """The options of the command line.

    params: of a model, or the options of a source.
    column, columns, lookback_steps: of a feature function; None or empty: as in params.yaml.
    files: paths or globs of a source; empty: as in params.yaml.
    """

    params: Section
    column: str | None = None
    columns: tuple[str, ...] = ()
    lookback_steps: int | None = None
    files: tuple[str, ...] = ()


class CheckReport(NamedTuple):
    """The verdicts on one target. kind: `model`, `feature` or `source`."""

    target: str
    kind: str
    verdicts: list[LawVerdict]

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return all(verdict.passed for verdict in self.verdicts)


def build_check_report(target: str, options: CheckOptions, root: Path = ROOT) -> CheckReport:
    """Check the laws that apply to *target*, `<file>:<name>`.

    Raises ParamsError, or an error of the target's stage, for what cannot be loaded.
    """
    module, name = parse_target(target)
    subject = getattr(import_extension(module, ParamsError), name, None)
    if subject is None:
        raise ParamsError(f"{module}.py has no {name!r}. Correct the name after the colon.")
    if isinstance(subject, type) and callable(getattr(subject, "read", None)):
        return CheckReport(target, "source", _check_source(f"{module}:{name}", options, root))
    if isinstance(subject, type):
        return CheckReport(target, "model", _check_model(f"{module}:{name}", options))
    if callable(subject):
        return CheckReport(target, "feature", _check_feature(f"{module}:{name}", options, root))
    raise ParamsError(
        f"`{target}` is neither a class nor a function, but {type(subject).__name__}. Name a model, a feature"
        " function or a source."
    )


def parse_target(target: str) -> tuple[str, str]:
    """(module, name) of `<file>:<name>`; the file relative to the checkout, tasks or the folder.

    Raises ParamsError for another form, or a file elsewhere.
    """
    file, _, name = target.rpartition(":")
    if not file or not name.isidentifier():
        raise ParamsError(
            f"{target!r} names no class and no function. Write for example {FOLDER}/my_module.py:MyModel."
        )
    path = Path(file)
    if path.is_absolute():
        folders = [Path(folder) for folder in tasks.extensions.__path__]
        folder = next((f for f in (*folders, ROOT / OLD_FOLDER) if path.is_relative_to(f)), None)
        path = path.relative_to(folder) if folder else path
    else:
        for prefix in (FOLDER, FOLDER.removeprefix("tasks/"), OLD_FOLDER):
            if path.is_relative_to(prefix):
                path = path.relative_to(prefix)
                break
    parts = path.with_suffix("").parts if path.suffix == ".py" else path.parts
    if not all(part.replace(".", "").isidentifier() for part in parts):
        raise ParamsError(f"{file} is not in {FOLDER}. Move it there, and name it `{FOLDER}/<file>.py`.")
    return ".".join(parts), name


def _check_model(name: str, options: CheckOptions) -> list[LawVerdict]:
    from tasks.laws.forecasters import FORECASTER_LAWS, ForecasterSubject

    subject = ForecasterSubject(name, options.params)
    subject.build()  # raises for parameters that it does not take
    return run_laws(FORECASTER_LAWS, subject)


def _check_feature(name: str, options: CheckOptions, root: Path) -> list[LawVerdict]:
    from tasks.features import FeatureParams
    from tasks.features.functions import resolve_functions
    from tasks.features.specs import Function
    from tasks.laws.features import FEATURE_LAWS, FeatureSubject

    if options.lookback_steps is None:
        entries = [
            entry
            for _, dataset in _list_datasets(root)
            for entry in (dataset.get("features") or {}).get("list") or []
            if entry.get("of") == name
        ]
        if not entries:
            raise ParamsError(
                f"No dataset in params.yaml has the function {name!r}, so what it reads is unknown. Give"
                " --lookback-steps, and --column or --columns (`z` without them)."
            )
        spec = dict(entries[0])
    else:
        column = options.column or (None if options.columns else "z")
        spec = {"kind": "function", "of": name, "column": column, "columns": options.columns}
        spec["lookback_steps"] = options.lookback_steps
    function = parse_params(Function, spec, "the function")
    folders = (*map(Path, tasks.extensions.__path__), ROOT / OLD_FOLDER)
    params = resolve_functions(FeatureParams(list=(function,)), *folders)
    return run_laws(FEATURE_LAWS, FeatureSubject(params, tolerance_sd=1e-4))


def _check_source(name: str, options: CheckOptions, root: Path) -> list[LawVerdict]:
    from tasks.ingest.params import ExtensionSource
    from tasks.ingest.source import build_source
    from tasks.ingest.wizard.use import list_dataset_files
    from tasks.laws.sources import SOURCE_LAWS, SourceSubject

    about = About(description="check", every="1h", target=Target(column="y", unit="1"), horizon_steps=1)
    if options.files:
        source = {"kind": "extension", "of": name, "files": options.files, "options": options.params}
    else:
        entries = [
            (dataset, entry)
            for dataset, entry in _list_datasets(root)
            if ((entry.get("ingest") or {}).get("source") or {}).get("of") == name
        ]
        if not entries:
            raise ParamsError(
                f"No dataset in params.yaml has the source {name!r}, so its files are unknown. Give --files"
                " PATH, and its options with --params."
            )
        dataset, entry = entries[0]
        about = parse_params(About, entry["about"], f"datasets.{dataset}.about")
        source = entry["ingest"]["source"]
    params = parse_params(ExtensionSource, source, "the source")
    build_source(params, about, root)  # raises for options that it does not take
    files = list_dataset_files(params.files, name, root)
    return run_laws(SOURCE_LAWS, SourceSubject(params, about, tuple(files)))


def _list_datasets(root: Path) -> list[tuple[str, Section]]:
    return list(read_document(root).content["datasets"].items())
