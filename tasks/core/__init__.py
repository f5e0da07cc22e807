"""The vocabulary: frames, calendar, windows, scores, errors.

No I/O; time comes in as `as_of`, randomness as a seed.
"""
