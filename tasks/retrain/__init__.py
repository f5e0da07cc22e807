"""Decide whether retraining is due, with the reason.

The flow `retraining` acts on it; this stage starts nothing. In: data/reports/monitor and the
journal of retrainings in home. Out: data/decisions/retrain/decision.json. Age counts in event time,
too little data is no reason, and what a retraining left as it was is none again.
"""
