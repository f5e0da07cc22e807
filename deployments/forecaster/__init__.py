"""The service: forecasts over HTTP, by series or from a history in the request.

Inputs: the champion's release, the published rows, requests. Outputs: answers, each of which is
first written to the store of served forecasts. Promise: its numbers are those of `tasks.release`
for the same rows; it never reads `data/`, which DVC may be rewriting; a new champion is taken over
without dropping a request, and one that is not verified changes nothing.
"""
