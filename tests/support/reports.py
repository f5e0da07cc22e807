"""Whole reports of which a test cares for a few figures."""

from datetime import UTC, datetime

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
