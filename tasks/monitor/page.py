"""What people look at: a table in Markdown, a picture of error and coverage by step, and
Evidently's page of the inputs.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

_COLUMNS = ("step", "n_known", "n_open", "n_late", "n_corrected", "loss", "mae", "bias", "coverage_frac")


def render_markdown(report: dict[str, Any]) -> str:
    """The report as text: verdict, figures by step, drift."""
    lines = [f"# Monitor: {report['verdict']}", "", f"As of {report['as_of']}: {report['reason']}.", ""]
    lines += ["## The champion's own forecasts", ""] if report["by_step"] else []
    if report["by_step"]:
        lines += [" | ".join(("", *_COLUMNS, "")).strip(), "|" + "---|" * len(_COLUMNS)]
        lines += [
            "| " + " | ".join(_format_value(row[c]) for c in _COLUMNS) + " |" for row in report["by_step"]
        ]
        lines += [
            "",
            (
                f"Loss is {report['primary_score']}; `n_open` steps wait for their value. Forecasts of every"
                " series at every cutoff since the promotion."
            ),
            "",
        ]
    lines += _format_served(report["served"])
    if (drift := report["drift"]) is not None:
        lines += [
            (
                f"Drift since {drift['reference_until']}: {drift['n_alarmed']} of {drift['n_streams']}"
                f" streams alarm over {drift['n_blocks']} blocks of {drift['block_steps']} steps; up to"
                f" {drift['n_by_luck']} would by luck."
            ),
            "",
            *(f"- {row['stream']}: since {row['alarm_at']}" for row in drift["streams"] if row["alarm_at"]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _format_served(served: dict[str, Any]) -> list[str]:
    """What was answered, for information: callers choose it, so it decides nothing."""
    counts, figures = served["answers"], served["overall"]
    lines = [
        "## Served",
        "",
        (
            f"{counts['n_answers']} answers: {counts['n_news']} from the newest rows, {counts['n_as_of']} as"
            f" of a time asked for, {counts['n_own_history']} from own rows, {counts['n_unmarked']} of an"
            " older version. They decide nothing."
        ),
        "",
    ]
    if figures["n_known"]:
        said = (
            f"loss {figures['loss']:.4g} over {figures['n_known']} steps that came true, {figures['n_open']}"
            " are open"
        )
        lines += [f"The champion's answers from the newest rows: {said}.", ""]
    return lines


def draw_steps(path: Path, by_step: list[dict[str, Any]], level: float | None) -> None:
    """Loss and coverage by step, of those with an outcome; no coverage without a *level*."""
    from matplotlib.figure import Figure

    known = [row for row in by_step if row["n_known"]]
    steps = [row["step"] for row in known]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(steps, [row["loss"] for row in known])
    left.set_title("loss by step", fontsize=9)
    right.set_axis_off()
    if level is not None:
        right.set_axis_on()
        right.plot(steps, [row["coverage_frac"] for row in known], marker="o")
        right.axhline(level, linewidth=0.8, color="black")
        right.set_ylim(0, 1)
        right.set_title(f"share within the interval, {level:.0%} is right", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write_evidently(path: Path, streams: pl.DataFrame, since: datetime, sample: int) -> bool:
    """Evidently's page on the values before and after *since*, at most *sample* rows and 40 streams
    each; False when one side is empty.

    For looking, not for alarms: its default rule calls a stationary seasonal stream drifted each
    day.
    """
    before, after = (
        streams.filter(keep).drop("event_time")
        for keep in (pl.col("event_time") < since, pl.col("event_time") >= since)
    )
    names = [c for c in before.columns if before[c].is_finite().any() and after[c].is_finite().any()][:40]
    if not names:
        return False
    import warnings

    with warnings.catch_warnings():
        # Evidently's own dependencies warn on import; nothing here is ours to mend
        warnings.simplefilter("ignore")
        from evidently import Dataset, Report
        from evidently.presets import DataDriftPreset

        reference, current = (
            Dataset.from_pandas(_select_sample(part.select(names), sample).to_pandas())
            for part in (before, after)
        )
        Report([DataDriftPreset()]).run(current, reference).save_html(str(path))
    return True


def _select_sample(frame: pl.DataFrame, sample: int) -> pl.DataFrame:
    """Every k-th row, so that the sample covers the whole span."""
    return frame[:: max(1, -(-frame.height // sample))]


def _format_value(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
