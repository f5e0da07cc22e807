"""A law, its verdict, and the comparisons that laws are made of."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import polars as pl

from tasks.core.errors import TidemillError
from tasks.core.extensions import FOLDER

Subject = TypeVar("Subject")
OURS = Path(__file__).resolve().parents[1]


class LawBrokenError(TidemillError):
    """A law does not hold; the text is what was found."""


@dataclass(frozen=True)
class Law(Generic[Subject]):
    """One law.

    name: a statement.
    fix: what to do when it does not hold.
    check: returns what was found; raises LawBrokenError when the law does not hold.
    """

    name: str
    fix: str
    check: Callable[[Subject], str]


class LawVerdict(NamedTuple):
    """Whether one law holds.

    found: what was found, one line.
    fix: what to do; empty when the law holds.
    """

    law: str
    passed: bool
    found: str
    fix: str


def run_laws(laws: Sequence[Law[Subject]], subject: Subject) -> list[LawVerdict]:
    """The verdict on each law; an error of the subject breaks the law in whose check it occurs."""
    return [_run_law(law, subject) for law in laws]


def _run_law(law: Law[Subject], subject: Subject) -> LawVerdict:
    try:
        return LawVerdict(law.name, passed=True, found=law.check(subject), fix="")
    except LawBrokenError as error:
        return LawVerdict(law.name, passed=False, found=str(error), fix=law.fix)
    except Exception as error:  # noqa: BLE001  (a user's code raises anything)
        message = " ".join(str(error).split())
        found = f"{type(error).__name__}: {message}{_format_location(error)}"
        return LawVerdict(law.name, passed=False, found=found, fix=law.fix)


def _format_location(error: Exception) -> str:
    """The last line of the user's own code that the error came through."""
    frames: list[traceback.FrameSummary] = list(traceback.extract_tb(error.__traceback__))
    frames = [f for f in frames if FOLDER in f.filename or not Path(f.filename).is_relative_to(OURS)]
    frames = [f for f in frames if "site-packages" not in f.filename and Path(f.filename).is_file()]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def check_equal(actual: np.ndarray, expected: np.ndarray, name: str, atol: float = 0.0) -> float:
    """The largest difference of two arrays; NaN equals NaN.

    name: of what is compared, for the message.
    Raises LawBrokenError when it is above *atol*, or the shapes differ.
    """
    if actual.shape != expected.shape:
        raise LawBrokenError(f"{name}: the shape is {actual.shape} instead of {expected.shape}")
    if not actual.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    if not (difference <= atol).all():
        index = np.unravel_index(int(np.argmax(difference)), actual.shape)
        raise LawBrokenError(
            f"{name}: {actual[index]:.6g} instead of {expected[index]:.6g} at {tuple(map(int, index))}"
            f" ({(difference > atol).mean():.0%} of the numbers differ)"
        )
    return float(difference.max())


def convert_to_numbers(column: pl.Series) -> np.ndarray:
    """*column* as float64, NaN where null."""
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
