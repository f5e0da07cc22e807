"""What a record of a feed must be, and what is wrong with one that is not. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import polars as pl

RULE, DETAIL = "_rule", "_detail"
# The rule, and the disposition, of a record in place of others that cannot be read any more
LOST = "lost"
# `place` was the name of `disposition` in tables that were made before
RESERVED_NAMES = frozenset({"disposition", "place", "month", "series_id", "event_time", "known_at"})

_MAX_NAME = 100  # characters of a new column's name
_MAX_SHOWN = 60  # characters of a name or a value in a message


class UnreadableError(Exception):
    """A record breaks *rule*. field: the field of the contract that is the reason, if one is."""

    def __init__(self, rule: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.field = rule, detail, field


class RecordReader(Protocol):
    """A format: bytes to fields by name; a field that is absent is not in them."""

    def __call__(self, value: bytes) -> Mapping[str, Any]:
        """Read one record. Raises UnreadableError."""
        ...


class RecordContract(NamedTuple):
    """What a record must be.

    fields: name -> type.
    nullable: those that may be null or absent.
    arrived: those that came with records, all nullable.
    max_bytes: of a record.
    n_addable: how many unknown fields may still become columns.
    """

    fields: Mapping[str, pl.DataType]
    nullable: frozenset[str]
    arrived: frozenset[str]
    max_bytes: int
    n_addable: int


def find_misfit(value: Any, dtype: pl.DataType) -> str | None:
    """The rule that *value* breaks as a value of *dtype*; None when it fits."""
    if not isinstance(value, get_python_types(dtype)):
        return "wrong_type"
    if isinstance(value, bool) and dtype != pl.Boolean:
        return "wrong_type"
    if dtype.is_float():
        return None if is_finite(value) else "not_finite"
    return None if not dtype.is_integer() or -(2**63) <= value < 2**63 else "not_finite"


def get_python_types(dtype: pl.DataType) -> tuple[type[Any], ...]:
    """The Python types whose values a column of *dtype* holds."""
    if dtype.is_float():
        return (int, float)
    if dtype.is_integer():
        return (int,)
    return (bool,) if dtype == pl.Boolean else (str,)


def is_finite(value: Any) -> bool:
    """Whether a float holds the number *value*."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def decide_column_type(name: str, value: Any, known: Iterable[str]) -> pl.DataType:
    """The type of a new column *name* for *value*. Raises UnreadableError when it can be none.

    known: names of the fields that there are.
    """
    unknown = f"{format_name(name)} is not a field of this feed"
    if not isinstance(value, bool | int | float | str):
        raise UnreadableError("unknown_field", f"{unknown}, and {format_value(value)} can be no column")
    if not name.isidentifier() or name.startswith("_") or len(name) > _MAX_NAME or is_reserved(name):
        raise UnreadableError("unknown_field", f"{unknown}, and can be no column's name")
    if same := next((other for other in known if other.lower() == name.lower()), None):
        raise UnreadableError("unknown_field", f"{unknown}, and differs from {same} in capitals alone")
    if isinstance(value, bool):
        return pl.Boolean()
    if isinstance(value, str):
        return pl.String()
    if not is_finite(value):
        raise UnreadableError("not_finite", f"{format_name(name)} is {format_value(value)}")
    return pl.Float64()


def is_reserved(name: str) -> bool:
    """Whether *name* is a column of the table itself, in any capitals."""
    return name.lower() in RESERVED_NAMES


def format_names(names: Iterable[str]) -> str:
    """The first three of *names* and how many more, for a line of a table."""
    shown = [format_name(name) for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3:,} more" if len(shown) > 3 else "")


def format_name(name: str) -> str:
    """*name* in quotes, its begin where it is long."""
    return ascii(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")


def format_value(value: Any) -> str:
    """*value* for a message, its begin where it is long."""
    if isinstance(value, list | dict):
        text = f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    else:
        text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
