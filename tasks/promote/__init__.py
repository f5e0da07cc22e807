"""Decide whether the challenger takes over, on rows that neither it nor the champion has seen.

In: models/release (the sealed challenger, and the sealed baseline inside it), the clean rows, the
champion of the registry. Out: data/decisions/promote (decision.json, losses.parquet);
the rows, published for the service; the registry, when it is this checkout's own. Promised: it
takes over only by a margin that is not luck; with nothing new the last verdict stays, byte for
byte; a killed run ends with the same verdict.
"""
