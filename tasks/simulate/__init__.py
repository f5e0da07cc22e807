"""Replay of the whole loop over years of history, under several policies of retraining.

In: the published rows (before the first promotion data/clean) and params.yaml. Out:
TIDEMILL_HOME/simulate/<dataset>: report.json, losses.parquet, and state/, what a killed or a later
simulation need not compute again. Promised: features, training, ensemble, gate, monitor and
decision are the functions of those stages; each gets the rows known by the simulated time and
nothing later; a killed simulation that is started again gives the same figures.
"""
