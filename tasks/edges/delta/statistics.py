"""Choosing files by their statistics, without opening them. Pure.

A frame of files has a row a file: path, size_bytes, num_records, the partition columns, and
`min.<column>`, `max.<column>`, `null_count.<column>` of the columns that have an order.
"""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

_ORDERED = (pl.Int64, pl.Datetime)  # columns whose bounds are kept


def select_files(files: pl.DataFrame, only: Mapping[str, str], least: Mapping[str, Any]) -> pl.DataFrame:
    """The files that may hold wanted rows, by path.

    only: values of partition columns.
    least: column -> value; a file whose greatest value is smaller is left out.
    """
    for name, value in only.items():
        files = files.filter(pl.col(name) == value)
    for name, value in least.items():
        if f"max.{name}" in files.columns:
            files = files.filter((pl.col(f"max.{name}") >= value) | pl.col(f"max.{name}").is_null())
    return files.sort("path")


def split_at(files: pl.DataFrame, column: str, bound: Any) -> tuple[int, pl.DataFrame]:
    """(rows of files that are whole below *bound*, the files that have rows on both sides)."""
    below = files.filter(pl.col(f"max.{column}") < bound)
    across = files.filter((pl.col(f"min.{column}") < bound) & (pl.col(f"max.{column}") >= bound))
    return int(below["num_records"].sum()), across


def find_row_bound(files: pl.DataFrame, column: str, n_rows: int) -> Any:
    """A value of *column*: files that reach it hold *n_rows* rows, or all; None without files."""
    if files.is_empty():
        return None
    newest = files.sort(f"max.{column}", descending=True)
    n_newer = newest["num_records"].cum_sum() - newest["num_records"]
    return newest.filter(n_newer < n_rows)[f"max.{column}"].min()


def group_files(files: pl.DataFrame, by: str, max_bytes: int) -> list[pl.DataFrame]:
    """*files* by rising least value of *by*, in groups that begin every *max_bytes*."""
    ordered = files.sort(f"min.{by}", nulls_last=True)
    group = (ordered["size_bytes"].cum_sum() - ordered["size_bytes"]) // max_bytes
    groups = ordered.with_columns(group.alias("_group")).partition_by("_group", maintain_order=True)
    return [group.drop("_group") for group in groups]


def compute_statistics(rows: pl.DataFrame) -> str:
    """Delta's statistics of a file with *rows*: their number, nulls, least and greatest values."""
    ordered = [name for name, dtype in rows.schema.items() if isinstance(dtype, _ORDERED)]
    bounds = rows.select(
        *(pl.col(c).min().alias(f"min.{c}") for c in ordered),
        *(pl.col(c).max().alias(f"max.{c}") for c in ordered),
    ).row(0, named=True)
    nulls = rows.select(pl.col(ordered).null_count()).row(0, named=True) if ordered else {}
    return _format_statistics(rows.height, bounds, nulls, ordered)


def format_file_statistics(file: Mapping[str, Any]) -> str:
    """The same of *file*, a row of a frame of files."""
    ordered = [key.removeprefix("min.") for key in file if key.startswith("min.")]
    nulls = {c: file.get(f"null_count.{c}") or 0 for c in ordered}
    return _format_statistics(file["num_records"], file, nulls, ordered)


def _format_statistics(
    n_rows: int, bounds: Mapping[str, Any], nulls: Mapping[str, int], ordered: list[str]
) -> str:
    def get_bounds(of: str) -> dict[str, object]:
        values = {c: bounds[f"{of}.{c}"] for c in ordered if bounds[f"{of}.{c}"] is not None}
        return {
            c: value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if hasattr(value, "strftime") else value
            for c, value in values.items()
        }

    return json.dumps(
        {
            "numRecords": n_rows,
            "minValues": get_bounds("min"),
            "maxValues": get_bounds("max"),
            "nullCount": {c: int(nulls[c]) for c in ordered},
        }
    )
