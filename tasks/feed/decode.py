"""From a record's bytes to typed fields, or to the rule that it breaks.

Whatever arrives, each record gets an answer of its own. The slow way reads one record after the
other and is what the rules mean. JSON has a fast way beside it for records that are written like
their neighbours: a pattern that knows each field's place and type lets through only what both ways
read alike, and the rest goes the slow way. Joining messages by newline and parsing the text would
be as fast and shift rows to wrong offsets (two objects in one message); the parser alone would take
`true` for 1.0, 1.5 for 1 and the first of two equal keys, without a word.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import polars as pl

from tasks.core.records import decode_loss

RULE, DETAIL = "_rule", "_detail"
LOST = "lost"  # a record that stands for others which nobody can read any more, and the place of its row
# Names that no field of a record may take
NOT_THE_TABLES = frozenset({"place", "month", "series_id", "event_time", "known_at"})

_N_PATTERNS = 4  # orders in which producers write the fields of one topic
_LEARN_FROM = 8  # records that no pattern lets through, before a new one is worth its compilation
_MAX_NAME = 100  # characters of a new column's name
# No overflow, whatever the digits
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?"
_PATTERNS: dict[Any, str] = {
    pl.Float64: _NUMBER,
    pl.Int64: r"-?(?:0|[1-9][0-9]{0,17})",
    pl.Boolean: "true|false",
    pl.String: r'"[^"\\\x00-\x1f]*"',
}
_KINDS: dict[Any, type] = {pl.Float64: float, pl.Int64: int, pl.Boolean: bool, pl.String: str}
_CHUNK = 256  # records
_SLICE = 10_000  # records
_KEY_END = re.compile(rb'"\s*:')


class DecodedBatch(NamedTuple):
    """What became of a batch.

    fields: one row a record in its order, the fields' columns and RULE, DETAIL (null where the
    record is well). added: name -> type of fields that are new and that records otherwise well
    have. broken: (rule, field) -> records, where a field of the contract is the reason.
    """

    fields: pl.DataFrame
    added: dict[str, pl.DataType]
    broken: dict[tuple[str, str], int]


class UnreadableError(Exception):
    """A record breaks *rule*; *field* is the field of the contract that is the reason, if one
    is.
    """

    def __init__(self, rule: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.field = rule, detail, field


class RecordReader(Protocol):
    """A format: bytes to fields by name.

    A field that is absent is not in them. Raises UnreadableError.
    """

    def __call__(self, value: bytes) -> Mapping[str, Any]:
        """Read one record."""
        ...


class RecordContract(NamedTuple):
    """What a record must be. fields: name -> type. nullable: those that may be null or absent.
    arrived: those that evolution added, all nullable.

    max_bytes: of a record. n_addable: how many unknown fields may still be added.
    """

    fields: Mapping[str, pl.DataType]
    nullable: frozenset[str]
    arrived: frozenset[str]
    max_bytes: int
    n_addable: int


class RecordDecoder:
    """One record after the other, in any format."""

    def __init__(self, contract: RecordContract, read: RecordReader) -> None:
        self.contract, self._reader = contract, read
        self._usual: list[tuple[str, Any]] = [
            (name, _KINDS[type(dtype)]) for name, dtype in contract.fields.items()
        ]

    def decode(self, values: pl.Series) -> DecodedBatch:
        """Decode *values* (Binary, none null)."""
        added: dict[str, pl.DataType] = {}
        broken: dict[tuple[str, str], int] = {}
        found: list[tuple[Mapping[str, Any], str | None, str | None]] = []
        # One of 20 MB is not copied to be found too large
        heads = values.bin.slice(0, self.contract.max_bytes + 1)
        for value, n_bytes in zip(heads.to_list(), values.bin.size().to_list(), strict=True):
            try:
                found.append((self._decode_one(value, n_bytes, added), None, None))
            except UnreadableError as fault:
                found.append(({}, fault.rule, fault.detail))
                if fault.field is not None:
                    broken[fault.rule, fault.field] = broken.get((fault.rule, fault.field), 0) + 1
        columns = {
            name: _build_column(name, dtype, [fields.get(name) for fields, _, _ in found])
            for name, dtype in {**self.contract.fields, **added}.items()
        }
        rules = {
            RULE: pl.Series([rule for _, rule, _ in found], dtype=pl.String),
            DETAIL: pl.Series([said for _, _, said in found], dtype=pl.String),
        }
        return DecodedBatch(pl.DataFrame({**columns, **rules}), added, broken)

    def _decode_one(self, value: bytes, n_bytes: int, added: dict[str, pl.DataType]) -> Mapping[str, Any]:
        """One record's fields; those that are new go to *added*."""
        if n_bytes > self.contract.max_bytes:
            raise UnreadableError("too_large", f"{n_bytes:,} bytes, more than `feed.max_record_kb` allows")
        if (lost := decode_loss(value)) is not None:
            raise UnreadableError(LOST, lost)
        if not value:
            raise UnreadableError("empty", "the value has no bytes; a tombstone would be null")
        read = self._reader(value)
        if self._is_usual(read):
            return read
        known = {**self.contract.fields, **added}
        new = [name for name in read if name not in known]
        for name, dtype in known.items():
            self._check(name, dtype, read, new)
        fresh: dict[str, pl.DataType] = {}
        for name in new:
            if read[name] is not None:
                fresh[name] = _decide_new_type(name, read[name], [*known, *fresh])
        if len(added) + len(fresh) > self.contract.n_addable:
            raise UnreadableError(
                "unknown_field",
                f"{_format_names(fresh)}: no more fields may be added (`feed.max_added_fields`)",
            )
        added |= fresh
        return read

    def _is_usual(self, read: Mapping[str, Any]) -> bool:
        """Whether *read* has every field and no other, each exactly of its kind: nothing is left
        to be judged, in a third of the time.
        """
        for name, kind in self._usual:
            value: Any = read.get(name)
            if (
                type(value) is not kind
                or (kind is float and value - value != 0.0)
                or (kind is int and not -(2**63) <= value < 2**63)
            ):
                return False
        return len(read) == len(self._usual)

    def _check(self, name: str, dtype: pl.DataType, read: Mapping[str, Any], new: list[str]) -> None:
        if (given := read.get(name)) is not None:
            if (rule := _find_misfit(given, dtype)) is not None:
                raise UnreadableError(rule, f"{name} is {_format_value(given)}, not {dtype}", name)
            return
        if name not in self.contract.fields or name in self.contract.arrived:
            return  # came by evolution: it may be absent, beside whatever
        if name not in read and new:
            raise UnreadableError(
                "renamed",
                f"{name} is absent, and {_format_names(new)} is new: a renamed field must be declared in"
                " `feed.fields`",
                name,
            )
        if name not in self.contract.nullable:
            raise UnreadableError("missing", f"{name} is null or absent", name)


class JsonDecoder(RecordDecoder):
    """Flat JSON objects."""

    def __init__(self, contract: RecordContract) -> None:
        super().__init__(contract, parse_json_object)
        self._patterns: list[str] = []

    def decode(self, values: pl.Series) -> DecodedBatch:
        """See Decoder."""
        plain, text = self.find_plain(values)
        if not plain.any():
            return super().decode(values)
        fast = self._decode_fast(text if plain.all() else text.filter(plain))
        if plain.all():
            return DecodedBatch(fast, {}, {})
        slow = super().decode(values.filter(~plain))
        order = pl.concat([plain.arg_true(), (~plain).arg_true()])
        both = (
            pl.concat([fast, slow.fields], how="diagonal")
            .with_columns(order.alias("_order"))
            .sort("_order")
            .drop("_order")
        )
        return DecodedBatch(both, slow.added, slow.broken)

    def find_plain(self, values: pl.Series) -> tuple[pl.Series, pl.Series]:
        """(whether the fast way reads a record as the slow way would, the records as text)."""
        text = convert_to_text(values.set(values.bin.size() > self.contract.max_bytes, None))
        passes = pl.repeat(value=False, n=len(text), dtype=pl.Boolean, eager=True)
        for nth in range(_N_PATTERNS):
            rest = text if nth == 0 else text.set(passes, None)
            if nth == len(self._patterns) and not self._learn(rest):
                break
            passes |= rest.str.contains(self._patterns[nth]).fill_null(value=False)
            if passes.all():
                break
        return passes, text

    def _learn(self, text: pl.Series) -> bool:
        """Take the order of fields of one of the first records in *text* as a new pattern."""
        rest = text.drop_nulls()
        if len(rest) < _LEARN_FROM:
            return False
        for one in rest.head(2 * _LEARN_FROM):
            pattern = self._build_pattern(one)
            if pattern is not None and pattern not in self._patterns:
                self._patterns.append(pattern)
                return True
        return False

    def _build_pattern(self, one: str) -> str | None:
        """Records with the fields of *one* in its order; None when its fields are not those of
        the contract.
        """
        try:
            names = list(parse_json_object(one.encode()))
        except UnreadableError:
            return None
        fields = self.contract.fields
        if not set(names) <= set(fields) or not {
            name for name in fields if name not in self.contract.nullable
        } <= set(names):
            return None
        parts = [
            f'"{_build_literal_pattern(name)}":'
            f" ?(?:{_PATTERNS[type(fields[name])]}{'|null' if name in self.contract.nullable else ''})"
            for name in names
        ]
        return r"^\{" + ", ?".join(parts) + r"\}$"

    def _decode_fast(self, text: pl.Series) -> pl.DataFrame:
        form = pl.Struct(dict(self.contract.fields))
        # Its parser holds much
        slices = (
            text.slice(first, _SLICE).str.json_decode(form).struct.unnest()
            for first in range(0, len(text), _SLICE)
        )
        return pl.concat(slices).with_columns(
            pl.lit(None, pl.String).alias(RULE), pl.lit(None, pl.String).alias(DETAIL)
        )


def parse_json_object(value: bytes) -> Mapping[str, Any]:
    """One JSON object. A key that comes twice is refused: parsers take the first, or the last."""
    import orjson

    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise UnreadableError("not_json", str(error)[:200]) from error
    if not isinstance(read, dict):
        raise UnreadableError("not_an_object", f"the record is {_format_value(read)}")
    # A key twice, or an object inside, or a text that looks like a key's end
    if len(_KEY_END.findall(value)) != len(read):
        _check_unique_keys(value)
    return read


def _check_unique_keys(value: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise UnreadableError(
                "equal_keys", f"{_format_name(max(names, key=names.count))} comes twice in one object"
            )
        return dict(pairs)

    try:
        json.loads(value, object_pairs_hook=unique)
    except RecursionError as error:
        raise UnreadableError("not_json", "nested too deeply") from error


def convert_to_text(values: pl.Series) -> pl.Series:
    """Text, null where the bytes are none."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        told = values.to_list()
        kept = [None if bad else value for value, bad in zip(told, _find_non_text(told), strict=True)]
        return pl.Series(values.name, kept, pl.Binary).cast(pl.String)


def _find_non_text(values: list[bytes | None]) -> list[bool]:
    """Which of *values* are bytes and no text: most chunks hold none, and are looked at as one."""
    found: list[bool] = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        all_text = _is_text(b"\n".join(value for value in chunk if value is not None))
        found += (
            [False] * len(chunk)
            if all_text
            else [value is not None and not _is_text(value) for value in chunk]
        )
    return found


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _build_literal_pattern(text: str) -> str:
    """*text* as a pattern that means itself."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _build_column(name: str, dtype: pl.DataType, values: list[Any]) -> pl.Series:
    """*values*, all of which fit; a whole number as the float that its column holds, since
    polars would make a large one null.
    """
    return pl.Series(
        name,
        [None if value is None else float(value) for value in values] if dtype.is_float() else values,
        dtype,
    )


def _find_misfit(value: Any, dtype: pl.DataType) -> str | None:
    """The rule that *value* breaks as *dtype*."""
    wanted = (
        (int, float)
        if dtype.is_float()
        else int
        if dtype.is_integer()
        else bool
        if dtype == pl.Boolean
        else str
    )
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return "wrong_type"
    # bits
    holds = (
        _is_finite(value)
        if dtype.is_float()
        else not dtype.is_integer() or int(value).bit_length() < 64 or value == -(2**63)
    )
    return None if holds else "not_finite"


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _decide_new_type(name: str, value: Any, known: Iterable[str]) -> pl.DataType:
    """The type of a new column *name* for *value*. Raises UnreadableError when it can be none."""
    dtype = (
        pl.Boolean()
        if isinstance(value, bool)
        else pl.Float64()
        if isinstance(value, int | float)
        else pl.String()
    )
    if not isinstance(value, bool | int | float | str):
        raise UnreadableError(
            "unknown_field",
            f"{_format_name(name)} is not a field of this feed, and {_format_value(value)} can be no column",
        )
    if (
        not name.isidentifier()
        or name.startswith("_")
        or len(name) > _MAX_NAME
        or name.lower() in NOT_THE_TABLES
    ):
        raise UnreadableError(
            "unknown_field", f"{_format_name(name)} is not a field of this feed, and can be no column's name"
        )
    if same := next((other for other in known if other.lower() == name.lower()), None):
        raise UnreadableError(
            "unknown_field",
            f"{_format_name(name)} is not a field of this feed, and differs from {same} in capitals alone",
        )
    if dtype.is_float() and not _is_finite(value):
        raise UnreadableError("not_finite", f"{_format_name(name)} is {_format_value(value)}")
    return dtype


def _format_names(names: Iterable[str]) -> str:
    shown = [_format_name(name) for name in names]
    # A line of a table
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3:,} more" if len(shown) > 3 else "")


def _format_name(name: str) -> str:
    return ascii(name if len(name) <= 60 else f"{name[:60]}...")


def _format_value(value: Any) -> str:
    text = (
        ascii(value)
        if not isinstance(value, list | dict)
        else f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    )
    return text if len(text) <= 60 else f"{text[:60]}..."
