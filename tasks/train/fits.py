"""Making the fits of a walk, wherever there is room for them, and each only once.

A fit travels and is kept as the bytes of what `save` writes, and is used as `load` gives it back:
so it is the same fit whether it was made here, in another process or in an earlier run.
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
from tasks.edges.fit_cache import compute_code_digest, delete_old_fits, read_cached_fit, write_cached_fit
from tasks.edges.settings import read_settings
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.forecasters import Forecaster, build_forecaster
from tasks.forecasters.graph.graph_definition import Formula
from tasks.train.select import SelectParams, apply_ignored_columns, find_ignored_columns

SAY_EVERY_S = 5.0
_ALWAYS = 2  # fits that a budget does not take away: as of seen_until, and that of the newest cutoffs
_SPARED_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip archive can say: same files, same bytes


class FitContext(NamedTuple):
    """What all fits of a walk share. own: the model's parameters. code: digest of the code that
    must make them.

    searched: (origin, parameters) of each search, ascending; they replace *own* for fits as of that
    origin and later. select: how columns are chosen in each window.
    """

    panel: Panel
    walk: WalkForward
    forecaster: str
    seed: int
    own: dict[str, Any]
    code: str
    searched: tuple[tuple[int, dict[str, Any]], ...] = ()
    select: SelectParams | None = None

    def build(self, own: dict[str, Any] | None = None) -> Forecaster:
        """The forecaster, unfitted, with *own* in place of the model's parameters where it is
        given.
        """
        return build_forecaster(
            self.forecaster, self.panel.schema, self.seed, self.own if own is None else own
        )

    def get_params_at(self, at: int) -> dict[str, Any]:
        """The parameters of a fit as of the origin *at*."""
        return next((own for since, own in reversed(self.searched) if since <= at), self.own)

    def learn(
        self,
        at: int,
        own: dict[str, Any],
        start: Forecaster | None = None,
        reused: dict[str, Any] | None = None,
    ) -> Forecaster:
        """The fit as of the origin *at* with the parameters *own*. reused: what fits as of it leave
        for each other (see Formula).

        Raises ForecasterError when there is nothing to learn from.
        """
        x, z = self.panel.training(at, self.walk)
        if not len(x):
            raise ForecasterError(
                f"No pair of origin and step is usable at the cutoff {self.panel.cutoff[at]:%F %R}Z. Raise"
                " `train.min_train_steps`, or look at the gaps."
            )
        forecaster = self.build(own)
        if isinstance(forecaster, Formula):
            forecaster.reused = reused
        if self.select is not None:
            apply_ignored_columns(
                forecaster, find_ignored_columns(lambda: self.build(own), x, z, self.select)
            )
        return forecaster.fit(x, z, start)


class FitJob(NamedTuple):
    """A fit as of the cutoff with origin *at*, going on from the fit *start* if there is one."""

    at: int
    start: bytes | None = None


class ProgressReporter:
    """Says how far the fits are, and how long the rest may take: as long per row as those that
    were made.
    """

    def __init__(self, say: Callable[[str], None], rows: Sequence[int], workers: int) -> None:
        self.say, self.rows, self.workers = say, rows, workers
        self.started = self.told = time.monotonic()
        self.n_made = self.rows_made = 0

    def report_fit(self, rows: int) -> None:
        """A fit on so many rows was made."""
        self.n_made, self.rows_made = self.n_made + 1, self.rows_made + rows
        now, n = time.monotonic(), len(self.rows)
        left = (now - self.started) / max(self.rows_made, 1) * (sum(self.rows) - self.rows_made)
        if self.n_made == 1 and n > 1:
            self.say(
                f"the first fit took {now - self.started:.2g} s, so all {n} take about"
                f" {self._about(now - self.started + left / self.workers)}"
            )
        elif now - self.told > SAY_EVERY_S or self.n_made == n > 1:
            self.told = now
            self.say(
                f"fit {self.n_made} of {n}, {now - self.started:.0f} s"
                + (f", about {self._about(left)} left" if self.n_made < n else "")
            )

    def _about(self, seconds: float) -> str:
        # Ten minutes are read more easily as minutes
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def run_independent_fits(
    ground: FitContext,
    ats: Sequence[int],
    rows: Sequence[int],
    say: Callable[[str], None],
    until: float | None = None,
    start: bytes | None = None,
) -> list[bytes]:
    """Fits as of each of *ats*, which do not need each other, most wanted first, all going on from
    *start*; kept ones are taken, the others are made.

    until: on the monotonic clock, when no further fit begins; the list ends there, but the first
    two are always in it.
    """
    keys = [compute_fit_key(ground, FitJob(at, start)) for at in ats]
    found: dict[str, bytes] = {key: fit for key in keys if (fit := read_cached_fit(key)) is not None}
    todo = [i for i, key in enumerate(keys) if key not in found]
    if len(todo) < len(ats):
        say(f"{len(ats) - len(todo)} of {len(ats)} fits were made before and are taken as they are")
    workers = read_settings().n_workers
    teller = ProgressReporter(say, [rows[i] for i in todo], workers)
    how = MapOptions(workers, releases_gil=getattr(type(ground.build()), "releases_gil", False))

    def run(part: list[int], go_on: Callable[[], bool]) -> None:
        def done(index: int, fit: bytes) -> None:
            found[keys[part[index]]] = fit
            write_cached_fit(keys[part[index]], fit)
            teller.report_fit(rows[part[index]])

        run_jobs(make_fit, ground, [FitJob(ats[i], start) for i in part], how, done, go_on)

    if until is None:
        run(todo, lambda: True)
    else:
        run([i for i in todo if i < _ALWAYS], lambda: True)
        run([i for i in todo if i >= _ALWAYS], lambda: time.monotonic() < until)
    delete_old_fits()
    return list(_iterate_until_missing(found.get(key) for key in keys))


def run_chained_fits(
    ground: FitContext,
    ats: Sequence[int],
    rows: Sequence[int],
    say: Callable[[str], None],
    until: float | None = None,
    start: bytes | None = None,
) -> list[bytes]:
    """Fits as of each of *ats*, ascending, each going on from the one before, the first from
    *start*.

    Raises FoldError when *until* comes first.
    """
    fits: list[bytes] = []
    teller = ProgressReporter(say, rows, 1)
    n_kept = 0
    for at, n_rows in zip(ats, rows, strict=True):
        if until is not None and time.monotonic() >= until:
            raise FoldError(
                f"`train.budget_s` ended after {len(fits)} of {len(ats)} fits that go on from each other"
                " (`refit: warm`); the newest, which are wanted most, come last. What is done is kept: run"
                " again to go on from there, raise the budget, or set `refit: full`."
            )
        job = FitJob(at, fits[-1] if fits else start)
        key = compute_fit_key(ground, job)
        fit = read_cached_fit(key)
        if fit is None:
            fit = make_fit(ground, job)
            write_cached_fit(key, fit)
            teller.report_fit(n_rows)
        else:
            n_kept += 1
        fits.append(fit)
    if n_kept:
        say(f"{n_kept} of {len(ats)} fits were made before and are taken as they are")
    delete_old_fits()
    return fits


def make_fit(ground: FitContext, job: FitJob) -> bytes:
    """The fit that *job* asks for.

    Raises ForecasterError when there is nothing to learn from, or the code here is not that of
    whoever asks.
    """
    if ground.code != compute_code_digest():
        raise ForecasterError(
            "A worker has other code or libraries than the training that asks it. Install the same checkout"
            " and lock there, then run again."
        )
    start = None if job.start is None else decode_fit(job.start, ground)
    return encode_fit(ground.learn(job.at, ground.get_params_at(job.at), start))


def compute_fit_key(ground: FitContext, job: FitJob) -> str:
    """sha256 over everything that a fit depends on: model, parameters, seed, code, the rows that
    it learns from, the fit it goes on from.
    """
    about = [
        ground.code,
        ground.forecaster,
        compute_source_digest(ground),
        ground.panel.schema.hash,
        ground.seed,
        ground.get_params_at(job.at),
    ]
    about += [] if ground.select is None else [ground.select.model_dump()]
    hashed = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    hashed.update(b"" if job.start is None else hashlib.sha256(job.start).digest())
    for array in ground.panel.training(job.at, ground.walk):
        hashed.update(f"{array.dtype}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def compute_source_digest(ground: FitContext) -> str:
    """Class of the forecaster and sha256 over its file: one of the user's own lies outside our
    code.
    """
    kind = type(ground.build())
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
                    zipfile.ZipInfo(str(path.relative_to(folder)), _SPARED_DATE), path.read_bytes()
                )
    return out.getvalue()


def decode_fit(archive: bytes, ground: FitContext) -> Forecaster:
    """What `load` makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(folder)
        loaded: Forecaster = type(ground.build()).load(Path(folder))
        return loaded


def _iterate_until_missing(fits: Iterable[bytes | None]) -> Iterable[bytes]:
    for fit in fits:
        if fit is None:
            return
        yield fit
