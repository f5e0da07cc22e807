"""Least squares, pooled over series."""
