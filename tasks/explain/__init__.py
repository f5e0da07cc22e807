"""Explain the ensemble's forecasts by Shapley values, for its last forecasts and a sample.

In: the unsealed challenger (models/challenger/challenger) and the clean rows. Out:
data/reports/explain: attributions.parquet, curves.parquet, importance.json, summary.json. The whole
ensemble is explained, every member with its weight. For each row and step the base and the parts
add up to z_hat; the stage stops when they do not. Permutation importance, local linear models and
partial dependence are held against the Shapley values. No other stage reads this report. The
service explains single forecasts with the same code, in the target's unit (tasks.explain.forecast).
"""
