"""Neural nets, pooled over series."""
