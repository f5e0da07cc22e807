"""Decide whether retraining is due, with the reason.

The flow `retraining` acts on it; this stage starts nothing. In: data/reports/monitor. Out:
data/decisions/retrain/decision.json. Age counts in event time, and too little data is no reason.
"""
