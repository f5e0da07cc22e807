"""How many different words functions start with: the fewer, the sooner a reader can guess what
one does."""

import ast
import math
from collections import Counter
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tasks", "flows", "deployments")
N_NAMES = 400
# 115.8 on 2026-11-30, 286 before; mlforecast, kedro, OpenSTEF, dlt and prefect have 81 to 180. Only
# down
MAX_WORDS = 120


def find_functions(node):
    """Names of all functions and methods in *node*, without leading underscores; dunders are
    left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("__"):
            yield child.name.strip("_")
        if isinstance(child, ast.stmt):  # no expression holds a function with a name
            yield from find_functions(child)


def count_leading_words(names, n_names=N_NAMES):
    """Different leading words among *n_names* of *names*: the mean over all ways to draw them.

    It is what the mean of twenty draws estimates to about 1.5, and the same on every run.
    """
    n_left_out, n_of_word = len(names) - n_names, Counter(name.split("_")[0] for name in names)

    def log_ways(n):
        return math.lgamma(n + 1) - math.lgamma(n_names + 1) - math.lgamma(n - n_names + 1)

    ways = log_ways(len(names))
    absent = (math.exp(log_ways(len(names) - n) - ways) if n <= n_left_out else 0 for n in n_of_word.values())
    return sum(1 - chance for chance in absent)


def test_leading_words_are_counted_over_all_draws():
    """Two of read, read, write: one word in one of three draws, two in the others."""
    assert abs(count_leading_words(["read_rows", "read_frame", "write_rows"], 2) - 5 / 3) < 1e-9


def test_functions_start_with_few_different_words():
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [name for path in paths for name in find_functions(ast.parse(path.read_text()))]
    n_words, one_word_frac = count_leading_words(names), mean("_" not in name for name in names)
    print(f"\n{n_words:.1f} different leading words among {N_NAMES} of {len(names)} function names")
    print(f"{one_word_frac:.0%} of the names are one word")
    assert n_words <= MAX_WORDS, "Begin a function's name with a verb that others have."
