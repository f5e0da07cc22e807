"""Features of your own, registered by name: `{kind: function, of: my_module:my_feature, column: z,
lookback_steps: 24}`.

The module is one file, `own/my_module.py`. With `column` the function gets that column's values of
one series as an array (n,) float64, oldest first, one number a grid step, NaN where unknown; with
`columns` a polars frame of `event_time` and those columns (null where unknown). It gives one number
for each step, made of that step and of `lookback_steps` before it. It is called with the whole
history in the batch, with a tail of that length in the service: what it gives may depend on nothing
else, which is what the leak gate tries out.

The file's text stands in the release (features.json), under its digest, and its hash in the schema:
the service needs no file of yours, and an old champion computes with the code it was trained on. So
the file may import what the service has: Python's own library, numpy and polars.
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
from tasks.features.params import FeatureParams
from tasks.features.sources import Column, FeatureSource, GriddedRows
from tasks.features.specs import Function

# Of the checkout; a dependency of the stage `features`, so that a changed function runs it again
FOLDER = "own"
MAY_IMPORT = frozenset({"numpy", "polars"})


def resolve_functions(params: FeatureParams, *folders: Path) -> FeatureParams:
    """*params* with each function's source, from the first of *folders* that has its module.

    Raises FeatureInputError when none has, or it cannot be shipped.
    """
    bound = tuple(
        _resolve_function(spec, folders) if isinstance(spec, Function) and not spec.source else spec
        for spec in params.list
    )
    return params.model_copy(update={"list": bound})


def build_function_column(spec: Function) -> Column:
    """`<columns>_<function>_<lookback_steps>`.

    The function is called for each series, with all its steps that are there to compute on.
    """
    name = f"{'_'.join(spec.columns_read)}_{spec.of.partition(':')[2]}_{spec.lookback_steps}"
    source = FeatureSource(name, lambda laid: _compute_each_series(laid, spec), spec.columns_read)
    # All that the module says; `of` says which of its functions
    code = hashlib.sha256(spec.source.encode()).hexdigest()
    return Column(name, spec.role, spec.lookback_steps, (source,), lambda past: past.values, code)


def compute_function(function: Function, frame: pl.DataFrame, series_id: str) -> np.ndarray:
    """The feature at every step of one series, (n,) float64. frame: event_time and what the
    function reads, float64 with NaN where unknown.

    Raises FeatureInputError with the series and what happened: it raised, or gave other than n
    numbers.
    """
    values = (
        frame[function.columns_read[0]].to_numpy()
        if function.column is not None
        else frame.with_columns(pl.col(pl.Float64).fill_nan(None))
    )
    if isinstance(values, np.ndarray):
        values.flags.writeable = False  # it sees what other features see
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # The mean of nothing is unknown, which is what is wanted
            warnings.simplefilter("ignore", RuntimeWarning)
            given = _load_function(function)(values)
        series = given if isinstance(given, pl.Series) else pl.Series(np.asarray(given))
        numbers = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    except FeatureInputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise FeatureInputError(
            f"Function {function.of!r} failed on series {series_id!r} ({frame.height} steps):"
            f" {type(error).__name__}: {error}. It must bear any number of steps from 1 on and missing"
            f" values; correct it in {FOLDER}/."
        ) from error
    if numbers.shape != (frame.height,):
        raise FeatureInputError(
            f"Function {function.of!r} gave {series.len()} numbers for the {frame.height} steps of series"
            f" {series_id!r}; it must give one for each step. Correct it in {FOLDER}/."
        )
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _compute_each_series(laid: GriddedRows, spec: Function) -> np.ndarray:
    given = laid.frame.select(
        "event_time", *(pl.Series(name, laid.values(name)) for name in spec.columns_read)
    )
    ids, ends = laid.frame["series_id"].gather(laid.starts), [*laid.starts[1:].tolist(), laid.frame.height]
    parts = zip(ids, laid.starts.tolist(), ends, strict=True)
    return np.concatenate([compute_function(spec, given[start:end], name) for name, start, end in parts])


def _resolve_function(function: Function, folders: tuple[Path, ...]) -> Function:
    module, _, name = function.of.partition(":")
    found = next((folder / f"{module}.py" for folder in folders if (folder / f"{module}.py").is_file()), None)
    if found is None:
        there = sorted(path.stem for folder in folders for path in folder.glob("*.py"))
        raise FeatureInputError(
            f"`features.list`: function {function.of!r} needs the file {module}.py in"
            f" {' or '.join(f'{folder.name}/' for folder in folders)}; there are {there}. Put it there, or"
            " correct `of` in params.yaml."
        )
    source = found.read_text()
    _check_imports(found, source)
    bound = function.model_copy(update={"source": source})
    if not callable(getattr(_load_module(module, source), name, None)):
        raise FeatureInputError(
            f"{found.name} has no function {name!r}, which `features.list` names. Define it, or correct `of`"
            " in params.yaml."
        )
    return bound


def _check_imports(path: Path, source: str) -> None:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise FeatureInputError(
            f"{path.name}, line {error.lineno}: {error.msg}. Correct it in {path.parent.name}/."
        ) from error
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        "." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    if bad := sorted(
        name for name in names if name.partition(".")[0] not in MAY_IMPORT | sys.stdlib_module_names
    ):
        raise FeatureInputError(
            f"{path.name} imports {bad}; its text alone travels with a release, and the service has Python's"
            f" own library, {' and '.join(sorted(MAY_IMPORT))}. Write it with these, in one file."
        )


def _load_function(function: Function) -> Callable[[Any], Any]:
    if not function.source:
        raise FeatureInputError(
            f"Function {function.of!r} has no source yet. `resolve_functions` reads it from {FOLDER}/ before"
            " features are computed."
        )
    module, _, name = function.of.partition(":")
    found: Callable[[Any], Any] = getattr(_load_module(module, function.source), name)
    return found


@cache
def _load_module(name: str, source: str) -> ModuleType:
    """The module of this text, run once in a process; it stands in no table of Python's, so two
    releases may each have their own.
    """
    module = ModuleType(name)
    try:
        # The user's own code, as if imported; in a release it is under the digest
        exec(compile(source, f"<{name}.py>", "exec"), module.__dict__)  # noqa: S102
    except Exception as error:  # whatever a user's module raises
        raise FeatureInputError(
            f"{name}.py cannot be imported: {type(error).__name__}: {error}. Correct it in {FOLDER}/; all it"
            " needs must stand in the file."
        ) from error
    return module
