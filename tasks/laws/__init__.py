"""What every forecaster, feature and source must keep, as functions.

tests/laws runs them over all of ours, `tidemill check` on one of a user's own.
"""
