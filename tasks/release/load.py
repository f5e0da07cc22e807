"""From a folder to something that answers.

The ensemble stage writes an unsealed release; rows and a manifest make it a release.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import ParamsError, ReleaseError, TidemillError
from tasks.core.frames import HISTORY, SERIES, UTC, FrameSchema
from tasks.core.kinds import get_kind
from tasks.core.kinds.base import Kind
from tasks.core.schema import FeatureSchema
from tasks.edges.release_files import MANIFEST
from tasks.features import FeatureParams, build_feature_schema
from tasks.release.combine import Combination, find_combination_fault, list_member_columns
from tasks.release.manifest import (
    GRAPH,
    MEMBERS,
    EnsembleSpec,
    Manifest,
    check_manifest,
    get_member_output,
    read_manifest,
    read_strict,
)


@dataclass(frozen=True, eq=False)
class Release:
    """A loaded release, sealed or not.

    members: one onnxruntime session for each member with a graph of its own, single-threaded, so
      that the same rows give the same bits on the same machine.
    graph: the session of the one graph; None where there is none.
    rows: the tail that travels with it; empty for an unsealed one.
    manifest: None for an unsealed one.
    """

    folder: Path
    dataset: Dataset
    features: FeatureParams
    ensemble: EnsembleSpec
    members: dict[str, Any]
    history: pl.DataFrame
    rows: pl.DataFrame
    manifest: Manifest | None
    graph: Any = None

    @cached_property
    def graph_outputs(self) -> frozenset[str]:
        """What the one graph gives (tasks.release.outputs)."""
        return frozenset() if self.graph is None else frozenset(o.name for o in self.graph.get_outputs())

    @property
    def about(self) -> About:
        """What the dataset is."""
        return self.dataset.about

    @property
    def calendar(self) -> Calendar:
        """The grid, with the sessions that travel with the release."""
        return self.dataset.calendar

    @property
    def schema(self) -> FeatureSchema:
        """The features that the members see."""
        return self.dataset.schema

    @property
    def kind(self) -> Kind:
        """The kind of the target."""
        return self.dataset.kind

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each member; its share where they are combined otherwise."""
        return self.ensemble.weights

    @cached_property
    def combination(self) -> Combination:
        """How members become one forecast."""
        return self.ensemble.get_combination()

    @property
    def model(self) -> str:
        """The name shown in forecasts."""
        return self.ensemble.model

    @property
    def seen_until(self) -> datetime:
        """Nothing known later went into fits, weights or quantile history."""
        return self.ensemble.seen_until

    @cached_property
    def series_ids(self) -> tuple[str, ...]:
        """Series whose errors the quantiles learned from, sorted."""
        return tuple(self.history["series_id"].unique().sort())

    @cached_property
    def cache(self) -> dict[str, Any]:
        """Room for what follows from the release alone and is computed once."""
        return {}


def load_release(folder: Path) -> Release:
    """Verify, then open. Raises ReleaseError that names the missing, altered or added file."""
    check_manifest(folder)
    return load_unsealed_release(folder)


def load_unsealed_release(folder: Path) -> Release:
    """Open a release, sealed or not, without checking digests.

    Raises ReleaseError when a file is missing or unreadable, a weight has no member, or the feature
    code here no longer computes what the release was trained on (its schema hash differs).
    """
    about = read_strict(folder / "about.json", About)
    _check_about(folder, about)
    features = read_strict(folder / "features.json", FeatureParams)
    schema = read_strict(folder / "schema.json", FeatureSchema)
    ensemble = read_strict(folder / "ensemble.json", EnsembleSpec)
    _check_schema(folder, about, features, schema)
    history = _read_checked_frame(folder / "history.parquet", HISTORY)
    _check_combination(folder, ensemble, schema, history)
    graph = _load_session(folder / GRAPH) if (folder / GRAPH).exists() else None
    in_graph = set() if graph is None else {output.name for output in graph.get_outputs()}
    return Release(
        folder,
        Dataset(about, _build_release_calendar(folder, about), schema),
        features,
        ensemble,
        members={
            name: _load_session(folder / MEMBERS / f"{name}.onnx")
            for name in ensemble.members
            if get_member_output(name) not in in_graph
        },
        history=history,
        rows=_read_checked_frame(folder / "rows.parquet", SERIES)
        if (folder / "rows.parquet").exists()
        else pl.DataFrame(schema=SERIES.columns),
        manifest=read_manifest(folder) if (folder / MANIFEST).exists() else None,
        graph=graph,
    )


def _check_about(folder: Path, about: About) -> None:
    try:
        get_kind(about.target).check(about)
    except ParamsError as error:
        raise ReleaseError(f"{folder}: about.json: {error}") from error


def _check_schema(folder: Path, about: About, features: FeatureParams, sealed: FeatureSchema) -> None:
    here = build_feature_schema(about, features)
    if here.hash != sealed.hash:
        differing = sorted(set(here.names) ^ set(sealed.names)) or [
            a.name for a, b in zip(here.columns, sealed.columns, strict=True) if a != b
        ]
        raise ReleaseError(
            f"{folder}: this code computes other features than the release was trained on (schema"
            f" {here.hash[:12]}, release {sealed.hash[:12]}; differing: {differing[:5]}). A feature's name"
            " fixes its computation: give the changed one a new name, or use the code in the release's"
            " provenance.json."
        )


def _check_combination(
    folder: Path, ensemble: EnsembleSpec, schema: FeatureSchema, history: pl.DataFrame
) -> None:
    combination = ensemble.get_combination()
    if sorted(combination.members) != sorted(ensemble.weights):
        fact, rule = f"combines {sorted(combination.members)}", f"its weights name {sorted(ensemble.weights)}"
    elif fault := find_combination_fault(combination, schema):
        fact, rule = fault
    elif history.height and (missing := sorted(set(list_member_columns(combination)) - set(history.columns))):
        fact, rule = (
            f"history.parquet has no column {missing[0]!r}",
            "weights that move need the forecast of each member",
        )
    else:
        return
    raise ReleaseError(
        f"{folder}: ensemble.json cannot combine its members: {fact}, and {rule}. Build it again with `dvc"
        " repro ensemble`."
    )


def _build_release_calendar(folder: Path, about: About) -> Calendar:
    if not about.calendar.startswith("exchange:"):
        return build_calendar(about)
    path = folder / "sessions.parquet"
    if not path.exists():
        raise ReleaseError(
            f"{folder}: sessions.parquet is missing, and `about.calendar` is {about.calendar!r}. Build the"
            " release again with `dvc repro package`."
        )
    return build_calendar(about, sessions=_read_checked_frame(path, _SESSIONS)["event_time"])


_SESSIONS = FrameSchema("sessions", {"event_time": UTC}, ("event_time",))


def _read_checked_frame(path: Path, schema: FrameSchema) -> pl.DataFrame:
    if not path.exists():
        raise ReleaseError(
            f"{path} is missing. `dvc repro ensemble` builds an unsealed one, `dvc repro package` seals it."
        )
    try:
        return schema.check(pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError, TidemillError) as error:
        raise ReleaseError(
            f"{path} cannot be read: {error}. It was altered, or written by another version; build it again."
        ) from error


def _load_session(path: Path) -> Any:
    if not path.exists():
        raise ReleaseError(
            f"{path} is missing, but ensemble.json gives it a weight. Build the release again with `dvc repro"
            " package`."
        )
    return load_graph(path.read_bytes(), str(path))


def load_graph(content: bytes, source: str) -> Any:
    """A session of the graph *content*, single-threaded; source: for errors.

    Raises ReleaseError when onnxruntime cannot load it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own C++ binding, without a common base
        raise ReleaseError(
            f"{source} is no graph that onnxruntime can load: {error}. Build the release again."
        ) from error
