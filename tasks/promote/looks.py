"""Earlier gates at the same rows, and the level that is left for the next one.

`<home>/registry/<dataset>/looks.jsonl` has a line for each comparison, in order.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tasks.core.reports.base import IsoTime
from tasks.core.reports.promote import GateKey, GateVerdict
from tasks.core.strict import Strict
from tasks.edges.files import replace_file
from tasks.edges.registry import get_champion_path


class GateLook(Strict):
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


def compute_overlap(looks: Sequence[GateLook], cutoffs: Sequence[datetime]) -> float:
    """Sum over *looks* of the share of *cutoffs* that each has looked at."""
    seen = sum(sum(look.first_cutoff <= c <= look.last_cutoff for c in cutoffs) for look in looks)
    return seen / len(cutoffs) if cutoffs else 0.0


def spend_alpha(alpha: float, overlap: float) -> float:
    """The level of a gate whose rows earlier gates have looked at, *overlap* times in total.

    With looks at the same rows again and again, some release that is not better passes in the end.
    alpha / (1 + overlap)^2 bounds the chance by Bonferroni's inequality: repeated looks at the same
    rows spend (1/4 + 1/9 + ...) alpha < .65 alpha in total, and m looks in the time of one gate,
    evenly spaced, 4 m / (m + 1)^2 alpha <= alpha. A gate on new rows alone has the whole alpha.
    Source of the spending of a level over looks: Lan & DeMets 1983, doi:10.1093/biomet/70.3.659.
    """
    return float(alpha / (1 + overlap) ** 2)


def read_looks(dataset: str) -> list[GateLook]:
    """The looks at rows of *dataset*, oldest first."""
    path = _get_path(dataset)
    lines = path.read_text().splitlines() if path.exists() else []
    return [GateLook.model_validate_json(line) for line in lines]


def build_look(verdict: GateVerdict, key: GateKey) -> GateLook | None:
    """The look of a verdict; None when nothing was compared."""
    if verdict.opponent_digest is None or verdict.first_cutoff is None or verdict.last_cutoff is None:
        return None
    if verdict.p is None:  # too few cutoffs for a test
        return None
    return GateLook(
        challenger=verdict.challenger_digest,
        opponent=verdict.opponent_digest,
        rows=key.rows,
        first_cutoff=verdict.first_cutoff,
        last_cutoff=verdict.last_cutoff,
    )


def write_look(dataset: str, look: GateLook) -> None:
    """Add *look* at the end, unless a run that was killed has done so."""
    looks = read_looks(dataset)
    if look in looks:
        return
    lines = "".join(f"{each.model_dump_json()}\n" for each in (*looks, look))
    replace_file(_get_path(dataset), lambda part: part.write_text(lines))


def _get_path(dataset: str) -> Path:
    return get_champion_path(dataset).with_name("looks.jsonl")
