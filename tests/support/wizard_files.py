"""Small files for tests of the wizard: hourly values, times and CSV."""

import math
import random
from datetime import UTC, datetime, timedelta

START = datetime(2022, 1, 3, tzinfo=UTC)  # a Monday


def hourly(n=600, season=24, level=100.0, noise=2.0, seed=1):
    draw = random.Random(seed)
    return [level + 10 * math.sin(2 * math.pi * i / season) + draw.gauss(0, noise) for i in range(n)]


def times(n, step=timedelta(hours=1), form="%Y-%m-%d %H:%M:%S", start=START):
    return [(start + i * step).strftime(form) for i in range(n)]


def csv(path, header, *columns, separator=","):
    lines = [separator.join(str(c) for c in row) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([separator.join(header)] * bool(header) + lines) + "\n")
    return path
