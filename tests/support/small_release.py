"""A small release made by hand: two or three daily series with a week's season, linear members,
sealed in a second.

`build_small_release(folder)` is enough for most tests; `small_rows` gives all rows, those after its
`seen_until` included.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto, helper, numpy_helper

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.frames import HISTORY, SERIES
from tasks.core.panel import Panel, build_panel
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.release import Manifest, load_unsealed_release, predict_ensemble, write_manifest
from tasks.release.combine import compute_regime, list_member_columns
from tasks.release.outputs import predict_quantile_bases

START = datetime(2020, 1, 1, tzinfo=UTC)
SMALL_ABOUT = {
    "description": "Daily loads of a few meters, made up. Holidays are not in it.",
    "every": "1d",
    "calendar": "continuous",
    "target": {"column": "load", "unit": "kWh per day", "transform": "log"},
    "horizon_steps": 5,
    "season_steps": 7,
    "primary_score": "rmse",
    "quantiles": [0.1, 0.5, 0.9],
}
SMALL_FEATURES = {
    "list": [
        {"kind": "lag", "column": "z", "steps": [1, 2, 3, 4, 5, 6, 7]},
        {"kind": "mean", "column": "z", "window_steps": [7, 14]},
        {"kind": "std", "column": "z", "window_steps": [14]},
        {"kind": "calendar", "parts": ["weekday"]},
    ],
    "last_within_steps": 3,
}
MEMBERS = ("last_value", "window_mean", "seasonal_naive", "ridge")


def small_about(**changes) -> About:
    return About.model_validate({**SMALL_ABOUT, **changes})


def small_features(**changes) -> FeatureParams:
    return FeatureParams.model_validate({**SMALL_FEATURES, **changes})


def small_rows(n_steps=400, series_ids=("north", "south"), seed=0, noise=0.1) -> pl.DataFrame:
    """SERIES with the column `load`, one row a day from START on, known when the day is over."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, name in enumerate(series_ids):
        level = np.zeros(n_steps)
        for t in range(1, n_steps):
            level[t] = 0.9 * level[t - 1] + rng.normal(0, noise)
        day = np.arange(n_steps)
        load = 100 * (i + 1) * np.exp(level + 0.3 * np.sin(2 * np.pi * day / 7))
        times = [START + timedelta(days=int(d)) for d in day]
        parts.append(
            pl.DataFrame(
                {
                    "series_id": name,
                    "event_time": times,
                    "known_at": [t + timedelta(days=1) for t in times],
                    "load": load,
                }
            )
        )
    return SERIES.conform(pl.concat(parts))


def cutoff_at(day: int) -> datetime:
    """The cutoff whose origin is the step *day* after START: that day's end."""
    return START + timedelta(days=day + 1)


def build_small_release(folder: Path, rows=None, gate_steps=60, rows_steps=None, **body) -> Manifest:
    """A sealed release.

    The newest *gate_steps* steps of *rows* are after its `seen_until`; rows_steps: length of the
    tail it carries (None: all).
    """
    rows = small_rows() if rows is None else rows
    build_small_body(folder, rows, gate_steps, **body)
    first = (
        rows["event_time"].min()
        if rows_steps is None
        else rows["event_time"].max() - timedelta(days=rows_steps - 1)
    )
    rows.filter(pl.col("event_time") >= first).write_parquet(folder / "rows.parquet")
    return write_manifest(folder)


def build_biased_release(folder: Path, rows=None, bias=1.0, **body) -> Manifest:
    """A release whose members have had a constant bias in z since the errors were kept by which it
    would correct one: what it answers is wrong, and nothing else is."""
    body = {"weights": {"last_value": 1.0}, "model": "biased", "gate_steps": 30, "n_history": 300, **body}
    build_small_release(folder, rows, residuals=300, **body)
    for member in (folder / "members").iterdir():
        graph = onnx.load(member)
        (intercept,) = (value for value in graph.graph.initializer if value.name == "intercept")
        intercept.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(intercept) + np.float32(bias), "intercept")
        )
        onnx.save(graph, member)
    return write_manifest(folder)


def build_small_body(
    folder: Path,
    rows: pl.DataFrame,
    gate_steps=60,
    weights=None,
    model="ensemble",
    about=None,
    features=None,
    stride_steps=1,
    n_history=120,
    group="series",
    residuals=100,
    bias=0.0,
    dataset="small",
    findings=(),
    **combined,
) -> Path:
    """A body as the ensemble stage writes it. weights: of some MEMBERS. bias: added to every member
    in the space of z, to make it bad. findings: of the leak gate.

    combined: further keys of ensemble.json, as `combiner` and `combination`; the members of its
    `quantile_members` are a ridge that lies lower or higher by .1 for each .4 of the quantile.
    """
    about, features = about or small_about(), features or small_features()
    weights = weights or {"last_value": 0.2, "window_mean": 0.2, "ridge": 0.6}
    schema, calendar = (
        build_feature_schema(about, features),
        build_calendar(about, reach=(rows["event_time"].min(), rows["event_time"].max())),
    )
    panel = build_panel(build_features(rows, about, features, calendar), Dataset(about, calendar, schema))
    last_origin = len(panel.event_time) - 1 - gate_steps
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "members").mkdir(exist_ok=True)
    if calendar.sessions is not None:
        calendar.sessions.to_frame("event_time").write_parquet(folder / "sessions.parquet")
    for name in weights:
        write_linear_graph(
            folder / "members" / f"{name}.onnx", *_coefficients(name, panel, last_origin, bias)
        )
    for quantile, names in combined.get("quantile_members", {}).items():
        for name in names:
            write_linear_graph(
                folder / "members" / f"{name}.onnx",
                *_coefficients("ridge", panel, last_origin, bias + (float(quantile) - 0.5) / 4),
            )
    blend = {
        "model": model,
        "weights": weights,
        "quantiles": list(about.quantiles),
        "group": group,
        "residuals": residuals,
        "adapt_rate": 0.02,
        "stride_steps": stride_steps,
        "seen_until": panel.cutoff[last_origin].isoformat(),
        "as_of": rows["known_at"].max().isoformat(),
        "dataset": dataset,
        "data_version": "0" * 64,
        **combined,
    }
    contents = {
        "about": about.model_dump(),
        "features": features.model_dump(),
        "schema": schema.model_dump(),
        "ensemble": blend,
    }
    contents["leaks"] = {
        "schema_hash": schema.hash,
        "table": "0" * 64,
        "data_version": blend["data_version"],
        "checks": {},
        "findings": list(findings),
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    HISTORY.conform(pl.DataFrame(schema=HISTORY.columns)).write_parquet(folder / "history.parquet")
    if n_history:
        origins = last_origin - stride_steps * np.arange(n_history - 1, -1, -1)
        _history(
            load_unsealed_release(folder), panel, origins[origins >= schema.lookback_steps], last_origin
        ).write_parquet(folder / "history.parquet")
    return folder


def write_linear_graph(path: Path, weights: np.ndarray, intercept: np.ndarray) -> None:
    """A graph `x` (n, F) -> `z_hat` (n, H): x @ weights + intercept, unknown features
    counting as 0."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "x"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "intercept"], ["z_hat"]),
    ]
    constants = {"zero": np.zeros(1), "weights": weights, "intercept": intercept}
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[0]])],
        [helper.make_tensor_value_info("z_hat", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _coefficients(name: str, panel: Panel, last_origin: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
    schema = panel.schema
    steps = schema.horizon_steps
    picked = {
        "last_value": [schema.last] * steps,
        "window_mean": ["z_mean_7"] * steps,
        "seasonal_naive": schema.seasonal,
    }
    weights, intercept = np.zeros((len(schema.columns), steps)), np.full(steps, bias)
    if name in picked:
        for s, column in enumerate(picked[name]):
            weights[schema.index(column), s] = 1.0
        return weights, intercept
    x = panel.x[: last_origin + 1 - steps].reshape(-1, len(schema.columns))
    z = panel.get_targets(0, last_origin + 1 - steps).reshape(len(x), steps)
    whole = np.isfinite(x).all(axis=1) & np.isfinite(z).all(axis=1)
    design = np.column_stack([x[whole], np.ones(whole.sum())]).astype(np.float64)
    fitted = np.linalg.solve(design.T @ design + 0.1 * np.eye(design.shape[1]), design.T @ z[whole])
    return fitted[:-1], fitted[-1] + bias


def _history(body, panel: Panel, origins: np.ndarray, last_origin: int) -> pl.DataFrame:
    x, where = panel.get_inputs(origins)
    steps = panel.schema.horizon_steps
    origin, series, step = (
        np.repeat(where[:, 0], steps),
        np.repeat(where[:, 1], steps),
        np.tile(np.arange(1, steps + 1), len(where)),
    )
    target = origin + step
    known = panel.known_pos[target, series] <= last_origin
    point = predict_ensemble(body, x)
    own, regime = predict_quantile_bases(body, x, point), body.ensemble.regime
    further = (
        {}
        if own is None
        else {f"q_{q:g}": own[..., i].ravel() for i, q in enumerate(body.ensemble.quantiles)}
    )
    further |= {
        c: body.members[m].run(["z_hat"], {"x": x})[0].astype(float).ravel()
        for m, c in zip(body.combination.members, list_member_columns(body.combination), strict=False)
    }
    further |= {"regime": np.repeat(compute_regime(regime, x, panel.schema), steps)} if regime else {}
    frame = pl.DataFrame(
        {
            "series_id": pl.Series(panel.series_ids).gather(series),
            "cutoff": panel.cutoff.gather(origin),
            "step": step,
            "event_time": panel.event_time.gather(target),
            "z_hat": point.ravel(),
            "scale": np.repeat(panel.schema.get_scales(x), steps),
            "z": pl.Series(np.where(known, panel.z[target, series], np.nan)).fill_nan(None),
            "known_at": panel.cutoff.gather(panel.known_pos[target, series].clip(max=len(panel.cutoff) - 1)),
            **further,
        }
    )
    return HISTORY.conform(frame.with_columns(known_at=pl.when(pl.col("z").is_not_null()).then("known_at")))
