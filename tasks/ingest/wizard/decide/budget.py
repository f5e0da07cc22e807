"""How much history, how many refits, which models: training takes a minute on two cores."""

from dataclasses import dataclass
from math import gcd

from tasks.core.errors import SourceError

TABLE_ROWS = 160_000  # a feature table of that many rows is built in 2 s and walked in the minute
MAX_TABLE_ROWS = 450_000  # many short series may have more, since few refits are possible on them
MIN_STEPS = 1_000  # a lower cap would cut the history that lags and seasons need
MAX_STEPS = 50_000
FORECAST_ROWS = 400_000  # rows of forecasts that a model writes before the gate's
GATE_ROWS = 150_000
MAX_CUTOFFS = 400  # hundreds of cutoffs measure a model; more cost disk and add little
MIN_CUTOFFS = 8  # fewer measure luck
REFIT_S = 45.0  # all refits together; the rest of the minute is the start-up of seven processes
MIN_NET_PAIRS = 10_000  # fewer pairs of origin and step are too few for some thousand weights
LIGHTGBM_ROWS = 30_000  # about a second a fit


@dataclass(frozen=True)
class WalkForwardBudget:
    """The walk and the gate, counted in steps of the grid.

    min_gate_rows: paired cutoffs that the gate needs.
    net: whether a net is among the models.
    refit_s: of all models on one core.
    """

    n_cutoffs: int
    stride_steps: int
    refit_every_cutoffs: int
    n_refits: int
    min_train_steps: int
    gate_steps: int
    min_gate_rows: int
    net: bool
    refit_s: float

    @property
    def max_age_steps(self) -> int:
        """The greatest age of a fit in the walk-forward whose scores chose it."""
        return self.stride_steps * self.refit_every_cutoffs


def compute_caps(n_series: int, longest: int) -> tuple[int | None, int | None]:
    """(max_rows_per_series, max_series); None where no cap is needed.

    longest: rows of the longest series.
    """
    rows = min(MAX_STEPS, max(MIN_STEPS, TABLE_ROWS // n_series))
    series = MAX_TABLE_ROWS // min(longest, rows)
    return (rows if longest > rows else None), (series if n_series > series else None)


def plan_budget(
    n_steps: int, n_series: int, horizon_steps: int, season_steps: int, lookback_steps: int
) -> WalkForwardBudget:
    """The walk and the gate for *n_series* on *n_steps* of the grid.

    Raises SourceError with the length that is needed when the history is too short.
    """
    cutoff_rows = n_series * horizon_steps
    asked = (n_steps, n_series, horizon_steps, season_steps, lookback_steps)
    gate, min_train, n_origins = _split_history(*asked)
    if n_origins < MIN_CUTOFFS:
        raise SourceError(
            f"The history has {n_steps} steps; a horizon of {horizon_steps} and a season of {season_steps}"
            f" need more. {_suggest_way_out(*asked)}"
        )
    n_cutoffs = max(MIN_CUTOFFS, min(MAX_CUTOFFS, FORECAST_ROWS // cutoff_rows, n_origins))
    stride = _select_off_season_stride(max(1, n_origins // n_cutoffs), season_steps)
    n_cutoffs = min(n_cutoffs, 1 + (n_origins - 1) // stride)
    pairs = n_series * (n_steps - gate) * horizon_steps
    net = pairs >= MIN_NET_PAIRS
    seconds = _compute_refit_s(n_series * (n_steps - gate), horizon_steps, net)
    n_refits = max(2, min(10, int(REFIT_S / seconds), n_cutoffs // 2))
    refit_every = -(-n_cutoffs // n_refits)
    return WalkForwardBudget(
        n_cutoffs,
        stride,
        refit_every,
        -(-n_cutoffs // refit_every),
        min_train,
        gate,
        max(8, min(60, (gate - horizon_steps) // 2 + 1)),
        net,
        seconds,
    )


def _split_history(
    n_steps: int, n_series: int, horizon_steps: int, season_steps: int, lookback_steps: int
) -> tuple[int, int, int]:
    """(steps of the gate, history before the first cutoff, origins that are left for cutoffs)."""
    n_matured = 24  # cutoffs whose whole horizon is known; a smaller sample decides nothing
    gate = max(
        horizon_steps + min(n_matured, n_steps // 12),
        min(n_steps // 10, 1_000, GATE_ROWS // (n_series * horizon_steps)),
    )
    floor = max(3 * season_steps, 2 * horizon_steps, 20) if season_steps > 1 else max(2 * horizon_steps, 30)
    left = n_steps - gate - horizon_steps
    min_train = max(floor, min(int(0.5 * left), max(int(0.3 * left), 2 * lookback_steps, 8 * season_steps)))
    return gate, min_train, left - min_train


def _suggest_way_out(
    n_steps: int, n_series: int, horizon_steps: int, season_steps: int, lookback_steps: int
) -> str:
    """The longest horizon that this history allows, and the shortest history for this one."""

    def fits(steps: int, horizon: int) -> bool:
        return _split_history(steps, n_series, horizon, season_steps, lookback_steps)[2] >= MIN_CUTOFFS

    too_few, needed = n_steps, 2 * n_steps
    while not fits(needed, horizon_steps):
        too_few, needed = needed, 2 * needed
    while needed - too_few > 1:
        middle = (too_few + needed) // 2
        too_few, needed = (too_few, middle) if fits(middle, horizon_steps) else (middle, needed)
    longest = next((h for h in range(min(horizon_steps - 1, n_steps), 0, -1) if fits(n_steps, h)), None)
    shorter = "" if longest is None else f", or a shorter horizon: `--horizon {longest}`"
    return f"Give a history of at least {needed} steps{shorter}."


def _select_off_season_stride(stride: int, season_steps: int) -> int:
    """The nearest smaller stride that shares no divisor with the season.

    Otherwise every cutoff would be at the same hours.
    """
    while stride > 1 and gcd(stride, season_steps) > 1:
        stride -= 1
    return stride


def _compute_refit_s(rows: int, horizon_steps: int, net: bool) -> float:
    """Seconds of one refit of all models on one core.

    Measured on 20,000 to 300,000 rows with 33 features. The linear parts cost 80 ns per pair of
    origin and step, four times (har, ridge, and ridge twice below the trees: fitted and
    subtracted), the trees 25 us per pair that they are given, the net 1.2 s.
    """
    return (
        4 * 80e-9 * rows * horizon_steps
        + 25e-6 * min(rows * horizon_steps, LIGHTGBM_ROWS)
        + (1.2 if net else 0.0)
        + 0.2
    )
