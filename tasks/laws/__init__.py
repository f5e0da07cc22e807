"""Check the laws that every forecaster, feature and source must keep.

tests/laws runs them over all that Tidemill has, `tidemill check` on one of a user's own.
"""
