"""What the registry's journal has of a champion, and what follows from its lines alone.

Versions, the release to go back to, the changelog of the model.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from tasks.core.reports.promote import GateDecision
from tasks.core.strict import Strict
from tasks.core.versions import FIRST_VERSION, build_next_version, decide_version_part, describe_changes
from tasks.edges.release_files import ReleaseIdentity


class Champion(Strict):
    """The release that answers.

    path: relative to home.
    promoted_as_of: newest `known_at` of the data that decided.
    """

    dataset: str
    digest: str
    path: str
    version: str
    model: str
    seen_until: datetime
    promoted_as_of: datetime


class ChampionRecord(Champion):
    """champion.json, and a line of the journal.

    decision: what promote wrote when it became champion first.
    action: `promote` by the gate; `rollback` and `deploy` by an operator, of a kept release.
    replaces: digest of the champion before it; None at the first, and in lines of older versions,
      which have none of the following either.
    promoted_at: the wall clock.
    by: who did it. why: the gate's reason, or the operator's.
    changes: how it differs from the one that it replaces, in words.
    taken_back_as_of: of a rollback, the newest `known_at` of the rows at that time.
    signed_by: public key of its signature; None in a line of before there were signatures, whose
      release is served without one.
    approval: the line in the journal of approvals that allowed it, from 0; None without one.
    """

    decision: GateDecision
    action: Literal["promote", "rollback", "deploy"] = "promote"
    replaces: str | None = None
    promoted_at: datetime | None = None
    by: str | None = None
    why: str | None = None
    changes: tuple[str, ...] = ()
    taken_back_as_of: datetime | None = None
    approval: int | None = None
    signed_by: str | None = None


def build_champion(
    release: ReleaseIdentity,
    decision: GateDecision,
    journal: Sequence[ChampionRecord],
    former: ReleaseIdentity | None,
) -> ChampionRecord:
    """The record of *release* as champion.

    journal: the promotions before, oldest first. former: the release that it replaces.
    """
    return ChampionRecord(
        dataset=release.dataset,
        digest=release.digest,
        path=f"releases/{release.digest}",
        version=_decide_version(release, journal, former),
        model=release.model,
        seen_until=release.seen_until,
        promoted_as_of=decision.as_of,
        decision=decision,
        changes=tuple(describe_differences(former, release)),
    )


def _decide_version(
    release: ReleaseIdentity, journal: Sequence[ChampionRecord], former: ReleaseIdentity | None
) -> str:
    """By tasks.core.versions, from the champion's; a former release keeps its own."""
    versions = {line.digest: line.version for line in journal}
    if not versions or release.digest in versions:
        return versions.get(release.digest, FIRST_VERSION)
    part = decide_version_part(None if former is None else former.traits, release.traits)
    return build_next_version(journal[-1].version, part, versions.values())


def describe_differences(before: ReleaseIdentity | None, after: ReleaseIdentity | None) -> list[str]:
    """How *after* differs from *before*, a sentence each; none where one of them is unknown."""
    if before is None or after is None:
        return []
    data = f"data: seen until {before.seen_until:%F %T}Z -> {after.seen_until:%F %T}Z"
    return [
        *describe_changes(before.traits, after.traits),
        *([data] if before.seen_until != after.seen_until else []),
    ]


def find_previous_champion(journal: Sequence[ChampionRecord]) -> ChampionRecord | None:
    """The release that was champion before the last one took over; None when there was none.

    What was taken back is not gone back to: after 1.0.0, 1.1.0 and a rollback to 1.0.0 there is no
    earlier one.
    """
    champions: list[ChampionRecord] = []
    for line in journal:
        known = [former.digest for former in champions]
        if line.action == "rollback" and line.digest in known:
            del champions[len(known) - 1 - known[::-1].index(line.digest) :]
        champions.append(line)
    return next((line for line in reversed(champions) if line.digest != champions[-1].digest), None)


def render_changelog(dataset: str, journal: Sequence[ChampionRecord]) -> str:
    """The journal in words, as Markdown, newest first."""
    parts = [f"# Changelog of the model of {dataset}"]
    for line in reversed(journal):
        when = line.promoted_as_of if line.promoted_at is None else line.promoted_at
        noun = {"promote": "Promotion", "rollback": "Rollback", "deploy": "Deployment"}[line.action]
        without = "nothing but the data" if line.replaces else "the first release, or one of an older version"
        changes = line.changes or (without,)
        parts += [
            f"## {line.version}, {when:%F %T}Z",
            f"{noun} by {line.by or 'unknown'}: {line.why or line.decision.reason}.",
            f"Digest `{line.digest[:12]}`, model {line.model}, seen until {line.seen_until:%F}.",
            "\n".join(f"- {change}" for change in changes),
        ]
    return "\n\n".join(parts) + "\n"


def find_taken_back(journal: Sequence[ChampionRecord]) -> dict[str, datetime]:
    """By digest the newest `known_at` of the rows when a rollback replaced that release."""
    return {
        line.replaces: line.taken_back_as_of or line.promoted_as_of
        for line in journal
        if line.action == "rollback" and line.replaces is not None
    }
