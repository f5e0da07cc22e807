"""Fresh rows for the service and the monitor, without training.

In: the current dataset's source as it is now: its files, or all that its feed has landed. Out:
TIDEMILL_HOME/rows/<dataset>.parquet, and TIDEMILL_HOME/refresh/<dataset> (report.json, and
quarantine.parquet). Promised: the same rows by the same reader and the same contract as ingest and
validate have them; a source that breaks the contract leaves the published rows as they are.
"""
