"""Making the fits of a walk, in as many processes as there are workers, and each only once.

A fit travels and is kept as the bytes of what `save` writes, and is used as `load` restores it: so
it is the same fit whether it was made here, in another process or in an earlier run.
"""

import hashlib
import inspect
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import FoldError, ForecasterError
from tasks.core.folds import WalkForward
from tasks.core.panel import Panel
from tasks.edges.event_log import EventLabel, append_event, label_events
from tasks.edges.fit_cache import compute_code_digest, delete_old_fits, read_cached_fit, write_cached_fit
from tasks.edges.settings import read_settings
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.forecasters import Forecaster, build_forecaster
from tasks.forecasters.graph.graph_definition import Formula
from tasks.train.select import SelectParams, apply_ignored_columns, find_ignored_columns

REPORT_EVERY_S = 5.0
_ALWAYS = 2  # fits that a budget does not take away: as of seen_until, and that of the newest cutoffs
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip archive can store: same files, same bytes


class FitContext(NamedTuple):
    """What all fits of a walk share.

    model_params: the model's parameters.
    code: digest of the code that must make the fits.
    searched: (origin, parameters) of each search, ascending; they replace *model_params* for fits
      as of that origin and later.
    select: how columns are chosen in each window.
    label: of the events that the fits report; it changes no fit.
    """

    panel: Panel
    walk: WalkForward
    forecaster: str
    seed: int
    model_params: dict[str, Any]
    code: str
    searched: tuple[tuple[int, dict[str, Any]], ...] = ()
    select: SelectParams | None = None
    label: EventLabel | None = None

    def build(self, model_params: dict[str, Any] | None = None) -> Forecaster:
        """The forecaster, unfitted.

        model_params: in place of the context's own.
        """
        params = self.model_params if model_params is None else model_params
        return build_forecaster(self.forecaster, self.panel.schema, self.seed, params)

    def get_params_at(self, origin: int) -> dict[str, Any]:
        """The parameters of a fit as of *origin*."""
        chosen = (params for since, params in reversed(self.searched) if since <= origin)
        return next(chosen, self.model_params)

    def learn(
        self,
        origin: int,
        model_params: dict[str, Any],
        start: Forecaster | None = None,
        reused: dict[str, Any] | None = None,
    ) -> Forecaster:
        """The fit as of *origin*.

        reused: what fits as of this origin leave for each other (see Formula).
        Raises ForecasterError when there is nothing to learn from.
        """
        x, z = self.panel.get_training_pairs(origin, self.walk)
        if not len(x):
            raise ForecasterError(
                f"No pair of origin and step is usable at the cutoff {self.panel.cutoff[origin]:%F %R}Z."
                " Raise `train.min_train_steps`, or look at the gaps."
            )
        forecaster = self.build(model_params)
        if isinstance(forecaster, Formula):
            forecaster.reused = reused
        if self.select is not None:
            apply_ignored_columns(
                forecaster, find_ignored_columns(lambda: self.build(model_params), x, z, self.select)
            )
        return forecaster.fit(x, z, start)


class FitJob(NamedTuple):
    """A fit to make.

    origin: of the cutoff as of which it is made.
    start: the fit that it continues from, if there is one.
    """

    origin: int
    start: bytes | None = None


class ProgressReporter:
    """Reports how many fits are made, and how long the rest may take.

    The rest is estimated as long per row as those that were made.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        rows: Sequence[int],
        workers: int,
        label: EventLabel | None = None,
    ) -> None:
        self.report, self.rows, self.workers, self.label = report, rows, workers, label
        self.started = self.reported = time.monotonic()
        self.n_made = self.rows_made = 0

    def report_fit(self, rows: int) -> None:
        """A fit on so many rows was made."""
        self.n_made, self.rows_made = self.n_made + 1, self.rows_made + rows
        now, n = time.monotonic(), len(self.rows)
        left = (now - self.started) / max(self.rows_made, 1) * (sum(self.rows) - self.rows_made)
        if self.label is not None:
            fields = {
                "made": self.n_made,
                "of": n,
                "seconds": now - self.started,
                "left_s": left / self.workers,
            }
            append_event("training.fit", self.label.dataset, self.label.subject, fields)
        if self.n_made == 1 and n > 1:
            self.report(
                f"the first fit took {now - self.started:.2g} s, so all {n} take about"
                f" {self._format_duration(now - self.started + left / self.workers)}"
            )
        elif now - self.reported > REPORT_EVERY_S or self.n_made == n > 1:
            self.reported = now
            self.report(
                f"fit {self.n_made} of {n}, {now - self.started:.0f} s"
                + (f", about {self._format_duration(left)} left" if self.n_made < n else "")
            )

    def _format_duration(self, seconds: float) -> str:
        # Ten minutes are read more easily as minutes
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def run_independent_fits(
    context: FitContext,
    origins: Sequence[int],
    rows: Sequence[int],
    report: Callable[[str], None],
    deadline: float | None = None,
    start: bytes | None = None,
) -> list[bytes]:
    """Fits as of each of *origins*, which do not need each other; cached ones are not made again.

    origins: the most wanted first.
    rows: of each, how many rows its window holds.
    deadline: on the monotonic clock, when no further fit begins; the list ends there, but the first
      two are always in it.
    start: the fit that all continue from.
    """
    keys = [compute_fit_key(context, FitJob(origin, start)) for origin in origins]
    fit_of: dict[str, bytes] = {key: fit for key in keys if (fit := read_cached_fit(key)) is not None}
    todo = [i for i, key in enumerate(keys) if key not in fit_of]
    if len(todo) < len(origins):
        report(
            f"{len(origins) - len(todo)} of {len(origins)} fits were made before and are taken as they are"
        )
    workers = read_settings().n_workers
    reporter = ProgressReporter(report, [rows[i] for i in todo], workers, context.label)
    options = MapOptions(workers, releases_gil=getattr(type(context.build()), "releases_gil", False))

    def run(part: list[int], go_on: Callable[[], bool]) -> None:
        def on_result(index: int, fit: bytes) -> None:
            fit_of[keys[part[index]]] = fit
            write_cached_fit(keys[part[index]], fit)
            reporter.report_fit(rows[part[index]])

        run_jobs(make_fit, context, [FitJob(origins[i], start) for i in part], options, on_result, go_on)

    if deadline is None:
        run(todo, lambda: True)
    else:
        run([i for i in todo if i < _ALWAYS], lambda: True)
        run([i for i in todo if i >= _ALWAYS], lambda: time.monotonic() < deadline)
    delete_old_fits()
    return list(_iterate_until_missing(fit_of.get(key) for key in keys))


def run_chained_fits(
    context: FitContext,
    origins: Sequence[int],
    rows: Sequence[int],
    report: Callable[[str], None],
    deadline: float | None = None,
    start: bytes | None = None,
) -> list[bytes]:
    """Fits as of each of *origins*, ascending, each continuing from the one before.

    start: the fit that the first continues from.
    Raises FoldError when *deadline* comes first.
    """
    fits: list[bytes] = []
    reporter = ProgressReporter(report, rows, 1, context.label)
    n_kept = 0
    for origin, n_rows in zip(origins, rows, strict=True):
        if deadline is not None and time.monotonic() >= deadline:
            raise FoldError(
                f"`train.budget_s` ended after {len(fits)} of {len(origins)} fits that go on from each other"
                " (`refit: warm`); the newest, which matter most, come last. What is done is kept: run"
                " again to continue, raise the budget, or set `refit: full`."
            )
        job = FitJob(origin, fits[-1] if fits else start)
        key = compute_fit_key(context, job)
        fit = read_cached_fit(key)
        if fit is None:
            fit = make_fit(context, job)
            write_cached_fit(key, fit)
            reporter.report_fit(n_rows)
        else:
            n_kept += 1
        fits.append(fit)
    if n_kept:
        report(f"{n_kept} of {len(origins)} fits were made before and are taken as they are")
    delete_old_fits()
    return fits


def make_fit(context: FitContext, job: FitJob) -> bytes:
    """The fit of *job*.

    Raises ForecasterError when there is nothing to learn from, or when the code here is not that of
    the training.
    """
    if context.code != compute_code_digest():
        raise ForecasterError(
            "A worker has other code or libraries than the training that uses it. Install the same checkout"
            " and lock there, then run again."
        )
    start = None if job.start is None else decode_fit(job.start, context)
    with label_events(context.label, fold=f"{context.panel.cutoff[job.origin]:%F %R}"):
        return encode_fit(context.learn(job.origin, context.get_params_at(job.origin), start))


def compute_fit_key(context: FitContext, job: FitJob) -> str:
    """sha256 over everything that a fit depends on.

    Model, parameters, seed, code, the rows that it learns from, the fit that it continues from.
    """
    inputs = [
        context.code,
        context.forecaster,
        compute_source_digest(context),
        context.panel.schema.hash,
        context.seed,
        context.get_params_at(job.origin),
    ]
    inputs += [] if context.select is None else [context.select.model_dump()]
    hashed = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
    hashed.update(b"" if job.start is None else hashlib.sha256(job.start).digest())
    for array in context.panel.get_training_pairs(job.origin, context.walk):
        hashed.update(f"{array.dtype}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def compute_source_digest(context: FitContext) -> str:
    """Class of the forecaster and sha256 over its file, which for a user's own is not our code."""
    kind = type(context.build())
    source = inspect.getsourcefile(kind)
    return (
        f"{kind.__qualname__}"
        f" {hashlib.sha256(b'' if source is None else Path(source).read_bytes()).hexdigest()}"
    )


def encode_fit(fit: Forecaster) -> bytes:
    """Everything that `save` writes, as one archive."""
    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(out, "w") as archive:
        fit.save(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                archive.writestr(
                    zipfile.ZipInfo(str(path.relative_to(folder)), _FIXED_DATE), path.read_bytes()
                )
    return out.getvalue()


def decode_fit(archive: bytes, context: FitContext) -> Forecaster:
    """What `load` makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(folder)
        loaded: Forecaster = type(context.build()).load(Path(folder))
        return loaded


def _iterate_until_missing(fits: Iterable[bytes | None]) -> Iterable[bytes]:
    for fit in fits:
        if fit is None:
            return
        yield fit
