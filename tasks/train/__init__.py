"""train: one model walks forward over the feature table.

Comes in: data/features (table, earlier vintages, schema). Goes out, for each model:
data/forecasts/<model> (out-of-sample forecasts of every cutoff, and of the gate's rows by the final
fit, both with what came true; the plan) and models/fits/<model> (the final fit, as
of seen_until, and its ONNX graph). Promised: nothing is learned from a table that the leak gate has
findings on, or did not look at; a fold learns only from pairs whose y was known by its cutoff, and
y as it was known then; nothing depends on who made a fit, or when; the final fit has seen nothing
of the gate's rows.
"""
