"""What an answer's warnings follow from, and the warnings."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from deployments.forecaster.forecast_problems import build_expired_error
from deployments.forecaster.loaded import LoadedRelease, format_iso
from tasks.core.calendar import parse_step_length
from tasks.core.service_rules import Freshness, ServiceRules


class ForecastFacts(NamedTuple):
    """What the warnings of an answer follow from.

    cutoff: the first of its forecasts.
    newest: known_at of the newest row.
    as_of: the requested time; None: the newest rows are used.
    is_complete: whether no quantile is null.
    absent: requested series that cannot be forecast, with reasons.
    n_own_rows: of the request's own history; None without one.
    rules: how old the newest row may be.
    """

    cutoff: datetime
    newest: datetime
    as_of: datetime | None
    made_at: datetime
    is_complete: bool
    absent: Mapping[str, str] = MappingProxyType({})
    n_own_rows: int | None = None
    rules: ServiceRules = ServiceRules()

    @property
    def freshness(self) -> Freshness:
        """Of an answer from the newest rows that the service holds; any other is fresh."""
        is_news = self.as_of is None and self.n_own_rows is None
        return self.rules.get_freshness(self.newest, self.made_at) if is_news else "fresh"


def list_warnings(loaded: LoadedRelease, facts: ForecastFacts) -> list[str]:
    """Sentences about what an answer should not be trusted for.

    Raises ProblemError 503 when its rows have expired.
    """
    seen_until, lookback = loaded.release.seen_until, loaded.release.schema.lookback_steps
    warnings = [f"{s} cannot be forecast: {reason}" for s, reason in sorted(facts.absent.items())]
    if facts.cutoff < seen_until:
        warnings.append(
            f"In sample: the model was fitted on what was known until {format_iso(seen_until)}, after this"
            " cutoff. Its errors here are no measure of its accuracy."
        )
    if not facts.is_complete:
        warnings.append("Some quantiles are null: no error of this model is known yet.")
    warnings += _list_stale_warnings(loaded, facts)
    warnings += _list_old_row_warnings(loaded, facts)
    if facts.n_own_rows is not None and facts.n_own_rows <= lookback:
        warnings.append(
            f"The history has {facts.n_own_rows} rows and the features read the last {lookback + 1}; what"
            " is missing counts as unknown."
        )
    return warnings


def _list_old_row_warnings(loaded: LoadedRelease, facts: ForecastFacts) -> list[str]:
    """A warning when the newest row is older than `last_within_steps` of the features.

    Its age is relative to the requested time, or to now when none was requested.
    """
    about, max_age_steps = loaded.release.about, loaded.release.features.last_within_steps
    newest_of_rows = loaded.newest_known if facts.n_own_rows is None else facts.newest
    reference_time = facts.as_of or (newest_of_rows if about.integer_time else facts.made_at)
    n_steps = int((reference_time - facts.newest) / parse_step_length(about.every))
    if n_steps <= max_age_steps:
        return []
    return [
        (
            f"The newest row was known at {format_iso(facts.newest)}, some {n_steps} steps before"
            f" {format_iso(reference_time)}. The forecast starts there."
        )
    ]


def _list_stale_warnings(loaded: LoadedRelease, facts: ForecastFacts) -> list[str]:
    if loaded.release.about.integer_time or (freshness := facts.freshness) == "fresh":
        return []
    fact = f"the newest row was known at {format_iso(facts.newest)}, more than"
    if freshness == "expired":
        raise build_expired_error(f"{fact} {facts.rules.expire_after} ago")
    return [f"Stale: {fact} {facts.rules.stale_after} ago."]
