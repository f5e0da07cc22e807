"""train: one model walks forward over the feature table.

In: data/features (table, earlier vintages, schema). Out, for each model: data/forecasts/<model>
(out-of-sample forecasts of every cutoff, and of the gate's rows by the final fit, both with their
outcomes; the plan) and models/fits/<model> (the final fit, as of seen_until, and its ONNX graph).
Promised: nothing is learned from a table on which the leak gate has findings, or which it did not
check; a fold learns only from pairs whose y was known by its cutoff, and y as it was known then;
nothing depends on which process made a fit, or when; the final fit has seen nothing of the gate's
rows.
"""
