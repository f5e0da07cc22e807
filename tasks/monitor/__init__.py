"""Measure the champion's error and coverage since its promotion, and the drift of its inputs.

In: the champion, the clean rows, the served forecasts. Out: data/reports/monitor (report.json, and
streams.parquet, the watched values, once enough outcomes are known). The figures that decide are of
the champion's own forecasts of every series at every cutoff since its promotion, so callers have no
influence on them; served forecasts are reported separately. A step without a value stays open, a
late value is joined when it arrives, a correction counts with its newest value. The same rows give
the same report.
"""
