"""package: everything that one release needs, in one folder, under one digest.

Comes in: models/challenger (both bodies), models/quantized, data/clean. Goes out: models/release,
the sealed challenger with its rows, its provenance, its model card and its Bento;
models/release/baseline, the sealed baseline. Promised: the digest covers exactly what the service
loads, so the same inputs give the same digest on every run; card, provenance and Bento are outside
it. The Bento holds the code that the service imports, the release, and nothing of the chain.
"""
