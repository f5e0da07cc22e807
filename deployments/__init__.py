"""What is deployed: the forecaster (a BentoML service) and where and when the flows run.

Imports stages never, `tasks.release` and below only.
"""
