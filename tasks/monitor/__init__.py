"""Watch what was served and what came in: error and coverage once the truth is known, and whether the input still looks like the past.

In: the served forecasts, the clean rows, the champion. Out: data/reports/monitor (report.json, report.md, pictures, and Evidently's
page once there is something to show). Promised: a step without its value stays open, a late value is joined when it comes, a
correction counts with its newest value; the same forecasts and rows give the same report without any work.
"""
