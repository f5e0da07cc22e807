"""The version of a release follows from what differs, and from nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.versions import (
    ReleaseTraits,
    build_next_version,
    decide_version_part,
    describe_changes,
)

BASE = ReleaseTraits(
    interface={"target": {"column": "load", "unit": "kWh"}, "horizon_steps": 5, "levels": [0.1, 0.5, 0.9]},
    model={"members": ["ridge"], "features": ["z_last", "z_lag1"]},
    parameters={"ridge": {"alpha": 1.0}},
)
PARTS = ("patch", "minor", "major")  # the smallest first
CHANGES = {
    "target": ("interface", {"target": {"column": "load", "unit": "MWh"}}, "major"),
    "horizon": ("interface", {"horizon_steps": 6}, "major"),
    "levels": ("interface", {"levels": [0.5]}, "major"),
    "new column": ("interface", {"columns": {"load": "Float64"}}, "major"),
    "family": ("model", {"members": ["lightgbm", "ridge"]}, "minor"),
    "features": ("model", {"features": ["z_last"]}, "minor"),
    "parameters": ("parameters", {"ridge": {"alpha": 2.0}}, "minor"),
}


def change(traits, *names):
    for name in names:
        group, values, _ = CHANGES[name]
        traits = traits.model_copy(update={group: {**getattr(traits, group), **values}})
    return traits


@given(st.sets(st.sampled_from(sorted(CHANGES))))
def test_the_largest_part_wins_in_both_directions(names):
    after = change(BASE, *sorted(names))
    expected = max(("patch", *(CHANGES[name][2] for name in names)), key=PARTS.index)
    assert decide_version_part(BASE, after) == decide_version_part(after, BASE) == expected
    assert (describe_changes(BASE, after) == []) == (expected == "patch")


def test_a_release_from_before_the_rule_gets_the_next_minor_version_as_then():
    assert decide_version_part(None, BASE) == decide_version_part(BASE, None) == "minor"
    assert build_next_version("1.3.0", "minor", ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]) == "1.4.0"


@pytest.mark.parametrize(("part", "expected"), [("major", "3.0.0"), ("minor", "1.3.0"), ("patch", "1.0.2")])
def test_after_a_rollback_versions_go_on_above_those_that_there_were(part, expected):
    assert build_next_version("1.0.0", part, ["1.0.0", "1.0.1", "1.1.0", "1.2.5", "2.0.0"]) == expected


VERSIONS = st.tuples(*[st.integers(0, 12)] * 3).map(lambda parts: ".".join(map(str, parts)))


@given(VERSIONS, st.sets(VERSIONS), st.sampled_from(PARTS))
def test_the_next_version_is_new_and_its_part_alone_has_risen(version, taken, part):
    built = build_next_version(version, part, taken)
    before, after = (tuple(map(int, text.split("."))) for text in (version, built))
    index = 2 - PARTS.index(part)
    assert built not in {version, *taken}
    assert after > before
    assert after[:index] == before[:index]
    assert after[index + 1 :] == (0,) * (2 - index)


@given(st.lists(st.sets(st.sampled_from(sorted(CHANGES))), max_size=8))
def test_equal_major_is_an_equal_interface_and_equal_minor_an_equal_model(steps):
    """However the champion has changed, each of these from the one before it."""
    releases, traits = {"1.0.0": BASE}, BASE
    version = "1.0.0"
    for names in steps:
        after = change(BASE, *sorted(names))
        version = build_next_version(version, decide_version_part(traits, after), releases)
        releases[version], traits = after, after
    for one, first in releases.items():
        for other, second in releases.items():
            if one.split(".")[0] == other.split(".")[0]:
                assert first.interface == second.interface
            if one.split(".")[:2] == other.split(".")[:2]:
                assert first == second


def test_a_change_is_told_by_name_with_what_it_was_and_is():
    after = change(BASE, "horizon", "features", "family", "parameters")
    assert describe_changes(BASE, after) == [
        "interface: horizon_steps: 5 -> 6",
        "model: features: removed z_lag1",
        "model: members: added lightgbm",
        "parameters: ridge: alpha 1.0 -> 2.0",
    ]
