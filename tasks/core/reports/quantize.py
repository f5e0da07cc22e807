"""models/quantized: the form in which each net is served, and the measurements behind it."""

from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from tasks.core.numbers import format_number
from tasks.core.reports.base import ABSENT, Report
from tasks.core.strict import Strict

Precision = Literal["FP32", "INT8"]
# weights in 8 bits; weights and, by fixed ranges, inputs; the same with ranges of each batch; torch
Form = Literal["fp32", "int8_weights", "int8_static", "int8_dynamic", "torchscript"]

_OLD_FIGURES = ("fp32_bytes", "int8_bytes", "fp32_error", "int8_error", "worsens_frac", "latency_ratio")


class QuantizeLimits(Strict):
    """What a graph must keep.

    max_error_frac: share by which INT8 may worsen a net's error.
    max_latency_ratio: time of INT8 over FP32 for one row, and for 64.
    max_parity_sd: distance of a graph from its forecaster, in standard deviations of z.
    """

    max_error_frac: float
    max_latency_ratio: float
    max_parity_sd: float


class LossChange(Strict):
    """A change against FP32.

    change: measured.
    low, high: its 90 % interval, from a bootstrap of blocks of cutoffs.
    """

    change: float
    low: float
    high: float


class FormFigures(Strict):
    """A net in one form.

    n_bytes: size of the file.
    error: mean primary loss over the judged rows; the pinball loss of a net that forecasts a
      quantile.
    error_change, pinball_change: share by which that loss, and the pinball loss of the interval
      around the net, are worse than those of FP32; negative when better.
    coverage_change: of the share of outcomes in that interval.
    batch_difference_sd: largest distance of a row's forecast alone from the one in a batch, in
      standard deviations of z.
    latency_ratio: time over that of FP32, by rows of a batch, to one digit.
    obstacle: why it cannot be shipped; null where it can.
    """

    n_bytes: int
    error: float
    error_change: LossChange
    pinball_change: LossChange | None
    coverage_change: LossChange | None
    batch_difference_sd: float
    latency_ratio: dict[str, float]
    obstacle: str | None


class NetPrecision(Strict):
    """The decision on one net.

    decision: FP32 or INT8.
    reason: why, in a sentence.
    weight: of the net in the release; 0 when it has no part in it.
    form: that is served.
    forms: the figures of each.
    """

    decision: Precision
    reason: str
    weight: float
    form: Form = "fp32"
    forms: dict[Form, FormFigures] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_two_forms(cls, value: Any) -> Any:
        """The file of an earlier version, which had the figures of two forms and no table."""
        return {k: v for k, v in value.items() if k not in _OLD_FIGURES} if isinstance(value, dict) else value


class QuantizeLatency(Report):
    """Measurements that are others at each run, apart from the decision.

    latency_us: median microseconds, by net, form and rows of a batch, on one thread.
    memory_bytes: that a process needs more once it has loaded the form and forecast 4,096 rows, by
      net and form.
    int8_over_fp32_by_round: of an earlier version.
    """

    PATH: ClassVar[str] = "models/quantized/latency.json"

    latency_us: dict[str, dict[Form, dict[str, float]]] = Field(default_factory=dict)
    memory_bytes: dict[str, dict[Form, int]] = Field(default_factory=dict)
    int8_over_fp32_by_round: dict[str, tuple[float, ...]] | None = ABSENT


class QuantizeDecision(Report):
    """Which nets are served in INT8.

    decision: INT8 when at least one net is.
    reason: why, net by net.
    n_gate_rows: rows on which graphs and forecasters were compared.
    n_judged_rows: rows of the training window on which the forms were compared; absent without a
      net.
    parity_sd: largest distance of each graph from its forecaster, in standard deviations of z.
    limits: what a graph must keep.
    nets: the decision on each net among the models.
    quantized: of an earlier version.
    """

    PATH: ClassVar[str] = "models/quantized/decision.json"

    decision: Precision
    reason: str
    n_gate_rows: int
    n_judged_rows: int | None = ABSENT
    parity_sd: dict[str, float]
    limits: QuantizeLimits
    nets: dict[str, NetPrecision]
    quantized: str | None = ABSENT

    def build_table(self, latency: QuantizeLatency | None) -> list[dict[str, str]]:
        """A line for each form of each net, as text; *latency* adds microseconds and memory."""
        return [
            _build_line(name, form, net, latency or QuantizeLatency())
            for name, net in self.nets.items()
            for form in get_args(Form)
            if form in net.forms
        ]


def _build_line(name: str, form: Form, net: NetPrecision, latency: QuantizeLatency) -> dict[str, str]:
    figures = net.forms[form]
    microseconds = latency.latency_us.get(name, {}).get(form, {})
    memory = latency.memory_bytes.get(name, {}).get(form)
    return {
        "net": name,
        "form": form,
        "size, kB": format_number(figures.n_bytes / 1000, 3),
        "memory, MB": "-" if memory is None else format_number(memory / 1e6, 2),
        **{
            f"µs, {n_rows} rows": f"{_format_us(microseconds.get(n_rows))} ({ratio:g} x)"
            for n_rows, ratio in sorted(figures.latency_ratio.items(), key=lambda item: int(item[0]))
        },
        "error": _format_change(figures.error_change),
        "pinball loss": _format_change(figures.pinball_change),
        "coverage": _format_change(figures.coverage_change),
        "row depends on its batch": f"{figures.batch_difference_sd:.0e} sd",
        "served": "yes" if form == net.form else figures.obstacle or "no",
    }


def _format_us(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds:.0f}"


def _format_change(change: LossChange | None) -> str:
    if change is None:
        return "-"
    return f"{change.change:+.2%} ({change.low:+.2%} to {change.high:+.2%})"
