"""What is served is what was scored: for every combiner that can ship, the release says what the
walk's combination said."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from members import PARAMS, context_of
from polars.testing import assert_frame_equal
from small_release import build_small_body, small_about, small_features, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.folds import WalkForward
from tasks.core.frames import HISTORY
from tasks.core.panel import build_panel
from tasks.edges.artifacts import write_frame
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.combiner import FittedCombiner, compute_shares
from tasks.ensemble.combiners import COMBINERS
from tasks.ensemble.issue import build_issued_frame, build_issuer
from tasks.ensemble.stage import Candidate
from tasks.ensemble.unsealed_release import build_history_frame
from tasks.features import build_feature_schema, build_features
from tasks.forecasters import build_forecaster
from tasks.release import load_unsealed_release, predict_cutoffs, predict_ensemble
from tasks.release.combine import find_plain_weights
from tasks.train.walk import WalkForecasts, build_forecast_frame

MEMBERS = ("last_value", "ridge", "seasonal_naive", "window_mean")
GATE = 40


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    return walk_of(tmp_path_factory.mktemp("walked") / "body")


def walk_of(folder, stride=1, **quantile_of):
    """A body of four linear members and a net for each quantile, and what they said along 200
    steps and the gate's rows."""
    rows, about = small_rows(), small_about()
    features = small_features(list=[*small_features().model_dump()["list"], {"kind": "series"}])
    named = {f"{q:g}": [name] for name, q in quantile_of.items()}
    even = dict.fromkeys(MEMBERS, 0.25)
    build_small_body(
        folder, rows, GATE, even, features=features, n_history=0, stride_steps=stride, quantile_members=named
    )
    calendar = build_calendar(about, reach=(rows["event_time"].min(), rows["event_time"].max()))
    panel = build_panel(
        build_features(rows, about, features, calendar),
        Dataset(about, calendar, build_feature_schema(about, features)),
    )
    last = len(panel.event_time) - 1 - GATE
    learned = panel.get_training_pairs(
        last - 199, WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
    )
    for name, q in quantile_of.items():
        net = build_forecaster(
            "mlp", panel.schema, 1, {"loss": "quantile", "quantile": q, "hidden_sizes": [8], "batch_rows": 32}
        ).fit(*learned)
        net.to_onnx(folder / f"members/{name}.onnx")
    body = load_unsealed_release(folder)

    def frame(name, origins):
        x, where = panel.get_inputs(np.array(origins))
        return build_forecast_frame(
            panel, WalkForecasts(where, body.members[name].run(["z_hat"], {"x": x})[0]), name
        )

    parts = [
        {m: frame(m, range(*ends)) for m in (*MEMBERS, *quantile_of)}
        for ends in ((last - 198, last + 1, stride), (last, last + GATE + 1))
    ]
    return folder, align_forecasts(*parts, panel, stride, quantile_of)


def written(folder, combination, aligned):
    """Into ensemble.json of *folder* how members are combined."""
    simple = find_plain_weights(combination)
    weights = simple or {
        m: float(w)
        for m, w in zip(aligned.models, compute_shares(combination, aligned.models), strict=True)
        if w > 0
    }
    blend = json.loads((folder / "ensemble.json").read_text()) | {
        "weights": weights,
        "combination": None if simple else combination.model_dump(),
    }
    (folder / "ensemble.json").write_text(json.dumps(blend))
    return bool(simple)


@pytest.mark.parametrize(
    "name", [c.name for c in COMBINERS if isinstance(c, FittedCombiner) and c.name != "recent"]
)
def test_a_release_says_what_the_walk_said(walked, name, tmp_path):
    folder, aligned = walked
    context = context_of(aligned, prune_above_frac=10.0)
    combiner = next(c for c in COMBINERS if c.name == name)
    assert combiner.find_obstacle(context) is None
    combination = combiner.fit(context, aligned.n_walk - 1, range(len(MEMBERS)))
    shutil.copytree(folder, tmp_path / "body")
    simple = written(tmp_path / "body", combination, aligned)
    x, where = aligned.panel.get_inputs(aligned.origins[aligned.n_walk :])
    scored = combiner.run(context, context.errors.refits, range(len(MEMBERS)))
    of_row = scored[np.searchsorted(aligned.origins, where[:, 0]), where[:, 1]]
    np.testing.assert_allclose(
        predict_ensemble(load_unsealed_release(tmp_path / "body"), x), of_row, atol=1e-9
    )
    assert simple == (name in {"mean", "weighted", "blending", "greedy"})


@pytest.mark.parametrize(
    ("name", "stride", "quantile_of"),
    [
        ("recent", 1, {}),
        ("recent", 3, {}),
        ("recent", 1, {"low": 0.1, "high": 0.9}),
        ("per_step", 3, {"high": 0.9}),
    ],
)
def test_points_and_quantiles_are_served_as_they_were_scored(name, stride, quantile_of, tmp_path):
    """Along the end of the walk and the gate, also between two cutoffs that teach; from the
    history and the rows alone, by a release that never walked there."""
    folder, aligned = walk_of(tmp_path / "body", stride, **quantile_of)
    context, combiner = (
        context_of(aligned, prune_above_frac=10.0, recent_cutoffs=20),
        next(c for c in COMBINERS if c.name == name),
    )
    combination, z_hat = (
        combiner.fit(context, aligned.n_walk - 1, range(4)),
        combiner.run(context, context.errors.refits, range(4)),
    )
    assert not written(folder, combination, aligned)
    params = PARAMS.model_copy(
        update={"interval_groups": "series", "intervals": "cqr" if quantile_of else "adaptive"}
    )
    issuer = build_issuer(aligned, params, 30)
    issued = issuer.predict_quantiles(z_hat)
    write_frame(
        folder / "history.parquet",
        build_history_frame(Candidate("ensemble", combination, z_hat, issued, issued.point), issuer),
        HISTORY,
    )
    expected = build_issued_frame(
        "ensemble",
        issued,
        aligned,
        np.arange(len(aligned.origins)) >= aligned.n_walk - (name == "recent") * 5,
    )
    body, cutoffs = load_unsealed_release(folder), expected["cutoff"].unique().sort().to_list()
    for at in (cutoffs, cutoffs[-2:], cutoffs[9:10]):
        made = predict_cutoffs(load_unsealed_release(folder), small_rows(), at)
        assert_frame_equal(
            made, expected.filter(pl.col("cutoff").is_in(at)).select(made.columns), rel_tol=1e-5
        )
        one_by_one = pl.concat([predict_cutoffs(body, small_rows(), [one]) for one in at]).sort(
            "series_id", "cutoff", "step"
        )
        assert_frame_equal(made, one_by_one, rel_tol=1e-9)
