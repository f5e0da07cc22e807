"""ingest: from files, a feed or embedded bars to rows with a series, a time and a knowledge time.

Inputs: data/source and the dataset's `ingest.source`. Outputs: data/raw (rows.parquet,
repeated.parquet, ledger.json).

Promise: times are in UTC, values in float64, and for every file rows_read = rows_kept +
rows_repeated + rows_capped; a repeated key is counted and written, never dropped silently.
"""
