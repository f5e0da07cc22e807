"""Why a series cannot be forecast, as a caller gets it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches

from deployments.forecaster.loaded import format_iso
from deployments.forecaster.problems import ProblemError
from tasks.core.errors import TidemillError


def build_unknown_series_error(
    unknown: Sequence[str], known: Sequence[str], *, suggests: bool = True
) -> ProblemError:
    """404 for series that are not among the *known*.

    suggests: name those that are most similar, which takes 10 us for each known one.
    """
    close = {s[:60]: get_close_matches(s, known, n=3, cutoff=0.5) if suggests else [] for s in unknown[:10]}
    suggestions = "; ".join(f"{', '.join(matches)} (for {s!r})" for s, matches in close.items() if matches)
    return ProblemError(
        404,
        "series_id",
        f"no series {', '.join(map(repr, close))}",
        # The first names only: the message is one line
        f"The service holds {len(known)} series: {', '.join(known[:20])}{' ...' if len(known) > 20 else ''}.",
        f"Did you mean {suggestions}?"
        if suggestions
        else "Take one of these, or send a history of your own.",
    )


def build_early_error(as_of: datetime, first: datetime) -> ProblemError:
    """422 for a time before *first*, when the first row was known."""
    return ProblemError(
        422,
        "as_of",
        f"{format_iso(as_of)} is before the first row was known",
        f"The rows of the requested series begin at {format_iso(first)}.",
        f"Ask for {format_iso(first)} or later.",
    )


def build_failed_error(error: TidemillError, where: str) -> ProblemError:
    """422 for *error* of a forecast. where: the part of the request that it follows from."""
    rule = "Rows are on the dataset's calendar, and the calendar covers the forecast."
    return ProblemError(422, where, str(error), rule, "Correct the times, or leave as_of out.")


def build_absent_error(as_of: datetime, reasons: Mapping[str, str]) -> ProblemError:
    """422 when no requested series can be forecast. reasons: by series."""
    text = "; ".join(f"{s!r}: {reason}" for s, reason in sorted(reasons.items()))
    return ProblemError(
        422,
        "series_id",
        f"nothing can be forecast as of {format_iso(as_of)}: {text}"[:1000],
        "A forecast starts from a recent known value.",
        "Ask for another as_of, or send newer rows.",
    )


def build_expired_error(fact: str) -> ProblemError:
    """503 for a forecast from rows that are too old."""
    return ProblemError(
        503,
        "rows",
        fact,
        "Older rows are not forecast from (`service.expire_after`); an as_of and an own history are.",
        "Retry when the source delivers again; GET /api/v1/health has the age of the rows.",
        {"retry-after": "60"},
    )
