"""`tidemill leaks`: run the leak gate alone, on the current dataset or on files.

It checks all declared features, or one function of the user's own.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import FoldError, ParamsError
from tasks.core.extensions import list_extension_folders
from tasks.core.folds import Fold, build_folds
from tasks.core.frames import FEATURES, SERIES
from tasks.core.leaks import LeakFinding, LeakVerdict
from tasks.core.panel import build_panel
from tasks.core.reports.features import LeadingColumn
from tasks.core.strict import Strict
from tasks.edges.artifacts import read_frame, read_json
from tasks.edges.current import check_current
from tasks.edges.files import compute_file_hash
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.features import FeatureParams, build_feature_schema
from tasks.features.functions import resolve_functions
from tasks.features.grid import get_time_span
from tasks.features.leaks import find_leaks
from tasks.features.specs import Function
from tasks.features.stage import build_feature_set
from tasks.train.overlap import find_overlap
from tasks.train.params import TrainParams

if TYPE_CHECKING:
    from tasks.ingest.wizard.inspect.files import Format


class LeakCheckInputs(NamedTuple):
    """What is checked: the dataset's name, its description, its features and rows."""

    name: str
    about: About
    params: FeatureParams
    rows: pl.DataFrame


class LeakCheckFiles(NamedTuple):
    """Files to check, read as `tidemill new` reads them.

    target: the column to forecast; None: the wizard's choice.
    """

    pattern: str
    form: "Format"
    target: str | None


class LeakReport(Strict):
    """What was checked and found.

    features: of the table.
    checks, leading, findings: as in LeakVerdict.
    """

    dataset: str
    features: tuple[str, ...]
    checks: dict[str, Mapping[str, object]]
    leading: tuple[LeadingColumn, ...]
    findings: tuple[LeakFinding, ...]


def build_leak_report(
    function: Function | None = None,
    files: LeakCheckFiles | None = None,
    root: Path = ROOT,
) -> LeakReport:
    """The gate's verdict with the dataset's name.

    function: check this one alone.
    files: check these instead of the current dataset.
    """
    data = _read_current(root) if files is None else _read_from_files(files, root)
    folders = (*list_extension_folders(root), Path.cwd())
    params = resolve_functions(
        data.params if function is None else FeatureParams(list=(function,), leaks=data.params.leaks),
        *folders,
    )
    declared = function is None and files is None
    table = _find_built_table(root, build_feature_schema(data.about, params).hash) if declared else None
    if table is None:
        built = build_feature_set(data.rows, data.about, params)
        table, calendar = built.table, built.calendar
    else:
        calendar = build_calendar(data.about, reach=get_time_span(data.rows))
    verdict = find_leaks(data.rows, data.about, params, table, calendar)
    if declared:
        verdict = _add_overlap(verdict, table, data.about, params, calendar, root)
    return LeakReport(
        dataset=data.name,
        features=tuple(table.columns[6:]),
        checks=verdict.checks,
        leading=verdict.leading,
        findings=verdict.findings,
    )


def _read_current(root: Path) -> LeakCheckInputs:
    document, path = read_document(root), "data/clean/rows.parquet"
    check_current(path, document.dataset, root)
    rows = read_frame(root / path, SERIES)
    params = document.parse_stage("features", FeatureParams)
    return LeakCheckInputs(document.dataset, document.about, params, rows)


def _read_from_files(files: LeakCheckFiles, root: Path) -> LeakCheckInputs:
    """The files as `tidemill new` reads them, in a temporary folder; the checkout is unchanged."""
    from tasks.ingest.params import IngestParams
    from tasks.ingest.stage import read_configured_source
    from tasks.ingest.wizard.decide.propose import build_proposal
    from tasks.ingest.wizard.inspect.inspect_files import inspect_files
    from tasks.ingest.wizard.inspect.inspected import OwnerAnswers
    from tasks.ingest.wizard.use import apply_dataset
    from tasks.ingest.wizard.write import write_entry

    pattern = str(root / files.pattern)  # one in the checkout is given relative to it
    answers = OwnerAnswers(pattern, files.form, target=files.target)
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        shutil.copyfile(root / "params.yaml", checkout / "params.yaml")
        write_entry("files", build_proposal(inspect_files(answers), answers), checkout, replace=True)
        apply_dataset("files", checkout)
        document = read_document(checkout)
        about, source = document.about, document.parse_stage("ingest", IngestParams).source
        rows = read_configured_source(source, about, checkout / "data/source", report=lambda _: None).rows
        # validate quarantines the other rows
        on_grid = build_calendar(about, reach=get_time_span(rows)).is_on_grid(rows["event_time"])
        return LeakCheckInputs(
            pattern, about, document.parse_stage("features", FeatureParams), rows.filter(on_grid)
        )


def _find_built_table(root: Path, schema_hash: str) -> pl.DataFrame | None:
    """The table that train would read; None unless it has these features and these rows."""
    folder = root / "data/features"
    if not (folder / "leaks.json").exists():
        return None
    verdict = LeakVerdict.model_validate(read_json(folder / "leaks.json"))
    is_same = verdict.schema_hash == schema_hash and verdict.data_version == compute_file_hash(
        root / "data/clean/rows.parquet"
    )
    return read_frame(folder / "table.parquet", FEATURES) if is_same else None


def _add_overlap(
    verdict: LeakVerdict,
    table: pl.DataFrame,
    about: About,
    params: FeatureParams,
    calendar: Calendar,
    root: Path,
) -> LeakVerdict:
    """Add to *verdict* what train would find: pairs that a fold must not learn from."""
    document = read_document(root)
    walk = document.parse_stage("train", TrainParams)
    panel = build_panel(table, Dataset(about, calendar, build_feature_schema(about, params)))
    n_steps = len(panel.event_time)
    last = n_steps - 1 - document.gate_steps
    try:
        folds = [
            *build_folds(n_steps, last, about.horizon_steps, walk),
            Fold(last, np.array([], dtype=np.int64)),
        ]
    except FoldError as error:
        return verdict.model_copy(
            update={"checks": {**verdict.checks, "overlap": {"n_folds": 0, "reason": str(error)}}}
        )
    overlap = find_overlap(table, panel, folds, walk)
    findings = verdict.findings if overlap is None else (*verdict.findings, overlap)
    return verdict.model_copy(
        update={"checks": {**verdict.checks, "overlap": {"n_folds": len(folds)}}, "findings": findings}
    )


def build_function(of: str, column: str | None, columns: str | None, lookback_steps: int) -> Function:
    """An entry of `features.list` from the options of the command line.

    The column is `z` when none is named.
    """
    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    try:
        return Function(
            kind="function",
            of=of,
            column=column if column or names else "z",
            columns=names,
            lookback_steps=lookback_steps,
        )
    except ValueError as error:
        raise ParamsError(
            f"--function {of!r} with lookback {lookback_steps}: {error}. Give it as module:function, for"
            " example my_module:my_feature."
        ) from error
