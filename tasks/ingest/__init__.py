"""ingest: from files, or bars that ship with a package, to rows with a series, a time and the
moment they could be known.

Comes in: data/source and the dataset's `ingest.source`. Goes out: data/raw (rows.parquet,
repeated.parquet, ledger.json). Promised: times in UTC, values in float64, and for every file
rows_read = rows_kept + rows_repeated + rows_capped; a key that comes again is kept apart, never
dropped in silence.
"""
