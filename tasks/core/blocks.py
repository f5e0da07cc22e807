"""Ranges in blocks, which bound the memory of a long computation."""

from collections.abc import Iterator


def split_blocks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover range(n), each at most *size* long."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
