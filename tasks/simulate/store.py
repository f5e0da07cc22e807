"""What a simulation need not compute twice, in TIDEMILL_HOME/simulate/<dataset>/state.

Trainings, verdicts of the gate and forecasts are pure functions of rows, parameters and code, so
policies share them, and a simulation that was killed goes on where it was. An entry appears by
rename, whole or not at all. Other rows, parameters or code begin with an empty state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from tasks.core.kinds import get_forecast_schema
from tasks.core.reports.promote import GateVerdict
from tasks.edges.artifacts import read_json, write_folder, write_json
from tasks.edges.files import replace_file
from tasks.edges.fit_cache import compute_code_digest
from tasks.edges.settings import ROOT
from tasks.monitor.scheduled import build_forecasts, count_max_cutoffs
from tasks.promote.earlier_gates import EarlierGate
from tasks.promote.params import PromoteParams
from tasks.promote.stage import decide_promotion
from tasks.release import Release, load_release
from tasks.simulate.history import ReplayedHistory
from tasks.simulate.training import (
    SimulatedTraining,
    build_releases,
    check_history_leaks,
    compute_rows_hash,
)

BLOCK_CUTOFFS = 63  # of one release, forecast in one pass
_KEPT_RELEASES = 8


class StateStore:
    """The state of one dataset's simulations.

    report: called with a line for each training.
    """

    def __init__(self, history: ReplayedHistory, folder: Path, report: Callable[[str], None]) -> None:
        self.history, self.folder, self.report = history, folder, report
        self._releases: dict[Path, Release] = {}
        self._blocks: dict[tuple[str, int], pl.DataFrame] = {}
        key = _compute_key(history)
        if not (folder / "key.json").exists() or read_json(folder / "key.json") != key:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "key.json", key)

    def load_trained(self, training: SimulatedTraining, role: str) -> Release:
        """The release of *role* (`challenger`, `baseline`) that *training* gives."""
        path = self._get_training_path(training)
        if not path.exists():
            self._write_training(training, path)
        return self._load(path / role)

    def get_seconds(self, training: SimulatedTraining) -> float:
        """Processor seconds of *training*."""
        return float(read_json(self._get_training_path(training) / "cost.json")["seconds"])

    def decide(
        self, training: SimulatedTraining, champion: Release | None, earlier_gates: Sequence[EarlierGate]
    ) -> GateVerdict:
        """The gate's verdict on *training*, from the rows known then."""
        opponent = "none" if champion is None or champion.manifest is None else champion.manifest.digest
        earlier = hashlib.sha256(b"".join(gate.model_dump_json().encode() for gate in earlier_gates))
        path = self.folder / "verdicts" / f"{training.name}-{opponent}-{earlier.hexdigest()[:16]}.json"
        if not path.exists():
            verdict, _ = decide_promotion(
                self.load_trained(training, "challenger"),
                champion,
                self.load_trained(training, "baseline"),
                self.history.select_known(self.history.cutoffs[training.position]),
                self.history.document.parse_stage("promote", PromoteParams),
                earlier_gates,
            )
            write_json(path, verdict.model_dump(mode="json"))
        return GateVerdict.model_validate(read_json(path))

    def read_forecasts(self, release: Release, first: int, last: int) -> pl.DataFrame:
        """FORECAST with digest of *release* at the cutoffs first..last (positions, both included).

        Each is a function of the rows known by its own cutoff alone, so it does not matter when it
        is computed.
        """
        size = min(BLOCK_CUTOFFS, count_max_cutoffs(release, self.history.rows["series_id"].n_unique()))
        blocks = range(first // size, last // size + 1)
        cutoffs = self.history.cutoffs
        frames = [self._read_block(release, block, size) for block in blocks]
        return pl.concat(frames).filter(pl.col("cutoff").is_between(cutoffs[first], cutoffs[last]))

    def _read_block(self, release: Release, block: int, size: int) -> pl.DataFrame:
        assert release.manifest is not None
        digest, about = release.manifest.digest, self.history.about
        if (digest, block) in self._blocks:
            return self._blocks[digest, block]
        path = self.folder / "forecasts" / digest / f"{block}.parquet"
        if not path.exists():
            whole = self.history.cutoffs[block * size : (block + 1) * size]
            cutoffs = [cutoff for cutoff in whole if cutoff >= release.seen_until]
            rows = self.history.select_known(cutoffs[-1])
            made = build_forecasts(release, digest, rows, cutoffs)
            replace_file(path, made.write_parquet, sync=False)
        frame = pl.read_parquet(path)
        get_forecast_schema(about).check(frame.drop("digest"))
        self._blocks[digest, block] = frame
        return frame

    def _write_training(self, training: SimulatedTraining, path: Path) -> None:
        if not (self.folder / "is_leak_free").exists():
            check_history_leaks(self.history)
            write_json(self.folder / "is_leak_free", {"position": len(self.history.cutoffs) - 1})
        before = _count_seconds()
        with write_folder(path) as fresh:
            build_releases(self.history, training, fresh)
            for part in ("features", "fits", "unsealed"):
                shutil.rmtree(fresh / part)
            write_json(fresh / "cost.json", {"seconds": round(_count_seconds() - before, 2)})
        time, seconds = self.history.cutoffs[training.position], self.get_seconds(training)
        self.report(f"trained at {time:%F} ({training.recipe}) in {seconds:.1f} s")

    def _load(self, folder: Path) -> Release:
        release = self._releases.pop(folder, None) or load_release(folder)
        self._releases[folder] = release  # the last used is the last
        while len(self._releases) > _KEPT_RELEASES:
            del self._releases[next(iter(self._releases))]
        return release

    def _get_training_path(self, training: SimulatedTraining) -> Path:
        return self.folder / "trainings" / training.name


def _count_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _compute_key(history: ReplayedHistory) -> dict[str, str]:
    """All that the state follows from."""
    code = hashlib.sha256(compute_code_digest().encode())
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        code.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    params = json.dumps(history.document.content, sort_keys=True, default=str)
    return {
        "rows": compute_rows_hash(history.rows),
        "params": hashlib.sha256(params.encode()).hexdigest(),
        "code": code.hexdigest(),
    }
