"""Features that are functions of your own.

In params.yaml: `{kind: function, of: 'my_module:my_feature', column: z, lookback_steps: 24}`. The
module is one file, `tasks/extensions/my_module.py`. With `column` the function gets the values of
that column of one series as an array (n,) float64, oldest first, one number per grid step, NaN
where unknown; with `columns` a polars frame of `event_time` and those columns (null where unknown).
It returns one number per step, computed from that step and the `lookback_steps` before it. The
batch calls it with the whole history, the service with a tail of that length: its result may depend
on nothing else. `tidemill check` and the leak gate test this.

The file's text is in the release (features.json), under its digest, and its hash is in the schema:
the service needs no file of yours, and an old champion computes with the code it was trained on. So
the file may import only what the service has: Python's own library, numpy and polars.
"""

import ast
import hashlib
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import FeatureInputError
from tasks.core.extensions import FOLDER, warn_of_old_folder
from tasks.features.params import FeatureParams
from tasks.features.sources import Column, FeatureSource, GriddedRows
from tasks.features.specs import Function

ALLOWED_IMPORTS = frozenset({"numpy", "polars"})


def resolve_functions(params: FeatureParams, *folders: Path) -> FeatureParams:
    """*params* with the source of each function, from the first of *folders* that has it.

    Raises FeatureInputError for a missing file, or one that cannot travel with a release.
    """
    resolved = tuple(
        _resolve_function(spec, folders) if isinstance(spec, Function) and not spec.source else spec
        for spec in params.list
    )
    return params.model_copy(update={"list": resolved})


def build_function_column(spec: Function) -> Column:
    """The column `<columns>_<function>_<lookback_steps>`; the function runs on each series."""
    name = f"{'_'.join(spec.columns_read)}_{spec.of.partition(':')[2]}_{spec.lookback_steps}"
    source = FeatureSource(name, lambda gridded: _compute_each_series(gridded, spec), spec.columns_read)
    # the whole module; `of` names one function of it
    code = hashlib.sha256(spec.source.encode()).hexdigest()
    return Column(name, spec.role, spec.lookback_steps, (source,), lambda past: past.values, code)


def compute_function(function: Function, frame: pl.DataFrame, series_id: str) -> np.ndarray:
    """The feature at every step of one series, (n,) float64, NaN where it is not finite.

    frame: event_time and the columns that the function reads, float64 with NaN where unknown.
    Raises FeatureInputError when the function raises, or does not return n numbers.
    """
    values = (
        frame[function.columns_read[0]].to_numpy()
        if function.column is not None
        else frame.with_columns(pl.col(pl.Float64).fill_nan(None))
    )
    if isinstance(values, np.ndarray):
        values.flags.writeable = False  # other features read the same array
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # the mean of no values is NaN, as it should be
            warnings.simplefilter("ignore", RuntimeWarning)
            result = _load_function(function)(values)
        series = result if isinstance(result, pl.Series) else pl.Series(np.asarray(result))
        numbers = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    except FeatureInputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise FeatureInputError(
            f"Function {function.of!r} failed on series {series_id!r} ({frame.height} steps):"
            f" {type(error).__name__}: {error}. It must accept any number of steps from 1 on and"
            f" missing values; correct it in {FOLDER}."
        ) from error
    if numbers.shape != (frame.height,):
        raise FeatureInputError(
            f"Function {function.of!r} returned {series.len()} numbers for the {frame.height} steps of series"
            f" {series_id!r}; it must return one for each step. Correct it in {FOLDER}."
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _compute_each_series(gridded: GriddedRows, spec: Function) -> np.ndarray:
    frame = gridded.frame.select(
        "event_time", *(pl.Series(name, gridded.values(name)) for name in spec.columns_read)
    )
    starts, ids = gridded.starts.tolist(), gridded.frame["series_id"].gather(gridded.starts)
    parts = zip(ids, starts, [*starts[1:], frame.height], strict=True)
    return np.concatenate([compute_function(spec, frame[start:end], name) for name, start, end in parts])


def _resolve_function(function: Function, folders: tuple[Path, ...]) -> Function:
    module, _, name = function.of.partition(":")
    path = next((folder / f"{module}.py" for folder in folders if (folder / f"{module}.py").is_file()), None)
    if path is None:
        modules = sorted(path.stem for folder in folders for path in folder.glob("[!_]*.py"))
        raise FeatureInputError(
            f"`features.list`: function {function.of!r} needs the file {FOLDER}/{module}.py; there are"
            f" {modules}. Write it, or correct `of` in params.yaml."
        )
    warn_of_old_folder(path)
    source = path.read_text()
    _check_imports(path, source)
    resolved = function.model_copy(update={"source": source})
    if not callable(getattr(_load_module(module, source), name, None)):
        raise FeatureInputError(
            f"{path.name} has no function {name!r}, which `features.list` names. Define it, or correct `of`"
            " in params.yaml."
        )
    return resolved


def _check_imports(path: Path, source: str) -> None:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise FeatureInputError(f"{path.name}, line {error.lineno}: {error.msg}. Correct {path}.") from error
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        "." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    if bad := sorted(
        name for name in names if name.partition(".")[0] not in ALLOWED_IMPORTS | sys.stdlib_module_names
    ):
        raise FeatureInputError(
            f"{path.name} imports {bad}; only its text travels with a release, and the service has Python's"
            f" own library, {' and '.join(sorted(ALLOWED_IMPORTS))}. Write it with these, in one file."
        )


def _load_function(function: Function) -> Callable[[Any], Any]:
    if not function.source:
        raise FeatureInputError(
            f"Function {function.of!r} has no source yet. `resolve_functions` reads it from {FOLDER} before"
            " features are computed."
        )
    module, _, name = function.of.partition(":")
    loaded: Callable[[Any], Any] = getattr(_load_module(module, function.source), name)
    return loaded


@cache
def _load_module(name: str, source: str) -> ModuleType:
    """The module of this text, run once per process.

    It is not in sys.modules, so two releases in one process may each have their own.
    """
    module = ModuleType(name)
    try:
        # the user's own code, as if imported; in a release it is under the digest
        exec(compile(source, f"<{name}.py>", "exec"), module.__dict__)  # noqa: S102
    except Exception as error:  # whatever a user's module raises
        raise FeatureInputError(
            f"{name}.py cannot be imported: {type(error).__name__}: {error}. Correct it in {FOLDER}; all that"
            " it needs must be in the file."
        ) from error
    return module
