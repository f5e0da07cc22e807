"""From a folder to something that answers.

A body is what the ensemble stage writes; a release is a body with rows and a manifest.
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
from tasks.features import FeatureParams, build_feature_schema
from tasks.release.combine import Combination, find_combination_fault, list_member_columns
from tasks.release.manifest import (
    MANIFEST,
    MEMBERS,
    EnsembleSpec,
    Manifest,
    check_manifest,
    read_manifest,
    read_strict,
)


@dataclass(frozen=True, eq=False)
class Release:
    """A loaded release or body. rows: the tail that travels with it, empty for a body. manifest:
    None for a body.

    members: one onnxruntime session for each weight, single-threaded, so that the same rows give
    the same bits on the same machine.
    """

    folder: Path
    dataset: Dataset
    features: FeatureParams
    blend: EnsembleSpec
    members: dict[str, Any]
    history: pl.DataFrame
    rows: pl.DataFrame
    manifest: Manifest | None

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
        return self.blend.weights

    @cached_property
    def how(self) -> Combination:
        """How members become one forecast."""
        return self.blend.how

    @property
    def model(self) -> str:
        """The name shown in forecasts."""
        return self.blend.model

    @property
    def seen_until(self) -> datetime:
        """Nothing known later went into fits, weights or quantile history."""
        return self.blend.seen_until

    @cached_property
    def series_ids(self) -> tuple[str, ...]:
        """Series whose errors the quantiles learned from, sorted."""
        return tuple(self.history["series_id"].unique().sort())

    @cached_property
    def kept(self) -> dict[str, Any]:
        """Room for what follows from the release alone and is computed once
        (tasks.release.predict).
        """
        return {}


def load_release(folder: Path) -> Release:
    """Verify, then open. Raises ReleaseError that names the missing, altered or added file."""
    check_manifest(folder)
    return load_unsealed_release(folder)


def load_unsealed_release(folder: Path) -> Release:
    """Open a body or a release without checking digests.

    Raises ReleaseError when a file is missing or unreadable, a weight has no member, or the feature
    code here no longer computes what the release was trained on (its schema hash differs).
    """
    about = read_strict(folder / "about.json", About)
    _check_about(folder, about)
    features = read_strict(folder / "features.json", FeatureParams)
    schema = read_strict(folder / "schema.json", FeatureSchema)
    blend = read_strict(folder / "ensemble.json", EnsembleSpec)
    _check_schema(folder, about, features, schema)
    history = _read_checked_frame(folder / "history.parquet", HISTORY)
    _check_combination(folder, blend, schema, history)
    return Release(
        folder,
        Dataset(about, _build_release_calendar(folder, about), schema),
        features,
        blend,
        members={name: _load_session(folder / MEMBERS / f"{name}.onnx") for name in blend.members},
        history=history,
        rows=_read_checked_frame(folder / "rows.parquet", SERIES)
        if (folder / "rows.parquet").exists()
        else pl.DataFrame(schema=SERIES.columns),
        manifest=read_manifest(folder) if (folder / MANIFEST).exists() else None,
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
    folder: Path, blend: EnsembleSpec, schema: FeatureSchema, history: pl.DataFrame
) -> None:
    if sorted(blend.how.members) != sorted(blend.weights):
        fact, rule = f"combines {sorted(blend.how.members)}", f"its weights name {sorted(blend.weights)}"
    elif fault := find_combination_fault(blend.how, schema):
        fact, rule = fault
    elif history.height and (missing := sorted(set(list_member_columns(blend.how)) - set(history.columns))):
        fact, rule = (
            f"history.parquet has no column {missing[0]!r}",
            "weights that move follow what each member said",
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
            f"{path} is missing. A release is built by `dvc repro package`, a body by `dvc repro ensemble`."
        )
    try:
        return schema.check(pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError, TidemillError) as error:
        raise ReleaseError(
            f"{path} cannot be read: {error}. It was altered, or written by another version; build it again."
        ) from error


def _load_session(path: Path) -> Any:
    import onnxruntime as ort

    if not path.exists():
        raise ReleaseError(
            f"{path} is missing, but ensemble.json gives it a weight. Build the release again with `dvc repro"
            " package`."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own C++ binding, without a common base
        raise ReleaseError(
            f"{path} is no graph that onnxruntime can load: {error}. Build the release again."
        ) from error
