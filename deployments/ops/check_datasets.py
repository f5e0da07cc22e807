"""Checking the datasets of params.yaml, before anything runs: parameters, models and files."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

import tasks.extensions
from tasks.alerts.params import AlertParams
from tasks.core.calendar import build_calendar, parse_step_length
from tasks.core.errors import ParamsError, TidemillError
from tasks.core.extensions import OLD_FOLDER
from tasks.core.objectives import ServiceTargets
from tasks.core.rollout import RolloutParams
from tasks.core.service_rules import ServiceRules
from tasks.edges.params import (
    STAGES,
    TOP_LEVEL_KEYS,
    ParamsDocument,
    check_keys,
    convert_yaml_errors,
    parse_params,
    read_document,
)
from tasks.edges.settings import ROOT
from tasks.ensemble.params import EnsembleParams
from tasks.explain.params import ExplainParams
from tasks.features import FeatureParams
from tasks.ingest.params import IngestParams
from tasks.monitor.params import MonitorParams
from tasks.package.params import PackageParams
from tasks.promote.params import PromoteParams
from tasks.quantize.params import QuantizeParams
from tasks.retrain.params import RetrainParams
from tasks.train.params import TrainParams
from tasks.validate.params import ValidateParams

_PARAMS: tuple[type[BaseModel], ...] = (
    IngestParams,
    ValidateParams,
    FeatureParams,
    TrainParams,
    EnsembleParams,
    ExplainParams,
    QuantizeParams,
    PackageParams,
    PromoteParams,
    MonitorParams,
    RetrainParams,
)
_DAY = datetime(2024, 1, 2, tzinfo=UTC)  # any: does the calendar exist, and is the step one
STAGE_PARAMS = dict(zip(STAGES, _PARAMS, strict=True))
_OPTIONAL_PARAMS = {
    "rollout": RolloutParams,
    "service": ServiceRules,
    "service_levels": ServiceTargets,
    "alerts": AlertParams,
}


class DatasetCheck(NamedTuple):
    """What is wrong with one dataset's entry; no faults when it can run.

    current: `dataset` names it.
    """

    dataset: str
    current: bool
    faults: list[str]


def check_datasets(root: Path = ROOT) -> list[DatasetCheck]:
    """Check every dataset of params.yaml. Raises ParamsError when the file cannot be read."""
    document = _read_document(root)
    check_keys(document.content, TOP_LEVEL_KEYS, "the file")
    return [check_dataset(document, name, root) for name in document.content["datasets"]]


def check_dataset(document: ParamsDocument, name: str, root: Path = ROOT) -> DatasetCheck:
    """Check one dataset: each section, each model on the features, and the files."""
    current = document.content["dataset"] == name
    if fault := _find_fault(lambda: document.select_dataset(name).list_models()):
        return DatasetCheck(name, current, [fault])
    selected = document.select_dataset(name)
    faults = [*_list_section_faults(selected), *_list_file_faults(selected, root)]
    if current:  # the list at the top of the file, which DVC reads
        faults += filter(None, [_find_fault(document.list_models)])
    return DatasetCheck(name, current, faults or list(_list_model_faults(selected, root)))


def check_current_dataset(root: Path = ROOT) -> None:
    """Raise ParamsError with every fault of the current dataset."""
    document = _read_document(root)
    if faults := check_dataset(document, document.dataset, root).faults:
        raise ParamsError(
            f"{document.dataset!r} cannot run: {' '.join(faults)} `tidemill check` checks it again."
        )


def _read_document(root: Path) -> ParamsDocument:
    """params.yaml as we and DVC read it: DVC's parser refuses some values that ours takes."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    document, path = read_document(root), root / "params.yaml"
    with convert_yaml_errors(path, YAMLError):
        YAML(typ="safe").load(path.read_text())
    return document


def _find_fault(check: Callable[[], object]) -> str | None:
    try:
        check()
    except TidemillError as error:
        return str(error)
    return None


def _list_section_faults(document: ParamsDocument) -> Iterator[str]:
    checks: list[Callable[[], object]] = [
        lambda: document.about,
        lambda: parse_step_length(document.about.every),
        lambda: build_calendar(document.about, reach=(_DAY, _DAY)),
    ]
    checks += [
        lambda stage=stage, kind=kind: document.parse_stage(stage, kind)  # type: ignore[misc]
        for stage, kind in (STAGE_PARAMS | _OPTIONAL_PARAMS).items()
    ]
    section = document.find_section("feed")
    if section is not None:
        from tasks.feed.params import FeedParams

        where = f"feed (with datasets.{document.dataset}.feed)"
        checks.append(lambda: parse_params(FeedParams, section, where))
    yield from dict.fromkeys(filter(None, map(_find_fault, checks)))  # a bad `about` three times


def _list_file_faults(document: ParamsDocument, root: Path) -> Iterator[str]:
    """Files that `tidemill use` links; other sources have none."""
    from tasks.ingest.wizard.use import list_dataset_files

    source = (document.content["datasets"][document.dataset].get("ingest") or {}).get("source") or {}
    if isinstance(source, dict) and source.get("kind") in {"files", "extension"}:
        fault = _find_fault(lambda: list_dataset_files(source.get("files") or (), document.dataset, root))
        yield from filter(None, [fault])


def _list_model_faults(document: ParamsDocument, root: Path) -> Iterator[str]:
    """What each model says to its parameters and to the declared features; nothing is fitted."""
    from tasks.features import build_feature_schema
    from tasks.features.functions import resolve_functions
    from tasks.forecasters import build_forecaster
    from tasks.train.params import split_model_params

    about, params = document.about, document.parse_stage("features", FeatureParams)
    try:
        resolved = resolve_functions(params, *map(Path, tasks.extensions.__path__), root / OLD_FOLDER)
        schema = build_feature_schema(about, resolved)
    except TidemillError as error:
        yield str(error)
        return
    for model in document.list_models():
        try:
            training, model_params = split_model_params(model, document.get_model_params(model))
            build_forecaster(training.forecaster or model, schema, 1, model_params)
        except TidemillError as error:
            yield f"models.{model}: {error}"
