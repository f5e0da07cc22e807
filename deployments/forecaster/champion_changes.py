"""What an operator may ask of the registry over HTTP; the command line does the same."""

import json
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator, with_config
from typing_extensions import TypedDict

from deployments.forecaster.loaded import LoadedRelease, format_iso
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.registered import convert_unknown_release
from deployments.forecaster.request import Name, build_invalid_error, parse_json
from tasks.core.errors import JournalError, TidemillError
from tasks.edges.champions import ChampionRecord
from tasks.release.kept import apply_deployment, apply_rollback

Reason = Annotated[str, Field(min_length=1, max_length=500, description="For the journal.")]
VersionName = Annotated[Name, Field(description="Its version, or the beginning of its digest.")]
DEPLOY_EXAMPLES = {"a kept release": {"version": "1.1.0", "reason": "the bias was in the source"}}
ROLLBACK_EXAMPLES = {
    "to a version": {"to": "1.0.0", "reason": "bias in the north"},
    "the one before": {"taken_back": "1.1.0", "reason": "bias in the north"},
}


class DeployBody(BaseModel):
    """The release that becomes champion: one that was champion and is kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: VersionName
    reason: Reason


class RollbackBody(BaseModel):
    """Where to go back to, or what is taken back; each makes the request safe to repeat."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"anyOf": [{"required": ["to"]}, {"required": ["taken_back"]}]},
    )

    to: VersionName | None = None
    taken_back: Annotated[
        Name | None,
        Field(description="The champion to take back; when another one is champion, nothing changes."),
    ] = None
    reason: Reason

    @model_validator(mode="after")
    def _check_target(self) -> "RollbackBody":
        if self.to is None and self.taken_back is None:
            raise ValueError("one of `to` and `taken_back` is needed, so that a repeated request is safe")
        return self


@with_config(ConfigDict(extra="forbid"))
class ChampionChange(TypedDict):
    """The champion after the request, whether this request or an earlier one made it that.

    changes: how it differs from the one that it replaced, in words.
    """

    dataset: str
    version: str
    digest: str
    action: Literal["promote", "rollback", "deploy"]
    by: str | None
    why: str | None
    promoted_at: str | None
    changes: list[str]


Body = TypeVar("Body", DeployBody, RollbackBody)


def parse_change(content: bytes, kind: type[Body]) -> Body:
    """The body of a request.

    Raises ProblemError: 400 when it is no JSON, 422 when it is JSON that is not *kind*.
    """
    examples = DEPLOY_EXAMPLES if kind is DeployBody else ROLLBACK_EXAMPLES
    parsed = parse_json(content, json.dumps(next(iter(examples.values()))))
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        raise build_invalid_error(error, kind, "reason") from error


def change_champion(loaded: LoadedRelease, asked: DeployBody | RollbackBody, by: str) -> ChampionChange:
    """Do what is asked for the served dataset.

    Raises ProblemError: 404 for a release that is not kept, 409 when it does not verify, or this
    service does not follow the registry, 503 when the registry cannot be read.
    """
    if loaded.choice.chosen_by != "champion":
        raise ProblemError(
            409,
            "service",
            f"it answers from a release that is {loaded.choice.chosen_by}",
            "Only a service that follows the registry can go to another champion.",
            "Start it without TIDEMILL_RELEASE in a home with a champion, or use `tidemill rollback`.",
        )
    dataset = loaded.manifest.dataset
    try:
        with convert_unknown_release():
            if isinstance(asked, DeployBody):
                return _describe(apply_deployment(dataset, asked.version, by, asked.reason))
            return _describe(apply_rollback(dataset, asked.to, by, asked.reason, taken_back=asked.taken_back))
    except (JournalError, OSError) as error:
        rule, way_out = "A change of champion is in the journal first.", "Report it to the operator."
        raise ProblemError(503, "registry", str(error), rule, way_out) from error
    except TidemillError as error:
        rule, way_out = "A release is verified before it is champion.", "Take another one."
        raise ProblemError(409, "version", str(error), rule, way_out) from error


def _describe(champion: ChampionRecord) -> ChampionChange:
    return {
        "dataset": champion.dataset,
        "version": champion.version,
        "digest": champion.digest,
        "action": champion.action,
        "by": champion.by,
        "why": champion.why,
        "promoted_at": None if champion.promoted_at is None else format_iso(champion.promoted_at),
        "changes": list(champion.changes),
    }
