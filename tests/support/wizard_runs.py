"""A proposal taken all the way that a user's would go: into params.yaml of a root of its own,
made current, ingested."""

import shutil
from pathlib import Path

import polars as pl

from tasks.core.calendar import build_calendar
from tasks.core.folds import build_folds
from tasks.edges.params import read_document
from tasks.features import FeatureParams, build_feature_schema
from tasks.forecasters import build_forecaster
from tasks.ingest.__main__ import main as ingest
from tasks.ingest.params import IngestParams
from tasks.ingest.wizard.decide.propose import build_proposal
from tasks.ingest.wizard.inspect.inspect_files import inspect_files
from tasks.ingest.wizard.inspect.inspected import OwnerAnswers
from tasks.ingest.wizard.use import apply_dataset
from tasks.ingest.wizard.write import write_entry
from tasks.train.params import TrainParams
from tasks.validate.params import ValidateParams

CHECKOUT = Path(__file__).resolve().parents[2]


def proposed(pattern, kind="csv", **said):
    """What the wizard makes of the files."""
    asked = OwnerAnswers(str(pattern), kind, **said)
    return build_proposal(inspect_files(asked), asked)


def made_current(root, proposal, name="feed"):
    """*root* with the entry written and in use."""
    shutil.copy(CHECKOUT / "params.yaml", root / "params.yaml")
    write_entry(name, proposal, root)
    apply_dataset(name, root)
    return root


def ingested(root):
    """Rows as the chain's first stage writes them from the unedited entry."""
    ingest(root)
    return pl.read_parquet(root / "data/raw/rows.parquet")


def assert_every_stage_accepts(root, rows):
    """Each stage's parameters are read, the models find their columns, the walk fits into the
    history."""
    document = read_document(root)
    about, train = document.about, document.parse_stage("train", TrainParams)
    document.parse_stage("ingest", IngestParams)
    contract = document.parse_stage("validate", ValidateParams)
    schema = build_feature_schema(about, document.parse_stage("features", FeatureParams))
    entry = {model: document.get_model_params(model) for model in document.list_models()}
    for model, own in entry.items():
        # Refuses unknown parameters and columns that are not declared
        build_forecaster(model, schema, 1, own)
    spans = [entry["window_mean"]["window_steps"], *(w for w in entry["har"]["windows_steps"] if w > 1)]
    assert {f"z_mean_{w}" for w in spans} <= set(schema.names)
    assert set(contract.columns) == set(rows.columns) - {"series_id", "event_time", "known_at"}
    assert rows.height >= contract.min_rows
    first, last = rows["event_time"].min(), rows["event_time"].max()
    n_steps = len(build_calendar(about, reach=(first, last)).grid(first, last))
    folds = build_folds(n_steps, n_steps - 1 - document.gate_steps, about.horizon_steps, train)
    assert sum(len(f.origins) for f in folds) == train.n_cutoffs
    assert document.gate_steps > about.horizon_steps
