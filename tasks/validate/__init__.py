"""validate: rows that keep the contract go on, rows that break it are set aside with the rule and
the reason.

Comes in: data/raw/rows.parquet. Goes out: data/clean (rows, profile, gaps), data/quarantine,
data/reports/validate (suite, result, summary). Promised: clean + quarantined = received; too
many quarantined rows, too few rows or a missing column stop the run, and then data/clean stays as
it was.
"""
