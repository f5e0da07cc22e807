"""The form in which a net is served, from the figures of all of its forms."""

from tasks.core.reports.quantize import Form, FormFigures

MAX_LATENCY_RATIO = 1.2  # below that the clock of a shared machine is too noisy
JUDGED_ROWS = ("1", "64")  # of a batch; the one call of the largest in a round is too noisy to decide
_SIMILAR_SIZE = 1.1
_FASTER_BY = "64"


def find_obstacle(
    form: Form, figures: FormFigures, fp32: FormFigures, max_error_frac: float, max_batch_sd: float
) -> str | None:
    """Why the net cannot be served in *form*; None where it can.

    By what the service can run, dependence on the batch, error, then size; speed can only rule a
    form out.
    """
    if form == "fp32":
        return None
    if form == "torchscript":
        return "the service runs onnxruntime alone, without torch"
    if not figures.batch_difference_sd <= max_batch_sd:
        return (
            f"a row's forecast depends on its batch by {figures.batch_difference_sd:.1e} sd, so no answer"
            " could be recomputed"
        )
    for name, change in (("error", figures.error_change), ("pinball loss", figures.pinball_change)):
        if change is not None and not change.high <= max_error_frac:
            return f"would worsen the {name} by up to {change.high:.2%}; {max_error_frac:.2%} is allowed"
    if figures.n_bytes >= fp32.n_bytes:
        return f"not smaller: {figures.n_bytes} bytes against {fp32.n_bytes}"
    slow = [n_rows for n_rows in JUDGED_ROWS if figures.latency_ratio[n_rows] > MAX_LATENCY_RATIO]
    return (
        f"takes {figures.latency_ratio[slow[0]]:g} times as long for a batch of {slow[0]};"
        f" {MAX_LATENCY_RATIO:g} is allowed"
        if slow
        else None
    )


def decide_form(forms: dict[Form, FormFigures]) -> tuple[Form, str]:
    """The smallest form without an obstacle, with the reason.

    Of those within a tenth of its size, one that is faster beyond the noise takes its place.
    """
    free = {form: figures for form, figures in forms.items() if figures.obstacle is None}
    smallest = min(free, key=lambda form: (free[form].n_bytes, form))

    def rank(form: Form) -> tuple[float, int]:
        ratio = free[form].latency_ratio[_FASTER_BY]
        is_faster = ratio * MAX_LATENCY_RATIO < free[smallest].latency_ratio[_FASTER_BY]
        return (ratio if is_faster else float("inf"), free[form].n_bytes)

    similar = [form for form in free if free[form].n_bytes <= _SIMILAR_SIZE * free[smallest].n_bytes]
    chosen = min(similar, key=rank)
    if chosen == "fp32":
        return chosen, " ".join(
            f"{form}: {figures.obstacle}." for form, figures in forms.items() if figures.obstacle
        )
    figures, change = forms[chosen], forms[chosen].error_change
    return chosen, (
        f"{chosen} is {1 - figures.n_bytes / forms['fp32'].n_bytes:.0%} smaller; the net's error changes by"
        f" {change.change:+.2%} ({change.low:+.2%} to {change.high:+.2%})."
    )
