"""Watch the champion's error and coverage, and whether the input still looks like the past.

In: the champion, the published rows, the served forecasts. Out: data/reports/monitor (report.json,
and streams.parquet, the watched values, once enough outcomes are known). Promised: the figures
that decide are of the champion's own forecasts of every series at every cutoff since its promotion,
so no caller has a part in them; what was served is reported in addition. A step without its value
stays open, a late value is joined when it comes, a correction counts with its newest value; the
same rows give the same report.
"""
