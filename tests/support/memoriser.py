"""A release that knows the rows that it was trained on by heart, and nothing else."""

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto, helper, numpy_helper
from small_release import build_small_release, small_about, small_features

from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.panel import build_panel
from tasks.features import build_feature_schema, build_features
from tasks.release import write_manifest


def build_memoriser(folder, rows, gate_steps):
    """A release whose only member answers with the target of the nearest training row; its past
    looks perfect."""
    build_small_release(folder, rows=rows, gate_steps=gate_steps, weights={"ridge": 1.0}, model="memoriser")
    about, features = small_about(), small_features()
    schema, calendar = build_feature_schema(about, features), build_calendar(about)
    panel = build_panel(build_features(rows, about, features, calendar), Dataset(about, calendar, schema))
    last = len(panel.event_time) - 1 - gate_steps
    x, z = panel.x[: last - 4].reshape(-1, len(schema.columns)), panel.get_targets(0, last - 4).reshape(-1, 5)
    whole = np.isfinite(x).all(axis=1) & np.isfinite(z).all(axis=1)
    write_nearest(folder / "members/ridge.onnx", x[whole], z[whole])
    history = pl.read_parquet(folder / "history.parquet")
    history.with_columns(z_hat=pl.col("z").fill_null(pl.col("z_hat"))).write_parquet(
        folder / "history.parquet"
    )
    write_manifest(folder)


def write_nearest(path, x, z):
    """z of the row of *x* (m, F) that is nearest to the input: least |row|^2 - 2 input . row."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "x"], ["known"]),
        helper.make_node("MatMul", ["known", "turned"], ["product"]),
        helper.make_node("Add", ["product", "length"], ["distance"]),
        helper.make_node("ArgMin", ["distance"], ["nearest"], axis=1, keepdims=0),
        helper.make_node("Gather", ["targets", "nearest"], ["z_hat"], axis=0),
    ]
    constants = {
        "zero": np.zeros(1),
        "turned": -2 * x.T,
        "length": (x.astype(float) ** 2).sum(axis=1),
        "targets": z,
    }
    graph = helper.make_graph(
        nodes,
        "nearest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", x.shape[1]])],
        [helper.make_tensor_value_info("z_hat", TensorProto.FLOAT, ["n", z.shape[1]])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
