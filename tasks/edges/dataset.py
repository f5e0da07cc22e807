"""The dataset as `features` left it. Apart from artifacts.py, since the schema needs numpy."""

from pathlib import Path

from tasks.core.about import About
from tasks.core.dataset import Dataset
from tasks.core.schema import FeatureSchema
from tasks.edges.artifacts import read_calendar, read_json


def read_features_dataset(folder: Path, about: About) -> Dataset:
    """The dataset of *about* with the schema and the calendar in *folder*, data/features."""
    schema = FeatureSchema.model_validate(read_json(folder / "schema.json"))
    return Dataset(about, read_calendar(folder, about), schema)
