"""Whole reports of which a test cares for a few figures."""

from datetime import UTC, datetime

from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.quantize import QuantizeDecision
from tasks.core.reports.retrain import RetrainDecision

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)
NO_OUTCOMES = {
    **dict.fromkeys(("n_steps", "n_open", "n_seen", "n_known", "n_late", "n_corrected"), 0),
    **dict.fromkeys(("loss", "mae", "bias", "coverage_frac")),
}
CHAMPION = {
    "digest": "d",
    "model": "ridge",
    "version": "1.0.0",
    "seen_until": AS_OF,
    "promoted_as_of": AS_OF,
    "trained_as_of": AS_OF,
    "age_steps": 10,
    "gate_loss": 1.0,
    "n_known": 500,
    "loss": 1.0,
    "error_ratio": 1.0,
    "coverage_frac": 0.8,
}
DRIFT = {
    "reference_until": AS_OF,
    "n_streams": 40,
    "n_blocks": 30,
    "block_steps": 7,
    "n_alarmed": 30,
    "n_by_luck": 3,
    "is_drifting": True,
    "n_unwatched": 0,
    "season_steps": 7,
    "alarms_per_30_days": 0.05,
    "n_expected": 0.5,
    "streams": (),
    "unwatched": (),
}


def service_level(level=None, n_blocks=100, **changes):
    """Of the loss, or of the coverage of *level*; blocks of one step, no alarm."""
    figure = {
        "figure": "loss" if level is None else "coverage",
        "level": level,
        "normal": level,
        "n_blocks": n_blocks,
        "block_steps": 1,
        "window_steps": 5,
    }
    return {**figure, **changes}


def gate_decision(**changes):
    decision = {
        "decision": "promote",
        "reason": "r",
        "challenger_digest": "c",
        "champion_digest": None,
        "winner_digest": "c",
        "challenger_as_of": AS_OF,
        "seen_until": AS_OF,
        "primary_score": "rmse",
        "n_cutoffs": 0,
        "gain_frac": None,
        "p": None,
        "mean_loss": None,
        "coverage_frac": None,
        "models": {"challenger": "ridge", "champion": None},
        "dataset": "small",
        "key": {"challenger": "c", "baseline": "b", "rows": "r", "params": {}},
        "as_of": AS_OF,
        "applied": False,
    }
    return GateDecision.model_validate({**decision, **changes})


def monitor_report(champion=None, **changes):
    """champion: figures that differ from CHAMPION, None without one."""
    report = {
        "verdict": "measured",
        "reason": "r",
        "as_of": AS_OF,
        "primary_score": "rmse",
        "n_cutoffs": 0,
        "overall": NO_OUTCOMES,
        "by_step": [],
        "by_series": [],
        "champion": None if champion is None else {**CHAMPION, **champion},
        "drift": None,
        "served": {
            "answers": dict.fromkeys(("n_answers", "n_news", "n_as_of", "n_own_history", "n_unmarked"), 0),
            "overall": NO_OUTCOMES,
            "by_digest": [],
        },
        "dataset": "small",
        "key": {"dataset": "small", "rows": "r", "champion": None, "params": {}},
        "service_levels": [service_level()],
    }
    return MonitorReport.model_validate({**report, **changes})


def retrain_decision(**changes):
    decision = {
        "due": False,
        "reasons": [],
        "reason": "r",
        "facts": {},
        "as_of": AS_OF,
        "dataset": "small",
    }
    return RetrainDecision.model_validate({**decision, **changes})


def quantize_decision(**changes):
    decision = {
        "decision": "FP32",
        "reason": "no net in the ensemble",
        "n_gate_rows": 0,
        "parity_sd": {},
        "limits": {"max_error_frac": 0.01, "max_latency_ratio": 1.2, "max_parity_sd": 1e-5},
        "nets": {},
    }
    return QuantizeDecision.model_validate({**decision, **changes})


def ensemble_report(losses, **changes):
    """losses: by candidate, the baseline last."""
    scores = {
        name: {
            "primary": loss,
            "primary_gate": loss,
            "mae": 1.0,
            "rmse": 2.0,
            "n": 10,
            "by_series": {},
            "by_step": [],
        }
        for name, loss in losses.items()
    }
    tables = ("overall", "gate", "by_year", "by_step", "by_series", "by_regime")
    coverage = {
        "level": 0.8,
        "method": "adaptive",
        "overall": 0.79,
        "gate": 0.81,
        "by_step": [0.8] * 5,
        "by_series": {},
        "by_year": {"2020": 0.79},
        "regime": None,
        "starts_from": [],
        "tables": dict.fromkeys(tables, ()),
    }
    selection = {
        "fit_until": AS_OF,
        "until": AS_OF,
        "n_cutoffs": 0,
        "n_outcomes": 0,
        "members": {},
        "combiners": [],
    }
    report = {
        "primary_score": "rmse",
        "unit": "kWh",
        "shipped": "ensemble",
        "reason": "it is better",
        "baseline": list(losses)[-1],
        "best_member": next(iter(losses)),
        "combiner": "mean",
        "group": "series",
        "n_cutoffs_scored": 100,
        "n_cutoffs_gate": 10,
        "scored_from": ["2020-01-01"],
        "seen_until": AS_OF,
        "as_of": AS_OF,
        "weights": {},
        "n_outcomes_shared": 10,
        "left_out": [],
        "scores": scores,
        "comparisons": {},
        "gains": {"text": "no gain"},
        "gains_by_series": {"against": "har", "series": {}},
        "selection": selection,
        "correlation": {},
        "contribution_frac": {},
        "confidence_set": None,
        "coverage": coverage,
        "weights_over_time": [],
    }
    return EnsembleReport.model_validate({**report, **changes})
