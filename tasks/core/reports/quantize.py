"""models/quantized: INT8 or FP32, and the timings behind the decision."""

from typing import ClassVar, Literal

from tasks.core.reports.base import ABSENT, Report
from tasks.core.strict import Strict

Precision = Literal["FP32", "INT8"]


class QuantizeLimits(Strict):
    """What a graph must keep.

    max_error_frac: share by which INT8 may worsen a net's error.
    max_latency_ratio: time of INT8 over FP32 for one row.
    max_parity_sd: distance of a graph from its forecaster, in standard deviations of z.
    """

    max_error_frac: float
    max_latency_ratio: float
    max_parity_sd: float


class NetPrecision(Strict):
    """The decision on one net.

    decision: FP32 or INT8.
    reason: why, in a sentence.
    weight: of the net in the release; 0 when it has no part in it.
    fp32_bytes, int8_bytes: size of the graph's file.
    fp32_error, int8_error: mean primary loss over the gate's rows.
    worsens_frac: share by which INT8 is worse; negative when it is better.
    latency_ratio: time of INT8 over FP32 for one row, median of the rounds, to one digit.
    """

    decision: Precision
    reason: str
    weight: float
    fp32_bytes: int
    int8_bytes: int
    fp32_error: float
    int8_error: float
    worsens_frac: float
    latency_ratio: float


class QuantizeDecision(Report):
    """Which nets are served in INT8.

    decision: INT8 when at least one net is.
    reason: why, net by net.
    n_gate_rows: rows on which graphs and forecasters were compared.
    parity_sd: largest distance of each graph from its forecaster, in standard deviations of z.
    limits: what a graph must keep.
    nets: the decision on each net among the models.
    quantized: what is in 8 bits; absent without a net.
    """

    PATH: ClassVar[str] = "models/quantized/decision.json"

    decision: Precision
    reason: str
    n_gate_rows: int
    parity_sd: dict[str, float]
    limits: QuantizeLimits
    nets: dict[str, NetPrecision]
    quantized: str | None = ABSENT


class QuantizeLatency(Report):
    """Timings, apart from the decision since they are others at each run.

    int8_over_fp32_by_round: time of INT8 over FP32 for one row, by net.
    """

    PATH: ClassVar[str] = "models/quantized/latency.json"

    int8_over_fp32_by_round: dict[str, tuple[float, ...]]
