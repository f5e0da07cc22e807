from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.kinds.conformal import Conformal, compute_point_shift
from tasks.core.kinds.numeric import NumericKind
from tasks.core.kinds.timeline import Timeline, calibrate

QUANTILES = (0.1, 0.5, 0.9)
NUMERIC = NumericKind()
N_COLUMNS = 1 + len(QUANTILES)


def _timeline(rng, n_cutoffs=300, n_series=2, n_steps=3, spread=None):
    spread = np.ones(n_cutoffs) if spread is None else spread
    z = rng.normal(size=(n_cutoffs, n_series, n_steps)) * spread[:, None, None]
    known = np.minimum(
        np.arange(n_cutoffs)[:, None, None]
        + np.arange(1, n_steps + 1)
        + np.zeros((1, n_series, 1), dtype=int),
        n_cutoffs,
    )
    return Timeline(
        np.zeros_like(z),
        np.ones((n_cutoffs, n_series)),
        z,
        known,
        np.ones(n_cutoffs, dtype=bool),
        np.arange(n_series),
        NUMERIC,
    )


def _issue(line, n_residuals=200, rate=0.02, transform="none", functional="mean", block=1):
    n_bases = 1 if line.base is None else 1 + len(QUANTILES)
    state = Conformal(
        int(line.group.max()) + 1,
        line.z.shape[2],
        QUANTILES,
        n_residuals,
        rate,
        block,
        n_bases,
        functional,
        transform,
    )
    return calibrate(line, state, N_COLUMNS)


def _covered(line, issued, since, until=None):
    """Share of the outcomes of the cutoffs from *since* to *until* that lie within the outer
    quantiles."""
    low, _, high = np.moveaxis(issued.further[since:until], -1, 0)
    z = line.z[since:until]
    return ((z >= low) & (z <= high)).mean()


def _memory(rng, n_cutoffs, n_series, rho):
    """(K, S) autoregressions with standard deviation 1."""
    out = rng.normal(size=(n_cutoffs, n_series))
    for k in range(1, n_cutoffs):
        out[k] = rho * out[k - 1] + np.sqrt(1 - rho**2) * out[k]
    return out


def _one_step(z, group, base=None):
    """A timeline of one step: z (K, S) is known at the next cutoff."""
    n_cutoffs, n_series = z.shape
    known = np.broadcast_to(np.arange(1, n_cutoffs + 1)[:, None, None], (n_cutoffs, n_series, 1))
    return Timeline(
        np.zeros((*z.shape, 1)),
        np.ones(z.shape),
        z[..., None],
        known,
        np.ones(n_cutoffs, dtype=bool),
        group,
        NUMERIC,
        base,
    )


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(30, 290))
def test_what_is_issued_at_a_cutoff_does_not_depend_on_later_outcomes(seed, k):
    line = _timeline(np.random.default_rng(seed))
    later = np.where(line.known_k > k, line.z + 100.0, line.z)
    changed = Timeline(line.z_hat, line.scale, later, line.known_k, line.learns, line.group, NUMERIC)
    np.testing.assert_array_equal(_issue(line).further[: k + 1], _issue(changed).further[: k + 1])
    np.testing.assert_array_equal(_issue(line).point[: k + 1], _issue(changed).point[: k + 1])


def test_coverage_returns_to_its_level_when_the_noise_doubles():
    """P8: within 500 cutoffs of the change, for adaptive intervals and for adaptive CQR whose
    base knows nothing of it."""
    rng = np.random.default_rng(3)
    line = _timeline(rng, n_cutoffs=2000, spread=np.repeat([1.0, 2.0], 1000))
    for made in (line, replace(line, base=np.broadcast_to([-1.28, 0.0, 1.28], (*line.z.shape, 3)))):
        issued = _issue(made)
        assert _covered(line, issued, 300, 1000) == pytest.approx(0.8, abs=0.03)
        assert _covered(line, issued, 1500) == pytest.approx(0.8, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rate=st.floats(0, 1), cqr=st.booleans(), block=st.integers(1, 5))
def test_quantiles_never_cross(seed, rate, cqr, block):
    rng = np.random.default_rng(seed)
    line = _timeline(rng, n_cutoffs=80)
    line = replace(line, base=rng.normal(size=(*line.z.shape, 3))) if cqr else line
    issued = _issue(line, rate=rate, block=block).further
    known = issued[np.isfinite(issued).all(axis=-1)]
    assert len(known)
    assert (np.diff(known, axis=-1) >= 0).all()


@pytest.mark.parametrize("n_residuals", [30, 200])
def test_split_intervals_cover_what_can_be_exchanged(n_residuals):
    """40 series x 500 cutoffs of independent errors, skewed, without any adapting: 80 % to the
    noise of the sample."""
    rng = np.random.default_rng(0)
    line = _one_step(rng.gamma(1.0, size=(500, 40)), np.arange(40))
    assert _covered(line, _issue(line, n_residuals, rate=0.0), 250) == pytest.approx(0.8, abs=0.01)


def test_blocks_cover_where_neighbours_are_alike_and_single_residuals_do_not():
    """Errors with autocorrelation .9 and pools of 100: about 75 % of 80 % one by one, 80 % by
    blocks of 7, which make independent ones wider than they need."""
    rng = np.random.default_rng(1)
    alike = _one_step(_memory(rng, 600, 60, 0.9), np.arange(60))
    assert _covered(alike, _issue(alike, 100, rate=0.0), 150) < 0.77
    assert _covered(alike, _issue(alike, 100, rate=0.0, block=7), 150) == pytest.approx(0.8, abs=0.015)
    independent = _one_step(_memory(rng, 600, 60, 0.0), np.arange(60))
    assert 0.8 <= _covered(independent, _issue(independent, 100, rate=0.0, block=7), 150) <= 0.87


def test_cqr_keeps_the_shape_that_the_members_forecast():
    """The spread is known at the origin and doubles at random: CQR covers calm and wild cutoffs
    alike, where split covers only their mean."""
    rng = np.random.default_rng(2)
    spread = rng.choice([0.5, 2.0], size=(1000, 10))
    line = _one_step(spread * rng.normal(size=spread.shape), np.zeros(10, dtype=int))
    # Right in shape, a tenth too narrow
    cqr = replace(line, base=(spread[:, :, None, None] * np.array([-1.15, 0.0, 1.15])))
    wild = spread[200:] == 2.0
    for made, calm, rough in ((line, 1.0, 0.6), (cqr, 0.8, 0.8)):
        issued = _issue(made, 500, rate=0.0).further[200:, :, 0]
        inside = (line.z[200:, :, 0] >= issued[..., 0]) & (line.z[200:, :, 0] <= issued[..., -1])
        assert inside[~wild].mean() == pytest.approx(calm, abs=0.04)
        assert inside[wild].mean() == pytest.approx(rough, abs=0.06)


def test_pools_by_regime_cover_each_regime():
    rng = np.random.default_rng(4)
    regime = rng.integers(0, 2, size=(1000, 5))
    line = _one_step((1 + 3 * regime) * rng.normal(size=regime.shape), regime)
    issued = _issue(line, 400, rate=0.0).further[200:, :, 0]
    inside = (line.z[200:, :, 0] >= issued[..., 0]) & (line.z[200:, :, 0] <= issued[..., -1])
    assert [inside[regime[200:] == r].mean() for r in (0, 1)] == pytest.approx([0.8, 0.8], abs=0.03)


class SlowTwin:
    """The same from lists, one outcome at a time; shares nothing with the code but the
    definition."""

    def __init__(self, n_residuals, rate, block, n_groups):
        self.n, self.rate, self.block, self.n_groups = n_residuals // block * block, rate, block, n_groups
        self.pools, self.levels = {}, {}

    def _of(self, group, step):
        self.levels.setdefault((group, step), list(QUANTILES))
        return self.pools.setdefault((group, step), [])

    def learn(self, outcomes):
        """(group, step, residuals, issued offsets or None) of one cutoff: levels by the mean
        over a cell, then the pools."""
        below = {}
        for group, step, residuals, issued in outcomes:
            self._of(group, step).append(residuals)
            if issued is not None:
                below.setdefault((group, step), []).append(
                    [
                        r <= o
                        for r, o in zip(
                            residuals[-len(QUANTILES) :] if len(residuals) > 1 else residuals * 3,
                            issued,
                            strict=True,
                        )
                    ]
                )
        for cell, hits in below.items():
            for q, target in enumerate(QUANTILES):
                self.levels[cell][q] = min(
                    1.0, max(0.0, self.levels[cell][q] + self.rate * (target - np.mean([h[q] for h in hits])))
                )

    def offsets(self, group, step, n_steps):
        counts = [len(self._of(group, s)) for s in range(n_steps)]
        own = self.n_groups == 1 or min(counts) >= 20
        pool = (
            self._of(group, step)[-self.n :]
            if own
            else [r for g in range(self.n_groups) for r in self._of(g, step)[-self.n :]]
        )
        out = []
        for q, level in enumerate(self.levels[group, step]):
            values = [r[0] if len(r) == 1 else r[1 + q] for r in pool]
            first = max(0, len(self._of(group, step)) - self.n)
            sets = (
                [[v for i, v in enumerate(values, first) if i % self.block == b] for b in range(self.block)]
                if own
                else [values]
            )
            read = [
                float(
                    np.interp(np.clip(level * (len(v) + 1) - 1, 0, len(v) - 1), np.arange(len(v)), sorted(v))
                )
                for v in sets
                if v
            ]
            out.append(np.mean(read) if read else np.nan)
        return out


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("cqr", [False, True])
@pytest.mark.parametrize("groups", ["series", "all", "regime"])
@pytest.mark.parametrize("n_residuals", [30, 200])
def test_replay_equals_a_plain_loop_over_single_outcomes(groups, cqr, block, n_residuals):
    """Some forecasts and outcomes are missing, scales differ; a pool of 30 is sorted anew each
    time, one of 200 entry by entry."""
    rng = np.random.default_rng(7)
    line = _timeline(rng, n_cutoffs=90, n_series=3, n_steps=2)
    shape = line.z.shape
    group = {"series": np.arange(3), "all": np.zeros(3, dtype=int), "regime": rng.integers(0, 2, shape[:2])}[
        groups
    ]
    line = Timeline(
        np.where(rng.random((*shape[:2], 1)) < 0.1, np.nan, rng.normal(size=shape)),
        rng.uniform(0.5, 2, shape[:2]),
        np.where(rng.random(shape) < 0.1, np.nan, line.z),
        line.known_k,
        np.arange(90) % 4 != 1,
        group,
        NUMERIC,
        rng.normal(size=(*shape, 3)) if cqr else None,
    )
    issued_columns = _issue(line, n_residuals, rate=0.05, block=block)
    fast, points = issued_columns.further, issued_columns.point
    twin, offsets = SlowTwin(n_residuals, 0.05, block, int(group.max()) + 1), {}
    group = np.broadcast_to(group, shape[:2])
    for k in range(90):
        outcomes = []
        for then, s, h in np.argwhere(line.known_k == k):
            bases = [line.z_hat[then, s, h], *(line.base[then, s, h] if cqr else ())]
            residuals = [(line.z[then, s, h] - b) / line.scale[then, s] for b in bases]
            if line.learns[then] and np.isfinite(residuals).all():
                issued = offsets.get((then, s, h))
                outcomes.append(
                    (group[then, s], h, residuals, issued if issued and np.isfinite(issued).all() else None)
                )
        twin.learn(outcomes)
        for s, h in np.ndindex(shape[1:]):
            if np.isfinite(line.z_hat[k, s, h]):
                offsets[k, s, h] = twin.offsets(group[k, s], h, shape[2])
                if not cqr:
                    offsets[k, s, h].sort()
                base = line.base[k, s, h] if cqr else line.z_hat[k, s, h]
                expected = np.sort(base + np.array(offsets[k, s, h]) * line.scale[k, s])
                # The point is within the interval
                expected[0], expected[-1] = (
                    min(expected[0], points[k, s, h]),
                    max(expected[-1], points[k, s, h]),
                )
                np.testing.assert_allclose(fast[k, s, h], expected, atol=1e-12)


def test_more_outcomes_at_once_than_the_pool_holds_keep_the_last():
    state = Conformal(1, 1, QUANTILES, 5, 0.0)
    state.learn(
        np.zeros(12, dtype=int), np.zeros(12, dtype=int), np.arange(12.0)[:, None], np.full((12, 3), np.nan)
    )
    assert sorted(state.pool[0, 0, 0]) == [7, 8, 9, 10, 11]
    assert state.issue(np.zeros(1, dtype=int))[0, 0].tolist() == pytest.approx([7.0, 9.0, 11.0])


def test_an_unknown_series_uses_everybodys_pool():
    state = Conformal(2, 1, QUANTILES, 50, 0.0)
    state.learn(
        np.repeat([0, 1], 30),
        np.zeros(60, dtype=int),
        np.repeat([-1.0, 1.0], 30)[:, None],
        np.full((60, 3), np.nan),
    )
    assert state.issue(np.array([-1]))[0, 0].tolist() == [-1.0, 0.0, 1.0]
    assert state.compute_shift(np.array([-1]), np.ones(1)).tolist() == [[0.0]]


def test_nothing_known_gives_no_quantiles_and_an_unmoved_point():
    line = _timeline(np.random.default_rng(0), n_cutoffs=1)
    for functional in ("mean", "median", "mean_square"):
        issued = _issue(line, functional=functional)
        assert np.isnan(issued.further).all()
        np.testing.assert_array_equal(issued.point, line.z_hat)


def test_point_shift_is_the_functional_of_the_pool():
    rng = np.random.default_rng(1)
    residuals = np.append(rng.normal(size=400), np.full(100, np.nan)).reshape(1, 1, -1)
    e, scale, which = residuals[0, 0, :400] * 0.5, np.array([0.5]), np.zeros(1, dtype=int)
    assert compute_point_shift(residuals, which, scale, "mean_square", "log")[0, 0] == pytest.approx(
        0.5 * np.log(np.mean(np.exp(2 * e)))
    )
    assert compute_point_shift(residuals, which, scale, "mean", "log")[0, 0] == pytest.approx(
        np.log(np.mean(np.exp(e)))
    )
    assert compute_point_shift(residuals, which, scale, "mean", "none")[0, 0] == pytest.approx(e.mean())
    assert compute_point_shift(residuals, which, scale, "median", "log")[0, 0] == pytest.approx(np.median(e))


@pytest.mark.parametrize("functional", ["mean_square", "mean", "median"])
@pytest.mark.parametrize("transform", ["log", "none"])
def test_the_state_shifts_each_series_by_its_own_pool(functional, transform):
    """Three groups, the third with too little of its own; against the pools written out."""
    rng = np.random.default_rng(4)
    state = Conformal(3, 2, QUANTILES, 40, 0.0, functional=functional, transform=transform)
    known = {}
    for cell, n in {(g, h): (60, 60, 5)[g] for g in range(3) for h in range(2)}.items():
        known[cell] = rng.normal(size=n)[-40:]
        state.learn(
            np.full(len(known[cell]), cell[0]),
            np.full(len(known[cell]), cell[1]),
            known[cell][:, None],
            np.empty((0, 1)),
        )
    group, scale = rng.integers(-1, 3, 20), rng.uniform(0.5, 2, 20)
    found = state.compute_shift(group, scale)
    for i, h in np.ndindex(20, 2):
        own = known[group[i], h] if group[i] in (0, 1) else np.concatenate([known[g, h] for g in range(3)])
        alone = compute_point_shift(
            own[None, None, :], np.zeros(1, dtype=int), scale[i : i + 1], functional, transform
        )
        assert found[i, h] == pytest.approx(alone[0, 0], rel=1e-12)


def test_points_alone_are_the_points_of_the_full_replay():
    line = _timeline(np.random.default_rng(2), n_cutoffs=120)
    for functional in ("mean", "median"):
        state = Conformal(2, 3, QUANTILES, 50, 0.02, functional=functional)
        np.testing.assert_array_equal(
            calibrate(line, state, 1).point,
            _issue(line, n_residuals=50, functional=functional).point,
        )
