"""Why the shipped ensemble says what it says: Shapley values of its last forecasts and of a sample.

In: the challenger's body (models/challenger/challenger) and the clean rows. Out:
data/reports/explain/: attributions.parquet, importance.json, summary.json. Promised:
the whole ensemble is explained, every member with its weight, and for each row and step the base
and the parts add up to z_hat; the stage stops when they do not. Nothing depends on this report.
"""
