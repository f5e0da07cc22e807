"""Feeds drawn by hypothesis: bars of a few series, with holes, missing values and prices of all
sizes."""

import numpy as np
from hypothesis import strategies as st

from tasks.laws.feature_data import LEVELS_AND_MOVES, SeriesShape, build_about, build_rows


@st.composite
def feeds(draw, n_series=3):
    """(rows, about): a few series with holes, missing values and prices from .01 to 1e5, some of
    which hardly move."""
    about = build_about(draw(st.sampled_from(["continuous", "weekdays"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = []
    for _ in range(draw(st.integers(1, n_series))):
        n_steps, first = draw(st.integers(1, 45)), draw(st.integers(0, 10))
        level, move = draw(st.sampled_from(LEVELS_AND_MOVES))
        missing, absent = draw(st.sampled_from([0.0, 0.2])), draw(st.sampled_from([0.0, 0.3, 0.7]))
        shapes.append(SeriesShape(n_steps, first, level, move, missing, absent))
    return build_rows(about, shapes, rng), about
