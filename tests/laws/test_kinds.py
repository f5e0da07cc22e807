"""Laws of every kind of target; and a second kind, known to no stage, goes through the chain."""

import ast
import json
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn
from homes import at_home
from polars.testing import assert_frame_equal
from sign_kind import SignKind

from deployments.console.charts.ensemble import draw_ensemble
from deployments.forecaster.app import create_app
from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import ParamsError
from tasks.core.frames import SERIES
from tasks.core.kinds import KINDS, get_kind
from tasks.core.kinds.base import CalibrationSpec
from tasks.core.kinds.numeric import NumericKind
from tasks.core.panel import build_panel
from tasks.core.reports.monitor import AnswerCounts, MonitorKey, OutcomeFigures, ServedFigures
from tasks.core.reports.promote import PairedFigures
from tasks.core.reports.retrain import RetrainLimits
from tasks.edges.params import read_about
from tasks.edges.served import read_news, read_served
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, build_ensemble
from tasks.ensemble.summary import build_summary, write_frames
from tasks.ensemble.unsealed_release import ReleaseOrigin, write_unsealed_release
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.forecasters import FORECASTERS
from tasks.monitor.champion import MonitoredChampion
from tasks.monitor.outcome import build_outcomes, compute_figures
from tasks.monitor.params import MonitorParams
from tasks.monitor.rows import compute_span
from tasks.monitor.scheduled import build_forecasts, select_cutoffs
from tasks.monitor.stage import build_monitor_result
from tasks.package.assemble import build_release
from tasks.promote.params import PromoteParams
from tasks.promote.stage import decide_promotion
from tasks.release import load_release, predict_cutoffs
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2021, 1, 1, tzinfo=UTC)
ABOUT = {
    "description": "Whether it rises, which it likes to do again.",
    "every": "1d",
    "target": {"column": "change", "unit": "1", "kind": "sign"},
    "horizon_steps": 2,
    "primary_score": "log_loss",
    "quantiles": [],
}
NUMERIC = {
    **ABOUT,
    "target": {"column": "change", "unit": "1"},
    "primary_score": "rmse",
    "quantiles": [0.1, 0.9],
}
FEATURES = {
    "list": [
        {"kind": "lag", "column": "z", "steps": [1, 2]},
        {"kind": "mean", "column": "z", "window_steps": [5]},
    ]
}
MODELS = {"climatology": {}, "window_mean": {"window_steps": 5}, "ridge": {}}
WALK = TrainParams(n_cutoffs=150, stride_steps=1, refit_every_cutoffs=50, min_train_steps=150)
GATE_STEPS = 120
PARAMS = EnsembleParams(
    prune_above_frac=0.5, shrink_frac=0.25, residuals=100, adapt_rate=0.02, burn_in_cutoffs=20
)
KINDS_OF_TESTS = [("numeric", NumericKind(), NUMERIC), ("sign", SignKind(), ABOUT)]
every_kind = pytest.mark.parametrize(
    ("kind", "about"), [k[1:] for k in KINDS_OF_TESTS], ids=["numeric", "sign"]
)


@pytest.fixture(scope="module", autouse=True)
def sign():
    """The second kind and its naive model are known as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "sign", SignKind())
        patch.setitem(FORECASTERS, "climatology", "sign_kind:Climatology")
        yield


# Laws of every kind


@every_kind
def test_an_outcome_is_restored_from_its_encoding(kind, about):
    target = About.model_validate(about).target
    encoded = (
        pl.DataFrame({"y": [-2.0, 0.5, 3.0, None, float("nan")]}).select(kind.encode(target)).to_series()
    )
    assert encoded.is_null().to_list() == [False, False, False, True, True]
    restored = pl.DataFrame({"y": kind.decode_outcome(target, encoded.drop_nulls().to_numpy())})
    assert restored.select(kind.encode(target)).to_series().to_list() == encoded.drop_nulls().to_list()


@every_kind
def test_a_members_point_leads_back_to_where_it_is_combined(kind, about):
    target = About.model_validate(about).target
    linked = kind.link(np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(kind.encode_point(target, kind.decode(target, linked)), linked, rtol=1e-9)


@every_kind
def test_a_calibrator_gives_every_column_and_moves_no_point_before_it_has_learned(kind, about):
    about = About.model_validate(about)
    state = kind.build_calibrator(about, CalibrationSpec(50, 0.02), 2, about.horizon_steps)
    pool, scale = np.array([0, 1, -1]), np.ones(3)
    z_hat = kind.link(np.full((3, about.horizon_steps), 0.3))
    kept = state.issue(pool)
    assert kept.shape == (*z_hat.shape, state.n_kept)
    np.testing.assert_array_equal(state.compute_points(pool, z_hat, scale), z_hat)
    further = state.compute_further(kept, z_hat, scale, None)
    assert further.shape == (*z_hat.shape, len(kind.list_columns(about)) - 1)
    assert state.nbytes > 0


@every_kind
def test_the_loss_is_least_where_the_forecast_is_right_and_unknown_where_y_is(kind, about):
    about = About.model_validate(about)
    y, right, wrong = np.array([1.0, np.nan]), np.array([0.99, 0.99]), np.array([0.2, 0.2])
    good, bad = kind.compute_loss(about, y, right), kind.compute_loss(about, y, wrong)
    assert good[0] < bad[0]
    assert np.isnan([good[1], bad[1]]).all()


@every_kind
def test_monitored_figures_are_there_for_every_row(kind, about):
    about = About.model_validate(about)
    frame = pl.DataFrame({"y": [1.0, None], **{name: [0.4, 0.4] for name in kind.list_columns(about)}})
    scored = kind.score_outcomes(about, frame)
    assert {"loss", "error", "is_covered"} <= set(scored.columns)
    assert scored["loss"].is_null().to_list() == [False, True]


def test_an_unknown_kind_and_a_score_of_another_kind_are_refused_with_the_known(tmp_path):
    with pytest.raises(ParamsError, match=r"'sing'; there are numeric, sign\. Did you mean 'sign'"):
        get_kind(About.model_validate({**ABOUT, "target": {**ABOUT["target"], "kind": "sing"}}).target)
    text = (ROOT / "params.yaml").read_text()
    for score, says in (("log_loss", "a numeric target has qlike, rmse"), ("rmsse", "'rmsse'")):
        (tmp_path / "params.yaml").write_text(text.replace("primary_score: qlike", f"primary_score: {score}"))
        with pytest.raises(ParamsError, match=f"params.yaml, datasets.index_volatility.about: .*{says}"):
            read_about(tmp_path)


def test_a_numeric_target_is_written_as_before_there_were_kinds():
    assert "kind" not in About.model_validate(NUMERIC).model_dump()["target"]
    assert About.model_validate(ABOUT).model_dump(mode="json")["target"]["kind"] == "sign"


ASKED = ("train", "ensemble", "release", "promote", "monitor", "quantize", "explain", "features")


def test_no_stage_names_a_column_or_asks_which_kind_it_is():
    paths = [p for room in ASKED for p in (ROOT / "tasks" / room).rglob("*.py")]
    paths += (ROOT / "deployments/forecaster").glob("*.py")
    assert len(paths) > 60
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value != "y_hat", path
                assert not node.value.startswith("q_"), path
            if isinstance(node, ast.Compare):
                assert not any(
                    isinstance(side, ast.Attribute) and ast.unparse(side).endswith("target.kind")
                    for side in (node.left, *node.comparators)
                ), path


# The second kind through the chain


def make_rows(n_steps=500):
    """Two series whose change has the sign of the one before in five of six days."""
    rng = np.random.default_rng(0)
    times = [START + timedelta(days=d) for d in range(n_steps)]
    frames = []
    for name in ("north", "south"):
        stays = rng.random(n_steps) < 5 / 6
        sign = np.cumprod(np.where(stays, 1, -1))
        change = sign * rng.gamma(2.0, size=n_steps)
        frames.append(pl.DataFrame({"series_id": name, "event_time": times, "change": change}))
    return SERIES.conform(pl.concat(frames).with_columns(known_at=pl.col("event_time") + pl.duration(days=1)))


class Chain:
    """Everything up to the sealed releases, in one folder."""

    def __init__(self, folder):
        self.folder, self.rows = folder, make_rows()
        about, self.features = About.model_validate(ABOUT), FeatureParams.model_validate(FEATURES)
        self.dataset = Dataset(about, build_calendar(about), build_feature_schema(about, self.features))
        table = build_features(self.rows, about, self.features, self.dataset.calendar)
        data = TrainingData(table, self.dataset, GATE_STEPS)
        self.trained = {m: fit_model(m, data, WALK, own, lambda _: None) for m, own in MODELS.items()}
        walk, gate = (
            {m: getattr(t, part) for m, t in self.trained.items()} for part in ("forecasts", "gate")
        )
        self.aligned = align_forecasts(walk, gate, build_panel(table, self.dataset), 1)
        self.assembled = build_ensemble(self.aligned, PARAMS)
        self.summary = build_summary(self.assembled, self.aligned)
        self.releases = {
            role: load_release(self.seal(role, name))
            for role, name in (("challenger", ENSEMBLE), ("baseline", self.assembled.baseline))
        }

    def seal(self, role, name):
        """The folder of a sealed release, as ensemble and package make it."""
        features, fits, unsealed, sealed = (
            self.folder / part for part in ("features", "fits", f"unsealed/{role}", f"sealed/{role}")
        )
        for path in (features, unsealed, sealed):
            path.mkdir(parents=True, exist_ok=True)
        schema = self.dataset.schema
        leaks = {"schema_hash": schema.hash, "table": "0" * 64, "data_version": "0" * 64, "checks": {}}
        contents = {"features": self.features.model_dump(), "schema": schema.model_dump(), "leaks": leaks}
        for file, content in contents.items():
            (features / f"{file}.json").write_text(json.dumps(content))
        for model, trained in self.trained.items():
            (fits / model).mkdir(parents=True, exist_ok=True)
            trained.fit.to_onnx(fits / model / "model.onnx")
        candidate = self.assembled.candidates[name]
        origin = ReleaseOrigin("sign", "0" * 64, 1)
        write_unsealed_release(unsealed, candidate, self.assembled, origin, features, fits)
        build_release(unsealed, self.folder / "quantized", self.rows, 400, sealed)
        return sealed


@pytest.fixture(scope="module")
def chain(sign, tmp_path_factory):
    with at_home(tmp_path_factory.mktemp("home"), TIDEMILL_WORKERS="1"):
        yield Chain(tmp_path_factory.mktemp("chain"))


def test_train_forecasts_a_probability_and_scores_it_by_the_kind(chain):
    forecasts, metrics = chain.trained["ridge"].forecasts, chain.trained["ridge"].metrics
    assert "y_hat" not in forecasts.columns
    assert forecasts["p_up"].is_between(0, 1, closed="none").all()
    known = forecasts.drop_nulls("y")
    up = (known["y"] > 0).cast(pl.Float64)
    assert metrics.overall["brier"] == pytest.approx((known["p_up"] - up).pow(2).mean())
    assert metrics.overall["primary_log_loss"] < np.log(2)
    assert set(metrics.overall) == {"model", "brier", "primary_log_loss", "n"} - {"model"}


def test_the_ensemble_is_a_mean_of_logits_with_a_temperature_of_earlier_outcomes(chain, tmp_path):
    assembled, aligned, summary = chain.assembled, chain.aligned, chain.summary
    assert (summary.combiner, summary.baseline) == ("mean", "climatology")
    ensemble = assembled.candidates[ENSEMBLE]
    members = list(ensemble.combination.members)
    k = aligned.n_walk - 1
    logits = aligned.z_hat[[aligned.models.index(m) for m in members], k]
    np.testing.assert_allclose(ensemble.z_hat[k], logits.mean(axis=0))
    ratio = ensemble.z_hat[k] / ensemble.issued.point[k]
    assert ((ratio >= 0.5) & (ratio <= 4.0)).all()
    assert summary.scores[ENSEMBLE].primary < summary.scores["climatology"].primary
    assert (summary.coverage.level, summary.coverage.overall) == (None, None)
    assert summary.coverage.tables.overall[0]["brier"] < 0.25
    write_frames(tmp_path, assembled, aligned)
    assert "p_up" in pl.read_parquet(tmp_path / "gate.parquet").columns
    assert len(draw_ensemble(summary).content) > 10_000
    assert chain.dataset.kind.charts == ("ensemble",)


def test_a_release_answers_what_the_stage_had_issued(chain, tmp_path):
    released = chain.assembled._replace(shipped=ENSEMBLE)  # the chain releases it, whatever was chosen
    write_frames(tmp_path, released, chain.aligned)
    expected = pl.read_parquet(tmp_path / "gate.parquet")
    made = predict_cutoffs(
        chain.releases["challenger"], chain.rows, expected["cutoff"].unique().sort().to_list()
    )
    assert_frame_equal(made, expected.select(made.columns), rel_tol=1e-5)


def test_the_gate_promotes_what_knows_more_than_the_climatology(chain):
    params = PromoteParams(gate_steps=GATE_STEPS, min_gate_rows=60, alpha=0.05, min_gain_frac=0.005)
    verdict = decide_promotion(
        chain.releases["challenger"], None, chain.releases["baseline"], chain.rows, params
    ).verdict
    assert verdict.decision == "promote"
    assert verdict.coverage_frac == PairedFigures(challenger=None, opponent=None)
    assert verdict.mean_loss.challenger < verdict.mean_loss.opponent


@contextmanager
def serving(home, release):
    """The service with this process's kinds, on a free port."""
    with at_home(home, TIDEMILL_RELEASE=str(release)), socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            yield client
        server.should_exit = True
        thread.join(30)


def test_the_service_answers_the_kinds_columns_and_records_them_for_the_monitor(chain, tmp_path):
    release, about = chain.releases["challenger"], chain.dataset.about
    with serving(tmp_path, release.folder) as client:
        body = client.post("/api/v1/predict", json={"series_id": "north"}).raise_for_status().json()
        assert client.get("/openapi.json").is_success
        history = [
            {"event_time": row["event_time"].isoformat(), "change": row["change"]}
            for row in release.rows.filter(pl.col("series_id") == "north").tail(50).to_dicts()
        ]
        asked = {"series_id": "mine", "history": history}
        own = client.post("/api/v1/predict", json=asked).raise_for_status().json()
        path = f"/api/v1/predictions/{body['prediction_id']}"
        recorded = client.get(path).raise_for_status().json()
        served = read_served("sign")
        news = read_news("sign", release.seen_until)
    newest = predict_cutoffs(release, release.rows, [release.rows["known_at"].max()])
    expected = newest.filter(pl.col("series_id") == "north")["p_up"].to_list()
    steps = body["series"][0]["steps"]
    assert [set(step) for step in steps] == [{"step", "event_time", "p_up"}] * 2
    assert [step["p_up"] for step in steps] == pytest.approx(expected)
    assert recorded["series"][0]["steps"] == steps
    assert recorded["recomputed"]["state"] == "same"
    assert 0 < own["series"][0]["steps"][0]["p_up"] < 1
    assert served["p_up"].to_list() == [step["p_up"] for step in steps]
    outcomes = build_outcomes(news, chain.rows, about, chain.dataset.calendar, {})
    assert compute_figures(outcomes, [])[0]["n_open"] == 2


def test_the_monitor_judges_the_champion_by_the_kinds_figures(chain):
    release, rows, about = chain.releases["challenger"], chain.rows, chain.dataset.about
    digest, calendar = release.manifest.digest, chain.dataset.calendar
    cutoffs = select_cutoffs(compute_span(rows.lazy(), about, calendar), calendar, release.seen_until, 100)
    scheduled = build_forecasts(release, digest, rows, cutoffs)
    times = {"seen_until": release.seen_until, "promoted_as_of": release.seen_until}
    champion = MonitoredChampion(
        digest, release.model, "1", **times, trained_as_of=cutoffs[-1], gate_loss=0.5
    )
    key = MonitorKey(dataset="sign", rows="", champion=None, params={})
    none = build_outcomes(scheduled.head(0), rows, about, calendar, {})
    served = ServedFigures(
        answers=AnswerCounts(n_answers=0, n_news=0, n_as_of=0, n_own_history=0, n_unmarked=0),
        overall=OutcomeFigures.model_validate(compute_figures(none, [])[0]),
        by_digest=(),
    )
    params = MonitorParams(min_rows=20)
    limits = RetrainLimits(max_error_ratio=9.0, min_coverage_frac=0.0)
    report, _ = build_monitor_result(scheduled, rows, about, calendar, champion, params, limits, served, key)
    known = scheduled.join(rows.select("series_id", "event_time", "change"), on=["series_id", "event_time"])
    up = known["change"] > 0
    loss = -pl.select(pl.when(up).then(known["p_up"]).otherwise(1 - known["p_up"])).to_series().log()
    assert report.overall.n_known == known.height > 100
    assert report.overall.loss == pytest.approx(loss.mean())
    assert report.overall.bias == pytest.approx((known["p_up"] - up.cast(pl.Float64)).mean())
    assert report.overall.coverage_frac is None
    assert report.champion.error_ratio == pytest.approx(loss.mean() / 0.5)
    assert report.primary_score == "log_loss"
