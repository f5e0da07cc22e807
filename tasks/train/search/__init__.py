"""Searching a model's parameters inside the training window."""
