"""The naive baselines."""
