"""Decide whether the challenger takes over: on rows that neither it nor the champion has seen, by a
margin that is not luck.

In: models/release (the sealed challenger, and the sealed baseline inside it), the clean rows, the
champion of the registry. Out: data/decisions/promote (decision.json, losses.parquet);
the rows, published for the service; the registry, when it is this checkout's own. Promised: with
nothing new the last verdict stays, byte for byte; a killed run ends with the same verdict.
"""
