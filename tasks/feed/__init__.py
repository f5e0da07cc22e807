"""The feed: from a source that can be read again from any mark to a table, and from the table to
what the chain may see.

In: records. Out: a Delta table with each record in one place (row, late, unclosed, tombstone,
quarantine), and `window.json`.

Promised: a record is in the table once, whatever is killed and whenever, because rows and marks are
one commit; nothing that arrives stops a partition; what a record becomes depends on its series'
records before it alone, not on batches, restarts or other partitions.
"""
