"""What is served is what was scored: for every combiner that can ship, the release says what the walk's combination said."""

import json
import shutil

import numpy as np
import pytest
from members import ground_of
from small_release import build_small_body, small_about, small_features, small_rows

from tasks.core.calendar import calendar_for
from tasks.core.windows import panel_of
from tasks.ensemble.align import align
from tasks.ensemble.combiner import Fitted, shares
from tasks.ensemble.combiners import COMBINERS
from tasks.features import build_features, feature_schema
from tasks.release import open_body, z_hat
from tasks.release.combine import plain_weights
from tasks.train.walk import Predicted, forecast_frame

MEMBERS = ("last_value", "ridge", "seasonal_naive", "window_mean")
GATE = 40


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A body of four linear members, and what they said along 200 cutoffs and the gate's rows."""
    rows, about = small_rows(), small_about()
    features = small_features(list=[*small_features().model_dump()["list"], {"kind": "series"}])
    folder = build_small_body(tmp_path_factory.mktemp("walked") / "body", rows, GATE, dict.fromkeys(MEMBERS, 0.25), features=features, n_history=0)
    body, calendar = open_body(folder), calendar_for(about, reach=(rows["event_time"].min(), rows["event_time"].max()))
    panel = panel_of(build_features(rows, about, features, calendar), feature_schema(about, features), calendar)
    last = len(panel.event_time) - 1 - GATE

    def frame(name, origins):
        x, where = panel.at(np.array(origins))
        return forecast_frame(panel, Predicted(where, body.members[name].run(["z_hat"], {"x": x})[0]), about, calendar, name)

    parts = [{m: frame(m, range(*ends)) for m in MEMBERS} for ends in ((last - 199, last + 1), (last, last + GATE + 1))]
    return folder, align(*parts, panel, calendar, about, 1)


@pytest.mark.parametrize("name", [c.name for c in COMBINERS if isinstance(c, Fitted)])
def test_a_release_says_what_the_walk_said(walked, name, tmp_path):
    folder, aligned = walked
    ground = ground_of(aligned, prune_above_frac=10.0)
    combiner = next(c for c in COMBINERS if c.name == name)
    assert combiner.unservable(ground) is None
    how = combiner.fit(ground, aligned.n_walk - 1, range(len(MEMBERS)))
    simple = plain_weights(how)
    weights = simple or {m: float(w) for m, w in zip(aligned.models, shares(how, aligned.models), strict=True) if w > 0}
    blend = json.loads((folder / "ensemble.json").read_text()) | {"weights": weights, "combination": None if simple else how.model_dump()}
    shutil.copytree(folder, tmp_path / "body")
    (tmp_path / "body/ensemble.json").write_text(json.dumps(blend))
    x, where = aligned.panel.at(aligned.origins[aligned.n_walk :])
    scored = combiner.run(ground, ground.errors.refits, range(len(MEMBERS)))
    of_row = scored[np.searchsorted(aligned.origins, where[:, 0]), where[:, 1]]
    np.testing.assert_allclose(z_hat(open_body(tmp_path / "body"), x), of_row, atol=1e-9)
    assert bool(simple) == (name in {"mean", "weighted", "blending", "greedy"})
