"""Rows that a consumer sends: each gets a verdict by the dataset's own contract.

A row of a step that is not known yet is known when the source would have had it; a corrected one is
a vintage that is known from now on. What is known already changes nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from deployments.forecaster.checkout import read_dataset_document
from deployments.forecaster.loaded import LoadedRelease, format_iso, list_value_columns
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import check_unknown_columns, convert_value, parse_json, parse_time
from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.errors import TidemillError
from tasks.core.frames import SERIES
from tasks.edges.observations import hold_observations, write_observations
from tasks.validate.contract import find_contract_failures
from tasks.validate.failure import RuleFailure, build_reason, split_quarantined
from tasks.validate.first_checks import find_first_failures
from tasks.validate.params import ValidateParams

MAX_ROWS = 10_000
_STEP = ["series_id", "event_time"]
_EXAMPLE = '{"rows": [{"series_id": "sp500", "event_time": "2019-01-02T00:00:00Z", "close": 2510.03}]}'
_CLOSED = ConfigDict(extra="forbid")


class ObservationRow(BaseModel):
    """A step of a series with every value column; null where a value is unknown."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    series_id: str
    event_time: Annotated[str, Field(description="Start of the step, ISO 8601 with a zone.")]
    known_at: Annotated[
        str | None,
        Field(description="When the values were known; without it as the source has it, or now."),
    ] = None


class ObservationsBody(BaseModel):
    """The body, for the OpenAPI document; `parse_observations` checks it."""

    model_config = ConfigDict(extra="forbid")

    rows: Annotated[list[ObservationRow], Field(min_length=1, max_length=MAX_ROWS)]


@with_config(_CLOSED)
class ObservationVerdict(TypedDict):
    """What became of a row. rule, reason: why it is in the quarantine."""

    series_id: str
    event_time: str
    verdict: Literal["added", "corrected", "unchanged", "quarantined"]
    known_at: str | None
    rule: str | None
    reason: str | None


@with_config(_CLOSED)
class Observations(TypedDict):
    """The verdicts, in the order of the rows. What is added or corrected is on disk."""

    dataset: str
    n_added: int
    n_corrected: int
    n_unchanged: int
    n_quarantined: int
    rows: list[ObservationVerdict]


class DatasetContract(NamedTuple):
    """What the rows of a dataset must be like, by its entry in params.yaml."""

    about: About
    params: ValidateParams


def read_contract(dataset: str, columns: Sequence[str]) -> DatasetContract:
    """The contract of *dataset*.

    columns: of the rows. Raises ProblemError 503 when it is not there, or is about others.
    """
    document = read_dataset_document(dataset)
    rule = f"The contract of {dataset!r} is in the params.yaml of a checkout (TIDEMILL_CHECKOUT)."
    try:
        contract = DatasetContract(document.about, document.parse_stage("validate", ValidateParams))
    except TidemillError as error:
        raise ProblemError(503, "contract", str(error), rule, "Report it to the operator.") from error
    if missing := [c for c in contract.params.names if c not in columns]:
        fact = f"it names {missing[:5]}, and the release has {', '.join(columns)}"
        raise ProblemError(503, "contract", fact, rule, "Report it to the operator.")
    return contract


def parse_observations(loaded: LoadedRelease, body: bytes, now: datetime) -> pl.DataFrame:
    """The rows in *body*, in its order: SERIES, known_at null where none is given.

    Raises ProblemError: 400 when it is no JSON, 422 for what is no row of the dataset.
    """
    content = parse_json(body, _EXAMPLE)
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or len(content) > 1 or not 0 < len(rows) <= MAX_ROWS:
        fact = f"{len(rows):,} of them" if isinstance(rows, list) else "no list"
        rule = f"A body is an object with the key rows alone, a list of 1 to {MAX_ROWS:,}."
        raise ProblemError(422, "rows", fact, rule, f"Send for example {_EXAMPLE}.")
    columns = list_value_columns(loaded.release.rows)
    if further := [c for c in loaded.rows.columns if c not in {*SERIES.key, *columns}]:
        rule = "Observations have numbers alone."
        raise ProblemError(
            422, "rows", f"the dataset has {further[:5]}", rule, "Add the rows to the dataset's source."
        )
    parsed = [_parse_row(k, row, columns, now) for k, row in enumerate(rows)]
    dtypes = {**{c: SERIES.columns[c] for c in SERIES.key}, **dict.fromkeys(columns, pl.Float64)}
    frame = pl.DataFrame(parsed, schema=dtypes)
    if (repeated := frame.filter(frame.select(_STEP).is_duplicated())).height:
        name, time = repeated.select(_STEP).row(0)
        rule = "A row for each step of a series."
        raise ProblemError(
            422, "rows", f"{name!r} has {time:%FT%TZ} twice", rule, "Keep the row that is right."
        )
    return frame


def add_observations(
    loaded: LoadedRelease, contract: DatasetContract, sent: pl.DataFrame, now: datetime
) -> Observations:
    """Put the rows of *sent* that are new on disk, and those that break the contract aside."""
    dataset = loaded.manifest.dataset
    with hold_observations(dataset) as before:
        published = loaded.rows.filter(pl.col("series_id").is_in(sent["series_id"].unique().implode()))
        known = published if before is None else pl.concat([published, before.select(published.columns)])
        judged = judge_rows(contract, sent, known, now)
        new = judged.filter(pl.col("verdict").is_in(["added", "corrected"])).select(sent.columns)
        broken = judged.filter(pl.col("verdict") == "quarantined").drop("verdict")
        if new.height or broken.height:
            rows = new if before is None else new.select(before.columns)
            write_observations(dataset, rows, broken.with_columns(pl.col("known_at").fill_null(now)))
    count = dict(judged["verdict"].value_counts().iter_rows())
    verdicts = [_build_verdict(row) for row in judged.iter_rows(named=True)]
    return {
        "dataset": dataset,
        "n_added": count.get("added", 0),
        "n_corrected": count.get("corrected", 0),
        "n_unchanged": count.get("unchanged", 0),
        "n_quarantined": count.get("quarantined", 0),
        "rows": verdicts,
    }


def judge_rows(
    contract: DatasetContract, sent: pl.DataFrame, known: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """*sent* in its order, with its known_at, and the columns verdict, rule and reason.

    known: SERIES, all vintages of the same series.
    """
    values = [c for c in sent.columns if c not in SERIES.key]
    reach = pl.concat([known["event_time"], sent["event_time"]])
    calendar = build_calendar(contract.about, reach=(reach.min(), reach.max()))  # type: ignore[arg-type]
    newest = known.sort(SERIES.key).unique(_STEP, keep="last", maintain_order=True)
    old = newest.select(*_STEP, *(pl.col(c).alias(f"{c}__old") for c in ["known_at", *values]))
    joined = sent.with_row_index("__row").join(old, on=_STEP, how="left", maintain_order="left")
    is_known = pl.col("known_at__old").is_not_null()
    is_same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(f"{c}__old")) for c in values)
    nominal = calendar.nominal_known_at()
    after = pl.max_horizontal(pl.lit(now), pl.col("known_at__old") + timedelta(microseconds=1))
    dated = joined.with_columns(
        nominal=nominal,
        known_at=pl.coalesce("known_at", pl.when(is_known).then(after).otherwise(nominal)),
    )
    with_known = pl.concat([known.select(sent.columns), dated.select(sent.columns)])
    failures = [
        _shift_failure(failure, known.height)
        for failure in (
            *find_first_failures(with_known, calendar),
            *find_contract_failures(with_known, contract.params),
        )
    ]
    failures += _find_time_failures(dated, is_known & ~is_same, known, now)
    clean, broken = split_quarantined(dated, failures)
    verdict = (
        pl.when(is_known & is_same)
        .then(pl.lit("unchanged"))
        .when(is_known)
        .then(pl.lit("corrected"))
        .otherwise(pl.lit("added"))
    )
    judged = pl.concat(
        [clean.with_columns(verdict=verdict), broken.with_columns(verdict=pl.lit("quarantined"))],
        how="diagonal",
    )
    no_text = pl.lit(None, pl.String)
    missing = {name: no_text for name in ("rule", "reason") if name not in judged.columns}
    judged = judged.with_columns(**missing).sort("__row")
    return judged.select(*sent.columns, "verdict", "rule", "reason")


def _shift_failure(failure: RuleFailure, n_known: int) -> RuleFailure:
    """The failures of the rows after the first *n_known*, counted from there."""
    return failure._replace(rows=failure.rows.filter(failure.rows >= n_known) - n_known)


def _find_time_failures(
    dated: pl.DataFrame, is_correction: pl.Expr, known: pl.DataFrame, now: datetime
) -> list[RuleFailure]:
    """Rows of unknown series, of steps that are not over, and vintages that are not newer."""
    series = known["series_id"].unique().sort()
    rules = {
        "series is known": (
            ~pl.col("series_id").is_in(series.implode()),
            build_reason("there is no series ", pl.col("series_id"), "; new ones come from the source"),
        ),
        "step is over": (
            pl.col("nominal") > now,
            build_reason("its values are known from ", _format(pl.col("nominal")), " on"),
        ),
        "known_at is after the step": (
            pl.col("known_at") < pl.col("nominal"),
            build_reason("known_at is before ", _format(pl.col("nominal"))),
        ),
        "known_at is newer": (
            is_correction & (pl.col("known_at") <= pl.col("known_at__old")),
            build_reason("other values are known since ", _format(pl.col("known_at__old"))),
        ),
    }
    return [
        RuleFailure(rule, dated.select(broken.fill_null(value=False).arg_true()).to_series(), reason)
        for rule, (broken, reason) in rules.items()
    ]


def _format(time: pl.Expr) -> pl.Expr:
    return time.dt.strftime("%FT%TZ").fill_null("")


def _parse_row(k: int, row: Any, columns: Sequence[str], now: datetime) -> dict[str, object]:
    where, allowed = f"rows.{k}", {*SERIES.key, *columns}
    rule = f"A row has series_id, event_time, {', '.join(columns)} and, where wanted, known_at."
    if not isinstance(row, dict):
        raise ProblemError(422, where, "no object", rule, f"Send for example {_EXAMPLE}.")
    check_unknown_columns(where, row, allowed, columns, rule)
    if missing := [c for c in ("series_id", "event_time", *columns) if c not in row]:
        raise ProblemError(
            422, where, f"{missing[:10]} are missing", rule, "Send null where a value is unknown."
        )
    times = {name: row.get(name) for name in ("event_time", "known_at")}
    for name, text in {"series_id": row["series_id"], **times}.items():
        if not isinstance(text, str) and not (name == "known_at" and text is None):
            raise ProblemError(422, f"{where}.{name}", "no text", rule, "Write it in quotes.")
    parsed = {n: None if text is None else parse_time(text, f"{where}.{n}") for n, text in times.items()}
    if (known_at := parsed["known_at"]) is not None and known_at > now:
        way_out = "Leave it out."
        raise ProblemError(
            422, f"{where}.known_at", "in the future", "What is known is known by now.", way_out
        )
    values = {c: convert_value(row[c], f"{where}.{c}") for c in columns}
    return {"series_id": row["series_id"], **parsed, **values}


def _build_verdict(row: Mapping[str, Any]) -> ObservationVerdict:
    is_in = row["verdict"] in {"added", "corrected"}
    return {
        "series_id": row["series_id"],
        "event_time": format_iso(row["event_time"]),
        "verdict": row["verdict"],
        "known_at": format_iso(row["known_at"]) if is_in else None,
        "rule": row["rule"],
        "reason": row["reason"],
    }


# Of an operation, what a good request gets
EXAMPLES: dict[tuple[str, str], object] = {
    ("post", "/api/v1/observations"): {
        "dataset": "tides",
        "n_added": 1,
        "n_corrected": 0,
        "n_unchanged": 0,
        "n_quarantined": 0,
        "rows": [
            {
                "series_id": "north",
                "event_time": "2019-01-02T00:00:00Z",
                "verdict": "added",
                "known_at": "2019-01-03T00:00:00Z",
                "rule": None,
                "reason": None,
            }
        ],
    }
}
