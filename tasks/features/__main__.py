"""`python -m tasks.features`: data/clean -> data/features."""

from pathlib import Path

from tasks.core.frames import FEATURES, SERIES, VINTAGES
from tasks.edges.artifacts import read_frame, replacing, write_frame, write_json, write_sessions
from tasks.edges.door import open_door
from tasks.edges.params import read_about, read_params
from tasks.edges.settings import ROOT
from tasks.features.params import FeatureParams
from tasks.features.stage import featurize


def main(root: Path = ROOT) -> None:
    """Read the clean rows, compute, and put table.parquet, vintages.parquet, schema.json and gaps.json in place together."""
    rows = read_frame(root / "data/clean/rows.parquet", SERIES)
    features = featurize(rows, read_about(root), read_params("features", FeatureParams, root))
    with replacing(root / "data/features") as folder:
        write_frame(folder / "table.parquet", features.table, FEATURES)
        write_frame(folder / "vintages.parquet", features.vintages, VINTAGES)
        write_json(folder / "schema.json", features.schema.model_dump())
        write_json(folder / "gaps.json", features.gaps)
        write_sessions(folder, features.calendar)  # so that later stages date steps without the exchange library
    n_gaps = int(features.table["is_gap"].sum())
    print(f"features: {features.table.height} steps of {len(features.gaps)} series, {n_gaps} of them gaps; {len(features.schema.columns)} columns")


if __name__ == "__main__":
    open_door(main)
