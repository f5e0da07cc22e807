"""What holds for every explanation of a served forecast."""

import polars as pl

from tasks.explain.forecast import explain_forecast
from tasks.explain.params import ExplainParams
from tasks.release import predict_cutoffs

QUICK = ExplainParams(n_background=8, max_evaluations=100_000)


def add_up(step):
    parts = (*step.features.values(), *step.members.values())
    return step.base + sum(parts) + step.calibration + step.bounds


def check_explained(release, rows, as_of, series=("north", "south"), params=QUICK):
    """The explanation, which adds up to what is served."""
    explained = explain_forecast(release, rows, as_of, series, params)
    served = predict_cutoffs(release, rows, [as_of])
    spread = rows["load"].std()
    assert [one.series_id for one in explained] == list(series)
    for one in explained:
        of_series = served.filter(pl.col("series_id") == one.series_id)
        assert [step.y_hat for step in one.steps] == of_series["y_hat"].to_list()
        assert [step.event_time for step in one.steps] == of_series["event_time"].to_list()
        assert all(abs(add_up(step) - step.y_hat) <= 1e-4 * spread for step in one.steps)
    return explained
