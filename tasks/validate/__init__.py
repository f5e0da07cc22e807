"""validate: rows that break the contract are quarantined with the rule and the reason.

Inputs: data/raw/rows.parquet. Outputs: data/clean (rows, profile, gaps), data/quarantine,
data/reports/validate (suite, result, summary).

Promise: clean + quarantined = received; too many quarantined rows, too few rows or a missing column
stop the run, and data/clean stays unchanged.
"""
