"""From a source that can be read again to a table, and from the table to what the chain sees.

In: records. Out: a Delta table in which each record has one disposition (row, late, unclosed,
tombstone, quarantine, lost), and `window.json`.

Promised: a record is in the table once, whatever is killed and whenever, because rows and offsets
are one commit. No record stops a partition. What a record becomes depends on the records of its
series before it alone, not on batches, restarts or other partitions.
"""
