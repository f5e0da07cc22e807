import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.release.conformal import Conformal, Pools, Timeline, point_shift, quantiles_at, replay

QUANTILES = (0.1, 0.5, 0.9)


def _timeline(rng, n_cutoffs=300, n_series=2, n_steps=3, spread=None):
    spread = np.ones(n_cutoffs) if spread is None else spread
    z = rng.normal(size=(n_cutoffs, n_series, n_steps)) * spread[:, None, None]
    known = np.minimum(np.arange(n_cutoffs)[:, None, None] + np.arange(1, n_steps + 1) + np.zeros((1, n_series, 1), dtype=int), n_cutoffs)
    return Timeline(np.zeros_like(z), np.ones((n_cutoffs, n_series)), z, known, np.ones(n_cutoffs, dtype=bool), np.arange(n_series))


def _issue(line, n_residuals=200, rate=0.02, transform="none"):
    state = Conformal(int(line.group.max()) + 1, line.z.shape[2], QUANTILES, n_residuals, rate)
    return replay(line, state, "mean", transform)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(30, 290))
def test_what_is_issued_at_a_cutoff_does_not_depend_on_later_outcomes(seed, k):
    line = _timeline(np.random.default_rng(seed))
    later = np.where(line.known_k > k, line.z + 100.0, line.z)
    changed = Timeline(line.z_hat, line.scale, later, line.known_k, line.learns, line.group)
    np.testing.assert_array_equal(_issue(line).quantiles[: k + 1], _issue(changed).quantiles[: k + 1])
    np.testing.assert_array_equal(_issue(line).point[: k + 1], _issue(changed).point[: k + 1])


def test_coverage_returns_to_its_level_when_the_noise_triples():
    rng = np.random.default_rng(3)
    line = _timeline(rng, n_cutoffs=3000, spread=np.repeat([1.0, 3.0], 1500))
    low, _, high = np.moveaxis(_issue(line).quantiles, -1, 0)
    inside = (line.z >= low) & (line.z <= high)
    assert inside[500:1500].mean() == pytest.approx(0.8, abs=0.03)
    assert inside[1700:].mean() == pytest.approx(0.8, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rate=st.floats(0, 1))
def test_quantiles_never_cross(seed, rate):
    issued = _issue(_timeline(np.random.default_rng(seed), n_cutoffs=80), rate=rate).quantiles
    known = issued[np.isfinite(issued).all(axis=-1)]
    assert len(known)
    assert (np.diff(known, axis=-1) >= 0).all()


def test_replay_equals_a_plain_loop_over_single_outcomes():
    """An independent slow twin: pools as lists, one outcome at a time."""
    rng = np.random.default_rng(7)
    line = _timeline(rng, n_cutoffs=120, n_series=2, n_steps=2)
    fast = _issue(line, n_residuals=30, rate=0.05).quantiles
    n_cutoffs, n_series, n_steps = line.z.shape
    for s in range(n_series):
        for h in range(n_steps):
            pool, levels, issued = [], list(QUANTILES), {}
            for k in range(n_cutoffs):
                for then in range(k):
                    if line.known_k[then, s, h] == k:
                        for q, target in enumerate(QUANTILES):
                            if then in issued and np.isfinite(issued[then]).all():
                                levels[q] = min(1.0, max(0.0, levels[q] + 0.05 * (target - (line.z[then, s, h] <= issued[then][q]))))
                        pool.append(line.z[then, s, h])
                if k - n_steps + 1 >= 20:  # until its last step has 20 outcomes a group borrows from all
                    own = np.sort(pool[-30:])
                    position = np.clip(np.array(levels) * (len(own) + 1) - 1, 0, len(own) - 1)
                    issued[k] = np.sort(np.interp(position, np.arange(len(own)), own))
                    np.testing.assert_allclose(fast[k, s, h], issued[k], atol=1e-12)
                else:
                    issued[k] = fast[k, s, h]


def test_more_outcomes_at_once_than_the_pool_holds_keep_the_last():
    state = Conformal(1, 1, QUANTILES, 5, 0.0)
    state.learn(np.zeros(12, dtype=int), np.zeros(12, dtype=int), np.arange(12.0), np.full((12, 3), np.nan))
    assert sorted(state.pool[0, 0]) == [7, 8, 9, 10, 11]


def test_an_unknown_series_uses_everybodys_pool():
    state = Conformal(2, 1, QUANTILES, 50, 0.0)
    state.learn(np.repeat([0, 1], 30), np.zeros(60, dtype=int), np.concatenate([np.full(30, -1.0), np.full(30, 1.0)]), np.full((60, 3), np.nan))
    stranger = np.array([-1])
    offsets = state.issue(state.pools(stranger))
    assert offsets[0, 0].tolist() == [-1.0, 0.0, 1.0]


def test_nothing_known_gives_no_quantiles_and_an_unmoved_point():
    line = _timeline(np.random.default_rng(0), n_cutoffs=1)
    issued = _issue(line)
    assert np.isnan(issued.quantiles).all()
    np.testing.assert_array_equal(issued.point, line.z_hat)


def test_point_shift_is_the_functional_of_the_pool():
    rng = np.random.default_rng(1)
    residuals = np.append(rng.normal(size=400), np.full(100, np.nan)).reshape(1, 1, -1)
    pool = Pools(np.array([0]), residuals, np.zeros(1, dtype=int))
    e, scale = residuals[0, 0, :400] * 0.5, np.array([0.5])
    assert point_shift(pool, scale, "mean_square", "log")[0, 0] == pytest.approx(0.5 * np.log(np.mean(np.exp(2 * e))))
    assert point_shift(pool, scale, "mean", "log")[0, 0] == pytest.approx(np.log(np.mean(np.exp(e))))
    assert point_shift(pool, scale, "mean", "none")[0, 0] == pytest.approx(e.mean())
    assert point_shift(pool, scale, "median", "log")[0, 0] == pytest.approx(np.median(e))


@pytest.mark.parametrize("functional", ["mean_square", "mean", "median"])
@pytest.mark.parametrize("transform", ["log", "none"])
def test_series_that_share_a_pool_are_each_treated_as_alone(functional, transform):
    rng = np.random.default_rng(4)
    residuals, which, scale = rng.normal(size=(2, 3, 50)), rng.integers(0, 2, 40), rng.uniform(0.5, 2, 40)
    together = point_shift(Pools(np.arange(2), residuals, which), scale, functional, transform)
    for i, cell in enumerate(which):
        alone = point_shift(Pools(np.arange(1), residuals[cell : cell + 1], np.zeros(1, dtype=int)), scale[i : i + 1], functional, transform)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-12)


def test_quantiles_of_pools_of_different_size_ignore_what_is_missing():
    pool = np.array([[1.0, 2.0, 3.0, np.nan, np.nan], [1.0, 2.0, 3.0, 4.0, 5.0]])
    assert quantiles_at(pool, np.full((2, 1), 0.5))[:, 0].tolist() == [2.0, 3.0]


def test_points_alone_are_the_points_of_the_full_replay():
    line = _timeline(np.random.default_rng(2), n_cutoffs=120)
    state = Conformal(2, 3, QUANTILES, 50, 0.02)
    np.testing.assert_array_equal(replay(line, state, "mean", "none", only_points=True).point, _issue(line, n_residuals=50).point)
