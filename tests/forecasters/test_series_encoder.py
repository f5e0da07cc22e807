"""Whose row it is: numbers of a fit's series, in numpy and in a graph alike."""

import numpy as np
import onnxruntime as ort
import pytest

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema, encode_series_id
from tasks.forecasters.graph.graph_ops import write_graph
from tasks.forecasters.parts.series_encoder import SeriesEncoder

NAMES = ("z_last", *SERIES_KEY)
SCHEMA = FeatureSchema(
    columns=tuple(
        FeatureColumn(name=n, role="level" if n == "z_last" else "free", lookback_steps=0) for n in NAMES
    ),
    last="z_last",
    horizon_steps=2,
    season_steps=1,
)


def rows_of(*series):
    return np.array([[0.0, *encode_series_id(s)] for s in series], dtype=np.float32)


def test_each_series_gets_its_row_and_a_stranger_the_last_one(tmp_path):
    learned = {}
    identity = SeriesEncoder(SCHEMA, learned, "Local")
    seen = [f"s{i}" for i in range(50)]
    number = identity.learn(rows_of(*seen, *seen))
    assert identity.n_series == 50
    assert (number[:50] == number[50:]).all()
    table = np.arange(102, dtype=np.float32).reshape(51, 2)
    x = rows_of("s7", "stranger", "s49", "s0")
    expected = [
        table[number[7]].tolist(),
        [100.0, 101.0],
        table[number[49]].tolist(),
        table[number[0]].tolist(),
    ]
    assert identity.take_rows(x, table).tolist() == expected
    write_graph(tmp_path / "rows.onnx", len(NAMES), 2, lambda wire: identity.take_rows(wire, table))
    served = ort.InferenceSession(tmp_path / "rows.onnx", providers=["CPUExecutionProvider"]).run(
        ["z_hat"], {"x": x}
    )[0]
    assert served.tolist() == expected


def test_ten_thousand_series_do_not_meet():
    assert len({encode_series_id(f"meter-{i}") for i in range(10_000)}) == 10_000
    assert all(0 <= part < 2**24 for part in encode_series_id("a"))


def test_without_the_keys_it_says_which_feature_to_declare():
    bare = FeatureSchema(columns=SCHEMA.columns[:1], last="z_last", horizon_steps=2, season_steps=1)
    with pytest.raises(ForecasterError, match=r"Local needs .*series_key_high.*kind: series"):
        SeriesEncoder(bare, {}, "Local")
