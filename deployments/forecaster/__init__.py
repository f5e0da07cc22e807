"""The service: forecasts over HTTP, by series or from a history that the request brings.

In: the champion's release, the published rows, requests. Out: answers, and each of them in the
store of served forecasts first. Promised: its numbers are those of `tasks.release` for the same
rows; it never reads `data/`, which DVC may be rewriting; a new champion takes over without a
request dropped, and one that does not verify changes nothing.
"""
