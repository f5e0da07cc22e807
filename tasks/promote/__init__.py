"""Decide whether the challenger replaces the champion, on rows that neither has seen.

In: models/release (the sealed challenger, with the sealed baseline inside it), the clean rows, the
champion of the registry. Out: data/decisions/promote (decision.json, losses.parquet); the rows,
published for the service; the registry, when it is this checkout's own. The margin must be
statistically significant. With nothing new the last verdict stays, byte for byte. A killed run ends
with the same verdict.
"""
