"""The semantic version of a release, by rule, and what changed between two releases, in words.

Major: the interface, which is what a caller relies on. Minor: the model, which is its members,
features and parameters. Patch: the data alone. Releases of one major version have one interface;
releases of one major and minor version have one interface and one model.
"""

import json
from collections.abc import Collection
from typing import Literal, NamedTuple

from pydantic import JsonValue

from tasks.core.strict import Strict

VersionPart = Literal["major", "minor", "patch"]
FIRST_VERSION = "1.0.0"
_MAX_TEXT = 200  # of one value in a sentence


class ReleaseTraits(Strict):
    """What the version of a release follows from, by name.

    interface: target, step, calendar, horizon, levels and columns of the rows.
    model: members, how they are combined, features.
    parameters: of the members and the ensemble, as params.yaml has them.
    """

    interface: dict[str, JsonValue]
    model: dict[str, JsonValue]
    parameters: dict[str, JsonValue]


class TraitChange(NamedTuple):
    """One difference. group: a field of ReleaseTraits. before, after: None without the name."""

    group: str
    name: str
    before: JsonValue
    after: JsonValue


def list_trait_changes(before: ReleaseTraits, after: ReleaseTraits) -> list[TraitChange]:
    """What differs, the interface first."""
    return [
        TraitChange(group, name, old.get(name), new.get(name))
        for group in ReleaseTraits.model_fields
        for old, new in [(getattr(before, group), getattr(after, group))]
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def decide_version_part(before: ReleaseTraits | None, after: ReleaseTraits | None) -> VersionPart:
    """The part of the version that rises from *before* to *after*.

    None: of a release from before there were traits, whose model is taken as another one.
    """
    if before is None or after is None:
        return "minor"
    groups = {change.group for change in list_trait_changes(before, after)}
    return "major" if "interface" in groups else "minor" if groups else "patch"


def build_next_version(version: str, part: VersionPart, taken: Collection[str]) -> str:
    """The version after *version* whose *part* rises, above all those of *taken* that it follows.

    After 1.1.0 was taken back to 1.0.0, the next minor version is 1.2.0, and the next patch 1.0.1.
    """
    n_kept = ("major", "minor", "patch").index(part)
    prefix = _parse_version(version)[:n_kept]
    highest = max(
        known[n_kept] for known in map(_parse_version, {*taken, version}) if known[:n_kept] == prefix
    )
    return ".".join(map(str, (*prefix, highest + 1, *(0 for _ in range(2 - n_kept)))))


def describe_changes(before: ReleaseTraits | None, after: ReleaseTraits | None) -> list[str]:
    """A sentence for each difference of interface and model; none where only the data differ.

    Parameters of a member that one of them has not are left out: that it has not is a difference.
    """
    if before is None or after is None:
        return ["model: unknown, since one of the releases was built before this was kept"]
    shared = before.parameters.keys() & after.parameters.keys()
    return [
        _describe_change(change)
        for change in list_trait_changes(before, after)
        if change.group != "parameters" or change.name in shared
    ]


def _describe_change(change: TraitChange) -> str:
    name, before, after = f"{change.group}: {change.name}", change.before, change.after
    if isinstance(before, list) and isinstance(after, list):
        added, removed = ([v for v in a if v not in b] for a, b in ((after, before), (before, after)))
        if added or removed:
            parts = [("added", added), ("removed", removed)]
            return f"{name}: " + "; ".join(
                f"{verb} {_format_value(values)}" for verb, values in parts if values
            )
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        return f"{name}: " + "; ".join(
            f"{key} {_format_value(before.get(key))} -> {_format_value(after.get(key))}" for key in keys
        )
    return f"{name}: {_format_value(before)} -> {_format_value(after)}"


def _format_value(value: JsonValue) -> str:
    if isinstance(value, list):
        text = ", ".join(map(_format_value, value))
    else:
        text = (
            "none"
            if value is None
            else value
            if isinstance(value, str)
            else json.dumps(value, sort_keys=True)
        )
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _parse_version(version: str) -> tuple[int, int, int]:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch
