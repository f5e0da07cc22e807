"""From a record's bytes to typed fields, or to the rule that it breaks. Whatever arrives, each record gets an answer of its own.

A batch is decoded at once where all its records are alike; only what that cannot tell for sure (bad JSON, a field more or less, a wrong type)
is looked at one by one. Joining messages by newline and parsing the text would be as fast and shift rows to wrong offsets
(two objects in one message).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

RULE, DETAIL = "_rule", "_detail"
_KEYS = '":'  # once for each field of a flat object, written without spaces; more often where a text contains it, which is then looked at

_CHUNK = 64  # records; where one in a few hundred is bad, most chunks hold none


class Decoded(NamedTuple):
    """What became of a batch.

    fields: one row a record in its order, the fields' columns and RULE, DETAIL (null where the record is well). added: name -> type of fields
    that are new and that records otherwise well have.
    """

    fields: pl.DataFrame
    added: dict[str, pl.DataType]


class JsonDecoder:
    """Flat JSON objects. fields: name -> type. nullable: those that may be null or absent. n_addable: how many unknown fields may be added."""

    def __init__(self, fields: Mapping[str, pl.DataType], nullable: frozenset[str], max_bytes: int, n_addable: int) -> None:
        self._fields, self._nullable, self._max_bytes, self._n_addable = dict(fields), nullable, max_bytes, n_addable

    def decode(self, values: pl.Series) -> Decoded:
        """Decode *values* (Binary, none null)."""
        text = _as_text(values.set(values.bin.size() > self._max_bytes, None))
        alike = (text.str.count_matches(_KEYS, literal=True) == len(self._fields)).fill_null(value=False)
        if (fast := self._fast(text.filter(alike))) is None:
            alike = self._narrowed(text, alike)
            fast = self._fast(text.filter(alike))
            assert fast is not None, "each chunk of it was decoded before"
        if alike.all():
            return Decoded(fast, {})
        slow, added = self._slow(values.filter(~alike).to_list())
        order = pl.concat([alike.arg_true(), (~alike).arg_true()])
        both = pl.concat([fast, slow], how="diagonal").with_columns(order.alias("_order")).sort("_order").drop("_order")
        return Decoded(both, added)

    @property
    def _schema(self) -> dict[str, Any]:
        return {**self._fields, RULE: pl.String, DETAIL: pl.String}

    def _fast(self, text: pl.Series) -> pl.DataFrame | None:
        """All at once; None when one of them cannot be decoded. Rows whose field is null without leave to be, or no number, are marked."""
        if (read := self._read(text)) is None:
            return None
        frame = read.struct.unnest()
        rule, detail = pl.lit(None, pl.String), pl.lit(None, pl.String)
        for name, dtype in self._fields.items():
            if name not in self._nullable and frame[name].null_count():
                rule = pl.when(pl.col(name).is_null()).then(pl.lit("missing")).otherwise(rule)
                detail = pl.when(pl.col(name).is_null()).then(pl.lit(f"{name} is null or absent")).otherwise(detail)
            elif dtype.is_float() and not frame[name].is_finite().all():
                rule = pl.when(~pl.col(name).is_finite()).then(pl.lit("not_finite")).otherwise(rule)
                detail = pl.when(~pl.col(name).is_finite()).then(pl.lit(f"{name} is not finite")).otherwise(detail)
        return frame.with_columns(rule.alias(RULE), detail.alias(DETAIL))

    def _read(self, text: pl.Series) -> pl.Series | None:
        try:
            return text.str.json_decode(pl.Struct(self._fields))
        except pl.exceptions.PolarsError:
            return None

    def _narrowed(self, text: pl.Series, alike: pl.Series) -> pl.Series:
        """*alike* without the chunks in which some record cannot be decoded."""
        places, candidates = alike.arg_true(), text.filter(alike)
        chunks = [(start, candidates.slice(start, _CHUNK)) for start in range(0, len(candidates), _CHUNK)]
        kept = [places.slice(start, _CHUNK) for start, chunk in chunks if self._read(chunk) is not None]
        narrowed = pl.repeat(value=False, n=len(text), dtype=pl.Boolean, eager=True)
        return narrowed.scatter(pl.concat(kept), values=True) if kept else narrowed

    def _slow(self, values: list[bytes]) -> tuple[pl.DataFrame, dict[str, pl.DataType]]:
        found = [self._one(value) for value in values]
        added: dict[str, pl.DataType] = {}
        for i, (fields, rule, _) in enumerate(found):
            if rule is None and (extra := {name: value for name, value in fields.items() if name not in self._fields}):
                fault = self._add(extra, added)
                if fault is not None:
                    found[i] = ({}, *fault)
        schema = {**self._schema, **added}
        columns = {name: [fields.get(name) for fields, _, _ in found] for name in schema}
        columns |= {RULE: [rule for _, rule, _ in found], DETAIL: [detail for _, _, detail in found]}
        return pl.DataFrame(columns, schema=schema, strict=False), added

    def _add(self, extra: Mapping[str, Any], added: dict[str, pl.DataType]) -> tuple[str, str] | None:
        """Take the fields *extra* into *added*; the rule and the detail when one cannot be."""
        for name, value in extra.items():
            dtype = _type_of(value)
            if name in added and value is not None and added[name] != dtype:
                return "wrong_type", f"{name} is {_said(value)}, and was {added[name]} in an earlier record"
            if name not in added and value is not None:
                if dtype is None or not name.isidentifier() or name.startswith("_"):
                    return "unknown_field", f"{name[:60]!r} is not a field of this feed, and {_said(value)} can be no column"
                if len(added) >= self._n_addable:
                    return "unknown_field", f"{name[:60]!r} is not a field of this feed, and no more may be added (`feed.max_added_fields`)"
                added[name] = dtype
        return None

    def _one(self, value: bytes) -> tuple[dict[str, Any], str | None, str | None]:
        """(fields, rule, detail) of one record."""
        import orjson  # noqa: PLC0415  (most feeds never need it)

        if len(value) > self._max_bytes:
            return {}, "too_large", f"{len(value):,} bytes, more than `feed.max_record_kb`"
        try:
            read = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            return {}, "not_json", str(error)[:200]
        if not isinstance(read, dict):
            return {}, "not_an_object", f"the record is {_said(read)}"
        fault = self._fault(read)
        return ({}, *fault) if fault else (read, None, None)

    def _fault(self, read: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first rule that an object breaks, and how."""
        for name, dtype in self._fields.items():
            if (given := read.get(name)) is not None:
                if (rule := _misfit(given, dtype)) is not None:
                    return rule, f"{name} is {_said(given)}, not {dtype}"
            elif name not in self._nullable:
                return "missing", f"{name} is null or absent"
            elif name not in read and (new := next((other for other in read if other not in self._fields), None)) is not None:
                return "renamed", f"{name} is absent, and {new[:60]!r} is new: a renamed field must be declared in `feed.fields`"
        return None


def _as_text(values: pl.Series) -> pl.Series:
    """Text, null where the bytes are none."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series([None if value is None or not _is_text(value) else value for value in values], dtype=pl.Binary).cast(pl.String)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _misfit(value: Any, dtype: pl.DataType) -> str | None:
    """The rule that *value* breaks as *dtype*."""
    if dtype.is_float():
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return None if fits and math.isfinite(value) else "not_finite" if fits else "wrong_type"
    wanted = int if dtype.is_integer() else bool if dtype == pl.Boolean else str
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if fits and wanted is int and not -(2**63) <= value < 2**63:
        return "not_finite"
    return None if fits else "wrong_type"


def _type_of(value: Any) -> pl.DataType | None:
    if isinstance(value, bool):
        return pl.Boolean()
    return pl.Float64() if isinstance(value, int | float) else pl.String() if isinstance(value, str) else None


def _said(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004  (a line of a table)
