"""A release whose loss is lower, and whose intervals or answers are not fit, stays out."""

import polars as pl
import pytest
from small_release import build_small_release, small_rows

from tasks.promote import guardrails
from tasks.promote.params import PromoteParams
from tasks.promote.stage import decide_promotion
from tasks.release import load_release, write_manifest

ROWS = small_rows(500)
PARAMS = PromoteParams(gate_steps=120, min_gate_rows=60, alpha=0.05, min_gain_frac=0.005)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """`narrow` is `better` with a tenth of the errors that its intervals come from."""
    folder = tmp_path_factory.mktemp("guarded")
    for name, member in (("better", "ridge"), ("narrow", "ridge"), ("last", "last_value")):
        options = {"weights": {member: 1.0}, "model": name, "adapt_rate": 0.0, "residuals": 2000}
        build_small_release(folder / name, ROWS, 120, n_history=200, **options)
    history = pl.read_parquet(folder / "narrow/history.parquet")
    near = pl.col("z") + (pl.col("z_hat") - pl.col("z")) / 10
    history.with_columns(z_hat=pl.coalesce(near, "z_hat")).write_parquet(folder / "narrow/history.parquet")
    write_manifest(folder / "narrow")
    return {name: load_release(folder / name) for name in ("better", "narrow", "last")}


def decide(built, name, params=PARAMS):
    return decide_promotion(built[name], built["last"], built["last"], ROWS, params).verdict


def test_intervals_that_hold_too_little_keep_a_better_release_out(built):
    assert decide(built, "better").decision == "promote"
    verdict = decide(built, "narrow")
    assert (verdict.decision, verdict.winner_digest) == ("keep", None)
    assert verdict.p < verdict.alpha
    assert "of the outcomes where 80% are meant" in verdict.reason
    allowed = PARAMS.model_copy(update={"max_coverage_loss_frac": 1.0})
    assert decide(built, "narrow", allowed).decision == "promote"


def test_answers_that_take_too_long_keep_a_better_release_out(built, monkeypatch):
    seconds = {"better": 0.6, "last": 0.11}
    monkeypatch.setattr(guardrails, "_time_forecast", lambda release, _: seconds[release.model])
    assert "5.5 times as long as the other's" in decide(built, "better").reason
    assert decide(built, "better").decision == "keep"
    for better, last in ((0.6, 0.13), (0.4, 0.01)):
        seconds.update(better=better, last=last)
        assert decide(built, "better").decision == "promote"
