"""Laws of blocks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.blocks import split_blocks


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(1, 9))
def test_blocks_cover_everything_once(n, size):
    covered = [i for part in split_blocks(n, size) for i in range(n)[part]]
    assert covered == list(range(n))
    assert all(part.stop - part.start <= size for part in split_blocks(n, size))
