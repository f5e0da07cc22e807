"""Earlier gates at the same rows, and the level that is left for the next one.

`<home>/registry/<dataset>/gates.jsonl` has a line for each comparison, in order.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tasks.core.reports.base import IsoTime
from tasks.core.reports.promote import GateKey, GateVerdict
from tasks.core.strict import Strict
from tasks.edges.files import replace_file
from tasks.edges.registry import get_champion_path


class EarlierGate(Strict):
    """One comparison.

    challenger, opponent: digests of the releases.
    rows: sha256 of the clean rows.
    first_cutoff, last_cutoff: that were compared.
    """

    challenger: str
    opponent: str
    rows: str
    first_cutoff: IsoTime
    last_cutoff: IsoTime


def compute_overlap(earlier_gates: Sequence[EarlierGate], cutoffs: Sequence[datetime]) -> float:
    """Sum over *earlier_gates* of the share of *cutoffs* that each compared."""
    seen = sum(sum(gate.first_cutoff <= c <= gate.last_cutoff for c in cutoffs) for gate in earlier_gates)
    return seen / len(cutoffs) if cutoffs else 0.0


def split_trial(
    earlier_gates: Sequence[EarlierGate], pair: tuple[str, ...], first_cutoff: datetime
) -> tuple[list[EarlierGate], list[EarlierGate]]:
    """Those of the releases *pair* from *first_cutoff* on, and the others."""
    is_look = [(g.challenger, g.opponent) == pair and g.first_cutoff == first_cutoff for g in earlier_gates]
    trial = [gate for gate, its in zip(earlier_gates, is_look, strict=True) if its]
    return trial, [gate for gate, its in zip(earlier_gates, is_look, strict=True) if not its]


def spend_alpha(alpha: float, overlap: float) -> float:
    """The level of a gate whose rows earlier gates have compared, *overlap* times in total.

    With gates at the same rows again and again, some release that is not better passes in the end.
    m evenly spaced gates in the time of one have an overlap of (m - 1) / 2. At a level of
    alpha / (1 + 1.5 log m) each, with probability alpha at most one of the m passes by luck, if
    their challengers are alike, as refits of the same models are: their losses share rows, so this
    asks for less than Bonferroni's alpha / m. The constant is of a simulation, repeated in
    tests/promote. A gate on new rows alone has the whole alpha.
    Source of equal levels for repeated tests: Pocock 1977, doi:10.1093/biomet/64.2.191.
    """
    return alpha / (1 + 1.5 * math.log1p(2 * overlap))


def read_earlier_gates(dataset: str) -> list[EarlierGate]:
    """The gates at rows of *dataset*, oldest first."""
    path = _get_path(dataset)
    lines = path.read_text().splitlines() if path.exists() else []
    return [EarlierGate.model_validate_json(line) for line in lines]


def build_earlier_gate(verdict: GateVerdict, key: GateKey) -> EarlierGate | None:
    """The gate of a verdict; None when nothing was compared."""
    if verdict.opponent_digest is None or verdict.first_cutoff is None or verdict.last_cutoff is None:
        return None
    if verdict.p is None:  # too few cutoffs for a test
        return None
    return EarlierGate(
        challenger=verdict.challenger_digest,
        opponent=verdict.opponent_digest,
        rows=key.rows,
        first_cutoff=verdict.first_cutoff,
        last_cutoff=verdict.last_cutoff,
    )


def write_gate(dataset: str, gate: EarlierGate) -> None:
    """Add *gate* at the end, unless a run that was killed has done so."""
    earlier_gates = read_earlier_gates(dataset)
    if gate in earlier_gates:
        return
    lines = "".join(f"{each.model_dump_json()}\n" for each in (*earlier_gates, gate))
    replace_file(_get_path(dataset), lambda part: part.write_text(lines))


def _get_path(dataset: str) -> Path:
    return get_champion_path(dataset).with_name("gates.jsonl")
