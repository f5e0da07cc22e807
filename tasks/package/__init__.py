"""Put everything that a release needs into one folder, under one digest.

In: models/challenger (challenger and baseline, unsealed), models/quantized, data/clean,
data/features (that the service must compute, too), data/reports/explain (for the card). Out:
models/release, the sealed challenger with its rows, provenance, model card and Bento;
models/release/baseline, the sealed baseline. The digest covers exactly what the service loads, so
the same inputs give the same digest on every run; card, provenance and Bento are outside it. The
Bento has the code that the service imports and the release, and nothing else of the chain.
Promised: the Bento computes the numbers of training, or there is no release.
"""
