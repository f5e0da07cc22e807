"""From a record's bytes to typed fields, or to the rule that it breaks.

Whatever arrives, each record gets a result of its own. The slow decoder reads one record after the
other, and what it does is what the rules mean. JSON has a fast decoder too, for records that are
written alike: a pattern that knows each field's position and type passes only records that both
decoders read alike, and the rest goes to the slow one. Joining records by newline and parsing the
text would be as fast and would shift rows to wrong offsets (two objects in one record); the parser
alone would take `true` for 1.0, 1.5 for 1 and the first of two equal keys, without a warning.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from tasks.core.records import decode_loss
from tasks.feed.contract import (
    DETAIL,
    LOST,
    RULE,
    RecordContract,
    RecordReader,
    UnreadableError,
    decide_column_type,
    find_misfit,
    format_name,
    format_names,
    format_value,
)

_N_PATTERNS = 4  # orders in which producers write the fields of one topic
_LEARN_FROM = 8  # records that no pattern passes, before a new one is worth its compilation
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

    fields: one row a record in its order: the fields' columns, RULE and DETAIL (null where the
    record is good).
    added: name -> type of the new fields of records that are good otherwise.
    broken: (rule, field) -> records, where a field of the contract is the reason.
    """

    fields: pl.DataFrame
    added: dict[str, pl.DataType]
    broken: dict[tuple[str, str], int]


class RecordDecoder:
    """Decodes one record after the other, in any format."""

    def __init__(self, contract: RecordContract, read: RecordReader) -> None:
        self.contract, self._reader = contract, read
        self._kinds: list[tuple[str, Any]] = [
            (name, _KINDS[type(dtype)]) for name, dtype in contract.fields.items()
        ]

    def decode(self, values: pl.Series) -> DecodedBatch:
        """Decode *values* (Binary, none null)."""
        added: dict[str, pl.DataType] = {}
        broken: dict[tuple[str, str], int] = {}
        results: list[tuple[Mapping[str, Any], str | None, str | None]] = []
        # A record of 20 MB is not copied to be found too large
        heads = values.bin.slice(0, self.contract.max_bytes + 1)
        for value, n_bytes in zip(heads.to_list(), values.bin.size().to_list(), strict=True):
            try:
                results.append((self._decode_one(value, n_bytes, added), None, None))
            except UnreadableError as fault:
                results.append(({}, fault.rule, fault.detail))
                if fault.field is not None:
                    broken[fault.rule, fault.field] = broken.get((fault.rule, fault.field), 0) + 1
        columns = {
            name: _build_column(name, dtype, [fields.get(name) for fields, _, _ in results])
            for name, dtype in {**self.contract.fields, **added}.items()
        }
        rules = {
            RULE: pl.Series([rule for _, rule, _ in results], dtype=pl.String),
            DETAIL: pl.Series([detail for _, _, detail in results], dtype=pl.String),
        }
        return DecodedBatch(pl.DataFrame({**columns, **rules}), added, broken)

    def _decode_one(self, value: bytes, n_bytes: int, added: dict[str, pl.DataType]) -> Mapping[str, Any]:
        """One record's fields; the types of new ones go to *added*."""
        if n_bytes > self.contract.max_bytes:
            raise UnreadableError("too_large", f"{n_bytes:,} bytes, more than `feed.max_record_kb` allows")
        if (lost := decode_loss(value)) is not None:
            raise UnreadableError(LOST, lost)
        if not value:
            raise UnreadableError("empty", "the value has no bytes; a tombstone would be null")
        fields = self._reader(value)
        if self._is_usual(fields):
            return fields
        known = {**self.contract.fields, **added}
        new = [name for name in fields if name not in known]
        for name, dtype in known.items():
            self._check_field(name, dtype, fields, new)
        types: dict[str, pl.DataType] = {}
        for name in new:
            if fields[name] is not None:
                types[name] = decide_column_type(name, fields[name], [*known, *types])
        if len(added) + len(types) > self.contract.n_addable:
            raise UnreadableError(
                "unknown_field",
                f"{format_names(types)}: no more fields may be added (`feed.max_added_fields`)",
            )
        added |= types
        return fields

    def _is_usual(self, fields: Mapping[str, Any]) -> bool:
        """Whether there is every field and no other, each of exactly its kind.

        Nothing is left to be checked then, in a third of the time.
        """
        for name, kind in self._kinds:
            value: Any = fields.get(name)
            if (
                type(value) is not kind
                or (kind is float and value - value != 0.0)
                or (kind is int and not -(2**63) <= value < 2**63)
            ):
                return False
        return len(fields) == len(self._kinds)

    def _check_field(self, name: str, dtype: pl.DataType, fields: Mapping[str, Any], new: list[str]) -> None:
        """Raise UnreadableError when *fields* do not have *name* as the contract wants it."""
        if (value := fields.get(name)) is not None:
            if (rule := find_misfit(value, dtype)) is not None:
                raise UnreadableError(rule, f"{name} is {format_value(value)}, not {dtype}", name)
            return
        if name not in self.contract.fields or name in self.contract.arrived:
            return  # a column that came with records may be absent, whatever else is there
        if name not in fields and new:
            raise UnreadableError(
                "renamed",
                f"{name} is absent, and {format_names(new)} is new: a renamed field must be declared in"
                " `feed.fields`",
                name,
            )
        if name not in self.contract.nullable:
            raise UnreadableError("missing", f"{name} is null or absent", name)


class JsonDecoder(RecordDecoder):
    """Decodes flat JSON objects."""

    def __init__(self, contract: RecordContract) -> None:
        super().__init__(contract, parse_json_object)
        self._patterns: list[str] = []

    def decode(self, values: pl.Series) -> DecodedBatch:
        """See RecordDecoder."""
        is_plain, text = self.find_plain(values)
        if not is_plain.any():
            return super().decode(values)
        fast = self._decode_fast(text if is_plain.all() else text.filter(is_plain))
        if is_plain.all():
            return DecodedBatch(fast, {}, {})
        slow = super().decode(values.filter(~is_plain))
        order = pl.concat([is_plain.arg_true(), (~is_plain).arg_true()]).alias("_order")
        both = pl.concat([fast, slow.fields], how="diagonal").with_columns(order)
        return DecodedBatch(both.sort("_order").drop("_order"), slow.added, slow.broken)

    def find_plain(self, values: pl.Series) -> tuple[pl.Series, pl.Series]:
        """(whether both decoders read a record alike, the records as text)."""
        text = convert_to_text(values.set(values.bin.size() > self.contract.max_bytes, None))
        passes = pl.repeat(value=False, n=len(text), dtype=pl.Boolean, eager=True)
        for nth in range(_N_PATTERNS):
            rest = text if nth == 0 else text.set(passes, None)
            if nth == len(self._patterns) and not self._learn_pattern(rest):
                break
            passes |= rest.str.contains(self._patterns[nth]).fill_null(value=False)
            if passes.all():
                break
        return passes, text

    def _learn_pattern(self, text: pl.Series) -> bool:
        """Make a pattern of the order of fields of one of the first records in *text*."""
        rest = text.drop_nulls()
        if len(rest) < _LEARN_FROM:
            return False
        for record in rest.head(2 * _LEARN_FROM):
            pattern = self._build_pattern(record)
            if pattern is not None and pattern not in self._patterns:
                self._patterns.append(pattern)
                return True
        return False

    def _build_pattern(self, record: str) -> str | None:
        """Matches records with the fields of *record* in its order.

        None when its fields are not those of the contract.
        """
        try:
            names = list(parse_json_object(record.encode()))
        except UnreadableError:
            return None
        fields, nullable = self.contract.fields, self.contract.nullable
        if not set(fields) - nullable <= set(names) <= set(fields):
            return None
        parts = [
            f'"{_build_literal_pattern(name)}":'
            f" ?(?:{_PATTERNS[type(fields[name])]}{'|null' if name in nullable else ''})"
            for name in names
        ]
        return r"^\{" + ", ?".join(parts) + r"\}$"

    def _decode_fast(self, text: pl.Series) -> pl.DataFrame:
        form = pl.Struct(dict(self.contract.fields))
        # Slice by slice, since the parser holds much
        slices = (
            text.slice(first, _SLICE).str.json_decode(form).struct.unnest()
            for first in range(0, len(text), _SLICE)
        )
        return pl.concat(slices).with_columns(
            pl.lit(None, pl.String).alias(RULE), pl.lit(None, pl.String).alias(DETAIL)
        )


def parse_json_object(value: bytes) -> Mapping[str, Any]:
    """One JSON object. Raises UnreadableError for anything else.

    A key that comes twice is refused, since parsers take the first, or the last.
    """
    import orjson

    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise UnreadableError("not_json", str(error)[:200]) from error
    if not isinstance(content, dict):
        raise UnreadableError("not_an_object", f"the record is {format_value(content)}")
    # A key that comes twice, or an object inside, or a text that looks like a key's end
    if len(_KEY_END.findall(value)) != len(content):
        _check_unique_keys(value)
    return content


def _check_unique_keys(value: bytes) -> None:
    def check(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise UnreadableError(
                "equal_keys", f"{format_name(max(names, key=names.count))} comes twice in one object"
            )
        return dict(pairs)

    try:
        json.loads(value, object_pairs_hook=check)
    except RecursionError as error:
        raise UnreadableError("not_json", "nested too deeply") from error


def convert_to_text(values: pl.Series) -> pl.Series:
    """*values* as text, null where the bytes are none."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        records = values.to_list()
        is_bad = _find_non_text(records)
        texts = [None if bad else value for value, bad in zip(records, is_bad, strict=True)]
        return pl.Series(values.name, texts, pl.Binary).cast(pl.String)


def _find_non_text(values: list[bytes | None]) -> list[bool]:
    """Which of *values* are bytes and no text.

    Most chunks hold none, and are looked at as one.
    """
    is_bad: list[bool] = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        if _is_text(b"\n".join(value for value in chunk if value is not None)):
            is_bad += [False] * len(chunk)
        else:
            is_bad += [value is not None and not _is_text(value) for value in chunk]
    return is_bad


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _build_literal_pattern(text: str) -> str:
    """A pattern that matches *text* alone."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _build_column(name: str, dtype: pl.DataType, values: list[Any]) -> pl.Series:
    """A column of *values*, all of which fit.

    In a column of floats a whole number is made one: polars would make a large one null.
    """
    if dtype.is_float():
        values = [None if value is None else float(value) for value in values]
    return pl.Series(name, values, dtype)
