"""The laws of forecasters."""

import tempfile
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.dataset import Dataset
from tasks.core.errors import ForecasterError
from tasks.core.folds import WalkForward
from tasks.core.panel import build_panel
from tasks.core.schema import FeatureSchema, encode_series_id
from tasks.forecasters import Forecaster, build_forecaster, get_forecaster_class, load_forecaster
from tasks.laws.forecaster_data import (
    ABOUT,
    CALENDAR,
    KEYS,
    N_COLUMNS,
    N_STEPS,
    ROW_COLUMNS,
    build_pairs,
    build_schema,
    build_table,
)
from tasks.laws.law import Law, LawBrokenError, check_equal

SEED = 1
MAX_GRAPH_DIFFERENCE_SD = 1e-5  # of ONNX to `predict`, in standard deviations of z
MAX_ROW_DIFFERENCE = 2e-5  # of one row to the same row among others, for values of about one
LEVELS_AND_UNITS = ((0.0, 1.0), (1e5, 1e3), (-1e-3, 1e-5))
HUGE = 2.0**100


class ForecasterSubject:
    """A forecaster to check, by its name and parameters."""

    def __init__(self, name: str, params: dict[str, Any] | None = None) -> None:
        self.name, self.params = name, params or {}

    def build(self, schema: FeatureSchema | None = None, **more: Any) -> Forecaster:
        """Unfitted, with *more* parameters."""
        return build_forecaster(self.name, schema or build_schema(), SEED, {**self.params, **more})

    def fit_on(self, x: np.ndarray, z: np.ndarray, schema: FeatureSchema | None = None) -> Forecaster:
        """A new fit on *x* and *z*."""
        return self.build(schema).fit(x, z)

    @cached_property
    def fit(self) -> Forecaster:
        """The fit on `build_pairs`, made once."""
        return self.fit_on(*build_pairs())


def check_protocol(subject: ForecasterSubject) -> str:
    """`predict` returns (n, H) float32, also for no rows."""
    if not isinstance(subject.fit, Forecaster):
        raise LawBrokenError("`fit` does not return a forecaster")
    x = build_pairs()[0]
    for rows in (x, x[:0]):
        z_hat = subject.fit.predict(rows)
        if z_hat.shape != (len(rows), N_STEPS) or z_hat.dtype != np.float32:
            raise LawBrokenError(f"`predict` of {len(rows)} rows returns {z_hat.shape} {z_hat.dtype}")
    return f"({len(x)}, {N_STEPS}) float32, and of no row (0, {N_STEPS})"


def check_finite(subject: ForecasterSubject, values: np.ndarray | None = None) -> str:
    """Forecasts are finite, also where inputs are unknown or huge.

    values: (n, 9) in the order of the schema, the last value known; None: drawn.
    """
    if values is None:
        values = _draw_values(200, np.random.default_rng(0))
    rows = [(20_000 + i, 0.5, *KEYS[i % 2]) for i in range(len(values))]
    x = np.column_stack([values, rows]).astype(np.float32)
    z_hat = subject.fit.predict(x)
    if not np.isfinite(z_hat).all():
        bad = int(np.flatnonzero(~np.isfinite(z_hat).all(axis=1))[0])
        raise LawBrokenError(f"{z_hat[bad].tolist()} for the row {np.round(x[bad, :9], 3).tolist()}")
    return f"all forecasts of {len(x)} rows are finite"


def check_unknown_series(subject: ForecasterSubject) -> str:
    """A series that the fit has not met gets finite forecasts, or NaN only; its graph agrees."""
    x = build_pairs()[0]
    x[:, -2:] = encode_series_id("unknown")
    forecasts = {"`predict`": subject.fit.predict(x), "the graph": run_graph(subject.fit, x)}
    kinds = {name: _describe_finite(z_hat) for name, z_hat in forecasts.items()}
    if len(set(kinds.values())) > 1 or "partly NaN" in kinds.values():
        raise LawBrokenError(", ".join(f"{name} is {kind}" for name, kind in kinds.items()))
    return f"{kinds['`predict`']} for a series that the fit has not met"


def check_inputs_untouched(subject: ForecasterSubject) -> str:
    """`fit` and `predict` leave their arguments unchanged."""
    x, z = build_pairs()
    x_before, z_before = x.copy(), z.copy()
    subject.fit_on(x, z).predict(x)
    check_equal(x, x_before, "x after `fit` and `predict`")
    check_equal(z, z_before, "z after `fit`")
    return "x and z are unchanged"


def check_deterministic(subject: ForecasterSubject) -> str:
    """Two fits with one seed have the same forecasts, files and graph, to the byte."""
    x, z = build_pairs()
    fits = [subject.fit, subject.fit_on(x, z)]
    check_equal(fits[1].predict(x), fits[0].predict(x), "forecasts of a second fit")
    first, second = (_hash_files(fit) for fit in fits)
    if differing := sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    ):
        raise LawBrokenError(f"a second fit writes other bytes into {differing}")
    return f"the same bytes in {', '.join(sorted(first))}"


def check_saved_and_graph(subject: ForecasterSubject) -> str:
    """A loaded fit and an exported graph forecast as the fit does, at any level and unit."""
    largest = 0.0
    for level, unit in LEVELS_AND_UNITS:
        for scaled in (False, True):
            x, z = build_pairs(level=level, unit=unit)
            fit = subject.fit_on(x, z, build_schema(scaled=scaled))
            z_hat, sd = fit.predict(x), float(np.nanstd(z.astype(np.float64)))
            where = f"at level {level:g}, unit {unit:g}{', scaled' if scaled else ''}"
            with tempfile.TemporaryDirectory() as folder:
                fit.save(Path(folder))
                check_equal(load_forecaster(Path(folder)).predict(x), z_hat, f"a loaded fit {where}")
                if pickles := sorted(path.name for path in Path(folder).rglob("*.pkl")):
                    raise LawBrokenError(f"`save` writes a pickle: {pickles}")
            difference = check_equal(
                run_graph(fit, x), z_hat, f"the ONNX graph {where}", MAX_GRAPH_DIFFERENCE_SD * sd
            )
            largest = max(largest, difference / sd)
    return f"loaded: equal; ONNX: at most {largest:.1e} standard deviations apart"


def check_graph_rows(subject: ForecasterSubject) -> str:
    """The graph takes any number of rows."""
    x = build_pairs()[0]
    for n in (1, 2, 600):
        if (shape := run_graph(subject.fit, x[:n]).shape) != (n, N_STEPS):
            raise LawBrokenError(f"the graph returns {shape} for {n} rows")
    return "1, 2 and 600 rows"


def check_rows_independent(subject: ForecasterSubject) -> str:
    """The forecast of a row does not depend on the other rows of the call."""
    x = build_pairs()[0]
    order = np.random.default_rng(3).permutation(len(x))
    together = subject.fit.predict(x)
    check_equal(subject.fit.predict(x[order]), together[order], "rows in another order", MAX_ROW_DIFFERENCE)
    alone = np.concatenate([subject.fit.predict(x[i : i + 1]) for i in range(50)])
    difference = check_equal(alone, together[:50], "rows one by one", MAX_ROW_DIFFERENCE)
    return f"in another order and one by one; at most {difference:.1e} apart"


def check_no_look_ahead(subject: ForecasterSubject) -> str:
    """Rows after an origin, missing or absurd, change neither the fit nor the forecast as of it."""
    walk, origin = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=10), 250
    table, schema = build_table(), build_schema()
    is_later = table["event_time"] > table["event_time"].unique().sort()[origin]
    absurd = table.with_columns(
        pl.exclude("series_id", "event_time", "known_at", "is_gap", *ROW_COLUMNS) * 0 + 10**6
    )
    earlier = table.filter(~is_later)
    tables = {
        "as it is": table,
        "without later rows": earlier,
        "with absurd later rows": earlier.vstack(absurd.filter(is_later)).sort("series_id", "event_time"),
    }
    forecasts = {}
    for name, variant in tables.items():
        panel = build_panel(variant, Dataset(ABOUT, CALENDAR, schema))
        x, _ = panel.at(np.array([origin]))
        forecasts[name] = subject.build().fit(*panel.training(origin, walk)).predict(x)
    for name, z_hat in forecasts.items():
        check_equal(z_hat, forecasts["as it is"], f"forecasts {name}")
    return "the same without later rows, and with absurd ones"


def check_unknown_parameter(subject: ForecasterSubject) -> str:
    """A parameter that the model does not have is refused."""
    try:
        subject.build(no_such_thing=1)
    except ForecasterError as error:
        return str(error)
    raise LawBrokenError("the parameter `no_such_thing` is accepted")


def check_few_rows(subject: ForecasterSubject) -> str:
    """One row, three and ten are enough to fit."""
    for n in (1, 3, 10):
        x, z = build_pairs(n)
        if not np.isfinite(subject.fit_on(x, np.nan_to_num(z)).predict(x)).all():
            raise LawBrokenError(f"a fit on {n} rows has forecasts that are not finite")
    return "fits on 1, 3 and 10 rows"


def check_constant(subject: ForecasterSubject) -> str:
    """Constant data are forecast as that constant."""
    x, z = (np.full((300, n), 7, dtype=np.float32) for n in (N_COLUMNS, N_STEPS))
    x[:, 5] = 0  # standard deviation
    x[:, -2:] = KEYS[0]
    for scaled in (False, True):
        z_hat = subject.fit_on(x, z, build_schema(scaled=scaled)).predict(x)
        check_equal(z_hat, z, f"forecasts of the constant 7{', scaled' if scaled else ''}", 7e-6)
    return "7 is forecast as 7"


def check_missing_targets(subject: ForecasterSubject) -> str:
    """A step without targets, and no target at all, still give finite forecasts."""
    x, z = build_pairs()
    for name, step in (("one step", 2), ("any step", slice(None))):
        z[:, step] = np.nan
        if not np.isfinite(subject.fit_on(x, z).predict(x)).all():
            raise LawBrokenError(f"without targets of {name}, forecasts are not finite")
    return "finite without targets of one step and of all steps"


def check_any_horizon(subject: ForecasterSubject) -> str:
    """Any horizon and no season work, and the graph agrees."""
    for steps in (1, 9):
        x, z = build_pairs(steps=steps)
        fit = subject.fit_on(x, z, build_schema(seasonal=False, steps=steps))
        check_equal(run_graph(fit, x), fit.predict(x), f"the graph of {steps} steps", MAX_ROW_DIFFERENCE)
    return "horizons of 1 and 9 steps"


def check_refusals(subject: ForecasterSubject) -> str:
    """ForecasterError before `fit`, for other columns, and for files that are not its own."""
    x, other = build_pairs()[0], "har" if subject.name.startswith("ridge") else "ridge"
    with tempfile.TemporaryDirectory() as folder:
        subject.fit.save(Path(folder))
        calls: dict[str, Callable[[], object]] = {
            "`predict` before `fit`": lambda: subject.build().predict(x),
            "3 columns": lambda: subject.fit.predict(np.zeros((2, 3), dtype=np.float32)),
            "the file of another class": lambda: get_forecaster_class(other).load(Path(folder)),
            "a missing folder": lambda: type(subject.fit).load(Path(folder) / "nowhere"),
        }
        messages = []
        for name, call in calls.items():
            try:
                call()
            except ForecasterError as error:
                messages.append(str(error))
            else:
                raise LawBrokenError(f"{name} is accepted")
    return "; ".join(messages)


def run_graph(forecaster: Forecaster, x: np.ndarray) -> np.ndarray:
    """(n, H) of the exported graph, by onnxruntime on one thread."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        forecaster.to_onnx(path)
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session: Any = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    z_hat: np.ndarray = session.run(["z_hat"], {"x": x})[0]
    return z_hat


def _draw_values(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 9): magnitudes from tiny to huge of both signs, and a third unknown."""
    exponents = rng.uniform(-100, 100, (n, 9))
    values = np.where(rng.random((n, 9)) < 0.5, 1, -1) * np.minimum(2.0**exponents, HUGE)
    values[:, 1:][rng.random((n, 8)) < 1 / 3] = np.nan
    return values


def _describe_finite(z_hat: np.ndarray) -> str:
    return "finite" if np.isfinite(z_hat).all() else "NaN" if np.isnan(z_hat).all() else "partly NaN"


def _hash_files(forecaster: Forecaster) -> dict[str, str]:
    """File -> sha256 of what `save` and `to_onnx` write."""
    with tempfile.TemporaryDirectory() as folder:
        forecaster.save(Path(folder))
        forecaster.to_onnx(Path(folder) / "model.onnx")
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in paths}


FORECASTER_LAWS = (
    Law("it keeps the protocol", "Return an array (n, H) of float32 from `predict`.", check_protocol),
    Law(
        "forecasts are finite whatever is unknown",
        "Use `select_last_values` where an input is NaN, and bound what may become infinite.",
        check_finite,
    ),
    Law(
        "an unknown series gets finite forecasts, or NaN only",
        "Forecast from the columns alone, or return NaN for all steps of a series that `fit` has not met.",
        check_unknown_series,
    ),
    Law("inputs stay unchanged", "Copy x or z before changing them.", check_inputs_untouched),
    Law(
        "the same seed gives the same bytes",
        "Draw only from a generator seeded with `self.seed`; use no clock and no set order.",
        check_deterministic,
    ),
    Law(
        "saved, loaded and ONNX forecast the same",
        "Keep what `fit` found in `self.learned`; compute in `formula` by operators and graph_ops alone.",
        check_saved_and_graph,
    ),
    Law("the graph takes any number of rows", "Leave the first axis of x and z_hat free.", check_graph_rows),
    Law(
        "a row's forecast does not depend on other rows",
        "Compute nothing over axis 0 of x in `formula`: those rows are other origins, later ones too.",
        check_rows_independent,
    ),
    Law(
        "later rows change no forecast",
        "Learn only from the x and z that `fit` gets.",
        check_no_look_ahead,
    ),
    Law(
        "an unknown parameter is refused",
        "Declare parameters in a frozen class `Params`, as in models/naive/window_mean.py.",
        check_unknown_parameter,
    ),
    Law("few rows are enough to fit", "Fall back to the last value where rows are few.", check_few_rows),
    Law("constant data are forecast as they are", "Forecast changes of the last value.", check_constant),
    Law(
        "missing targets still give forecasts",
        "Leave NaN in z out, and use a default where none is left.",
        check_missing_targets,
    ),
    Law(
        "any horizon and no season work",
        "Take the number of steps from `self.schema.horizon_steps`.",
        check_any_horizon,
    ),
    Law(
        "what does not fit is refused",
        "Raise ForecasterError, as tasks.forecasters.graph.graph_definition.Formula does.",
        check_refusals,
    ),
)
