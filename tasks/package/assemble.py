"""Seal a release: its files, its graphs (INT8 where chosen) and the rows that it looks back on."""

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.frames import SERIES, select_as_of
from tasks.core.sketch import REFERENCE, build_reference
from tasks.edges.params import Section
from tasks.features import add_target
from tasks.package.ensemble_graph import build_ensemble_graph, check_ensemble_graph
from tasks.release import Manifest, Release, load_unsealed_release, write_manifest
from tasks.release.manifest import GRAPH, MEMBERS, OPTIONAL, REQUIRED


def build_release(
    unsealed: Path,
    quantized: Path,
    rows: pl.DataFrame,
    rows_steps: int,
    folder: Path,
    parameters: Mapping[str, Section] | None = None,
) -> Manifest:
    """Put the release of the folder *unsealed* into the existing *folder* and seal it.

    quantized: folder of the INT8 graphs.
    parameters: by model, and of the ensemble; those of the release's members are sealed.
    Raises ReleaseError when the unsealed release cannot be loaded.
    """
    release = load_unsealed_release(unsealed)
    folder.mkdir(exist_ok=True, parents=True)
    for name in (*REQUIRED, *OPTIONAL):
        if name != "rows.parquet" and (unsealed / name).exists():
            shutil.copyfile(unsealed / name, folder / name)
    _write_graphs(release, {name: _find_graph(unsealed, quantized, name) for name in release.members}, folder)
    SERIES.conform(select_rows_tail(release, rows, rows_steps)).write_parquet(folder / "rows.parquet")
    named = {*release.members, "ensemble"}
    sealed = write_manifest(folder, {name: of for name, of in (parameters or {}).items() if name in named})
    build_monitored_reference(rows, release.about, sealed.seen_until).write_parquet(folder / REFERENCE)
    return sealed


def build_monitored_reference(rows: pl.DataFrame, about: About, seen_until: datetime) -> pl.DataFrame:
    """What the monitor compares later values with: counts of the values known by *seen_until*.

    It is outside the digest, since no forecast depends on it.
    """
    known = select_as_of(rows, seen_until)
    known = known.with_columns(add_target(known, about)["y"].alias(about.target.column))
    columns = [c for c, dtype in known.schema.items() if dtype.is_numeric() or dtype == pl.Boolean]
    return build_reference(known, columns)


def select_rows_tail(release: Release, rows: pl.DataFrame, rows_steps: int) -> pl.DataFrame:
    """The newest *rows_steps* steps of each series, and all rows that the release's history needs.

    Those are the rows that it looks back on from the first cutoff of its history.
    """
    newest = pl.col("event_time").rank("dense", descending=True).over("series_id") <= rows_steps
    if release.history.is_empty():
        return rows.filter(newest)
    times = rows["event_time"].unique().sort()
    first = int(times.search_sorted(release.history.select(pl.col("cutoff").min()).item()))
    # The origin is one step before its cutoff; rows with gaps reach further back
    since = times[max(0, first - release.schema.lookback_steps - 2)]
    return rows.filter(newest | (pl.col("event_time") >= since))


def _write_graphs(release: Release, files: dict[str, Path], folder: Path) -> None:
    """Write the one graph of all members that convert, and the graphs of the others.

    files: graph of each member.
    Raises ReleaseError when the one graph does not give the numbers of the members.
    """
    graphs = {name: file.read_bytes() for name, file in files.items()}
    ensemble = build_ensemble_graph(release, graphs)
    for name in ensemble.left_out:
        (folder / MEMBERS).mkdir(exist_ok=True)
        (folder / MEMBERS / f"{name}.onnx").write_bytes(graphs[name])
    if ensemble.content is not None:
        (folder / GRAPH).write_bytes(ensemble.content)
        check_ensemble_graph(release, graphs, ensemble.content)


def _find_graph(unsealed: Path, quantized: Path, name: str) -> Path:
    """The graph of a member to ship: quantize writes one only where INT8 was chosen."""
    graph = quantized / f"{name}.onnx"
    return graph if graph.exists() else unsealed / MEMBERS / f"{name}.onnx"
