"""Finding columns that hold later values of the target.

It is for columns from outside, which may have been wrong before they arrived. A column that holds
the target some steps later (a value, a mean, a change; noisy, transformed, in a part of the rows)
correlates at that lead with what the target's own past does not explain. Honest columns may
correlate too, but differently: most with the step at which they are recorded, or with a movement of
their own, or with several leads that each explain a part. A noisy copy does none of that: given the
one later value, the rest of it is noise.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.leaks import LeakFinding
from tasks.core.reports.features import LeadingColumn
from tasks.features.leaks_panel import (
    ALL,
    Array,
    Lead,
    LeadPanel,
    build_past_basis,
    iterate_groups,
    iterate_parts,
    list_leads,
)

FALSE_ALARM_FRAC = 0.001  # of honest datasets, by Bonferroni over columns, leads and groups
# real loads, prices and volumes reach .10 with each other at the next step or over the next ones
MIN_CORRELATION = 0.12
MIN_CORRELATION_AT_A_LEAD = 0.07  # from two steps on: an honest column there also moves by itself
MAX_CORRELATION = 0.8  # two thirds of what the past does not explain; honest real columns stay below .4
COPIED_FRAC = 0.8  # of a column, explained by one later value without the column's own past
MOVES_BY_ITSELF = 0.5  # autocorrelation of what that value does not explain of the column
# F of the leads around it, some eight degrees of freedom: chance does this once in 2,000
SEVERAL_LEADS_F = 3.5
ONE_LEAD_FRAC = 0.95  # of what all those leads explain, by the strongest
# the correlation must hold in all parts: t of its mean over so many stretches of rows
N_BLOCKS, MIN_BLOCK_T = 16, 3.0
# a part of the rows must correlate so many times more than all rows, if these were found honest
MORE_THAN_CLEARED = 1.5
CHUNK = 64  # leads in one pass, so that memory does not grow with the horizon

Verdict = Literal["leak", "honest", "nothing"]


class Evidence(NamedTuple):
    """How a column correlates with the target at a lead, in one group of rows.

    group: all, a series, or a period.
    r: partial correlation, given the target up to the cutoff and the column's own past.
    r_now: of the column with the target at the cutoff, given the target at the lead.
    errors: |r| in standard errors.
    limit: of the errors, that chance reaches in one of a thousand datasets.
    n_rows: rows compared.
    """

    column: str
    group: str
    lead: Lead
    r: float
    r_now: float
    errors: float
    limit: float
    n_rows: int


def find_leading(
    table: pl.DataFrame, about: About, names: Sequence[str]
) -> tuple[list[LeakFinding], list[LeadingColumn]]:
    """Columns of *table* (FEATURES) that hold later targets; the strongest correlation of each.

    Leads are every step after the cutoff up to twice the horizon, and the means up to them. Target
    and columns are compared by their ranks within a series, so that any monotone function of the
    target is found like the target itself. Columns that correlate and look honest are compared once
    more by their values: ranks are not linear, so that the mean of a random walk's values is far
    from the mean of its ranks.

    names: of the columns to test.
    """
    # only the gate needs it, and the service imports this package
    from threadpoolctl import threadpool_limits

    if not names or table.is_empty():
        return [], []
    # the same bits on any machine; two threads are no faster at this size
    with threadpool_limits(1, "blas"):
        leaking, strongest = _find_evidence(LeadPanel.of(table, about, names), table)
        by_value = [
            n
            for n in names
            if n in strongest and n not in leaking and strongest[n].errors > strongest[n].limit
        ]
        if by_value:
            leaking |= _find_evidence(LeadPanel.of(table, about, by_value, ranks=False), table)[0]
        strongest |= leaking
    return [_build_finding(leaking[n], table) for n in names if n in leaking], [
        _build_figures(strongest[n]) for n in names if n in strongest
    ]


def _find_evidence(panel: LeadPanel, table: pl.DataFrame) -> tuple[dict[str, Evidence], dict[str, Evidence]]:
    """The strongest evidence of a leak by column, and the strongest evidence of every column."""
    groups = list(iterate_groups(panel, table))
    limit = _compute_limit(len(panel.names) * sum(len(list_leads(n_steps)) for _, _, n_steps in groups))
    strongest: dict[str, Evidence] = {}
    leaking: dict[str, Evidence] = {}
    honest: dict[str, float] = {}
    for group, rows, n_steps in groups:
        leads = list_leads(n_steps)
        verdicts = [*_compare_columns(panel, group, rows, leads, limit)]
        for f, part in iterate_parts(panel, rows):
            verdicts += _compare_columns(panel.select_column(f), group, part, leads, limit)
        for evidence, verdict in verdicts:
            name = evidence.column
            if group == ALL and verdict == "honest":
                honest[name] = abs(evidence.r)
            is_leak = verdict == "leak" and abs(evidence.r) > MORE_THAN_CLEARED * honest.get(name, 0.0)
            kept = leaking if is_leak else strongest
            if name not in kept or evidence.errors > kept[name].errors:
                kept[name] = evidence
    return leaking, {**strongest, **leaking}


def _compute_honest_correlation(lead: Lead) -> float:
    """The correlation that honest data has at *lead*."""
    return MIN_CORRELATION_AT_A_LEAD if lead.kind == "value" and lead.steps > 1 else MIN_CORRELATION


def _compute_limit(n_tests: int) -> float:
    """Standard errors that the largest of *n_tests* exceeds in FALSE_ALARM_FRAC of cases."""
    from scipy.special import ndtri

    return float(-ndtri(FALSE_ALARM_FRAC / 2 / max(n_tests, 1)))


def _compute_residuals(values: Array, basis: Array) -> Array:
    """The columns of *values* without their projection on an orthonormal *basis*."""
    residuals: Array = values - basis @ (basis.T @ values)
    return residuals


def _compute_correlation(a: Array, b: Array) -> float:
    """Correlation of two residuals; 0 where one is empty."""
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _compare_columns(
    panel: LeadPanel, group: str, rows: Array, leads: list[Lead], limit: float
) -> Iterator[tuple[Evidence, Verdict]]:
    """For each column its strongest lead in *rows*, and whether it is a leak, or strong and honest.

    All arrays are residuals of the target's past (Frisch and Waugh), so that a column costs a few
    products.
    """
    past = build_past_basis(panel, rows)
    y = _compute_residuals(panel.y[rows], past)
    # the last one is a third lag without a season
    own_lags = (0, 1, 2, panel.season_steps if panel.season_steps > 2 else 3)
    n_columns = panel.x.shape[1]
    x = np.stack([panel.get_lagged(panel.x, rows, k) for k in own_lags], axis=2).reshape(len(rows), -1)
    x = _compute_residuals(x, past)
    xx = np.einsum("nfa,nfb->fab", *[x.reshape(len(rows), n_columns, len(own_lags))] * 2)
    xy = (x.T @ y).reshape(n_columns, -1)
    of_lead = []
    for start in range(0, len(leads), CHUNK):
        c = _compute_residuals(
            np.column_stack([panel.get_target(lead, rows) for lead in leads[start : start + CHUNK]]), past
        )
        of_lead.append((np.square(c).sum(axis=0), c.T @ y, (c.T @ x).reshape(c.shape[1], n_columns, -1)))
    cc, cy, cx = (np.concatenate(parts) for parts in zip(*of_lead, strict=True))
    dof = len(rows) - past.shape[1] - len(own_lags) - 1
    for f, name in enumerate(panel.names):
        strongest = _find_strongest_lead(xx[f], xy[f], cx[:, f], cc, cy, float(y @ y))
        if strongest is None:
            continue
        best, r, r_now, copied = strongest
        evidence = Evidence(
            name, group, leads[best], r, r_now, abs(r) * float(np.sqrt(dof)), limit, len(rows)
        )
        verdict: Verdict = "nothing"
        if evidence.errors > limit:
            residuals = _Residuals(panel, rows, past, y, x[:, f * len(own_lags) : (f + 1) * len(own_lags)])
            is_copy = abs(r) >= MAX_CORRELATION or copied.max() >= COPIED_FRAC
            is_noisy_copy = _is_independent_of_present(r, r_now, dof) and residuals.is_noise_given(
                leads, leads[int(copied.argmax())], copied.max()
            )
            if not ((is_copy or is_noisy_copy) and residuals.is_consistent(leads[best])):
                verdict = "honest"
            elif abs(r) > _compute_honest_correlation(leads[best]):
                verdict = "leak"
        yield evidence, verdict


def _find_strongest_lead(
    xx: Array, xy: Array, cx: Array, cc: Array, cy: Array, yy: float
) -> tuple[int, float, float, Array] | None:
    """(lead, r, r_now, copied) of the strongest lead, from products of residuals.

    xx: (a, a) of the column now and before; xy: (a,) with the target.
    cx: (leads, a) of the leads with the column; cc, cy: (leads,) of the leads.
    copied: (leads,) share of the column that each lead explains, given y alone.
    Returns None for a constant column, and if column or target follows from its past.
    """
    if xx[0, 0] <= 1e-9 or yy <= 1e-9:
        return None
    inverse = np.linalg.pinv(xx[1:, 1:], rcond=1e-9, hermitian=True)
    by_past = xx[0, 1:] @ inverse
    sxx, sxy = xx[0, 0] - by_past @ xx[1:, 0], xy[0] - by_past @ xy[1:]
    syy, sxc = yy - xy[1:] @ inverse @ xy[1:], cx[:, 0] - cx[:, 1:] @ by_past
    syc = cy - cx[:, 1:] @ inverse @ xy[1:]
    scc = cc - np.einsum("ka,ab,kb->k", cx[:, 1:], inverse, cx[:, 1:])
    if sxx <= 1e-6 * xx[0, 0] or syy <= 1e-6 * yy:
        return None
    tiny = 1e-12 * yy
    r = (sxc - sxy * syc / syy) / np.sqrt(
        np.maximum(sxx - sxy**2 / syy, tiny) * np.maximum(scc - syc**2 / syy, tiny)
    )
    best = int(np.argmax(np.abs(r)))
    now = sxy - sxc[best] * syc[best] / scc[best]
    size = (sxx - sxc[best] ** 2 / scc[best]) * (syy - syc[best] ** 2 / scc[best])
    unexplained = xx[0, 0] - xy[0] ** 2 / yy
    copied = (cx[:, 0] - xy[0] * cy / yy) ** 2 / np.maximum(unexplained * (cc - cy**2 / yy), tiny)
    return best, float(np.clip(r[best], -1, 1)), float(now / np.sqrt(max(size, tiny))), copied


def _is_independent_of_present(r: float, r_now: float, dof: int) -> bool:
    """Whether the column is a copy of the later value, given which the present adds nothing.

    A change up to the later value correlates with the present as much, with the other sign.
    """
    error = 1.0 / np.sqrt(dof)
    if r * r_now < 0:
        return abs(r_now) <= abs(r) + 2.5 * error
    return abs(r_now) <= 0.8 * abs(r) + error and abs(r) - abs(r_now) > 2 * np.sqrt(2) * error


class _Residuals(NamedTuple):
    """A column in a group of rows, as residuals of the target's past.

    y: (n,) of the target at the cutoff.
    x: (n, a) of the column now and before.
    """

    panel: LeadPanel
    rows: Array
    past: Array
    y: Array
    x: Array

    def is_noise_given(self, leads: list[Lead], lead: Lead, copied: float) -> bool:
        """Whether the column is noise given *lead*: uncorrelated, and no other lead helps."""
        near = range(lead.steps - 3, lead.steps + 4)
        others = sorted({1, 2, 3, *near} & {other.steps for other in leads if other.kind == "value"})
        columns = [
            self.panel.get_target(lead, self.rows),
            *(self.panel.get_target(Lead("value", s), self.rows) for s in others if Lead("value", s) != lead),
        ]
        now = (self.y / np.sqrt(self.y @ self.y))[:, None]
        around = _compute_residuals(_compute_residuals(np.column_stack(columns), self.past), now)
        column = _compute_residuals(self.x[:, 0], now)
        one = around[:, :1] / np.sqrt(np.square(around[:, 0]).sum())
        rest = _compute_residuals(column, one)
        after = _compute_residuals(column, np.linalg.qr(around)[0])
        n, q = len(self.rows) - self.past.shape[1], len(columns) - 1
        f = (rest @ rest - after @ after) / q / max(float(after @ after) / (n - q), 1e-300)
        explained = 1 - float(after @ after) / float(column @ column) - q / n
        autocorrelation = _compute_correlation(rest[:-1], rest[1:])
        return abs(autocorrelation) < MOVES_BY_ITSELF and (
            f < SEVERAL_LEADS_F or copied > ONE_LEAD_FRAC * explained
        )

    def is_consistent(self, lead: Lead) -> bool:
        """Whether column and lead correlate in many stretches, not only in a few."""
        given = np.linalg.qr(np.column_stack([self.y, self.x[:, 1:]]))[0]
        both = _compute_residuals(
            _compute_residuals(
                np.column_stack([self.x[:, 0], self.panel.get_target(lead, self.rows)]), self.past
            ),
            given,
        )
        sums = np.array([part.sum() for part in np.array_split(both[:, 0] * both[:, 1], N_BLOCKS)])
        return abs(sums.mean()) > MIN_BLOCK_T * sums.std(ddof=1) / np.sqrt(N_BLOCKS)


def _build_figures(evidence: Evidence) -> LeadingColumn:
    return LeadingColumn(
        column=evidence.column,
        group=evidence.group,
        kind=evidence.lead.kind,
        lead_steps=evidence.lead.steps,
        r=round(evidence.r, 3),
        r_now=round(evidence.r_now, 3),
        standard_errors=round(evidence.errors, 1),
        limit=round(evidence.limit, 1),
        n_rows=evidence.n_rows,
    )


def _build_finding(evidence: Evidence, table: pl.DataFrame) -> LeakFinding:
    name, lead = evidence.column, evidence.lead
    later = (
        f"{lead.steps} step(s) later"
        if lead.kind == "value"
        else f"on average over the {lead.steps} steps after it"
    )
    where = "" if evidence.group == ALL else f" in {evidence.group!r}"
    series = evidence.group if evidence.group in table["series_id"] else None
    return LeakFinding(
        rule="leading",
        feature=name,
        series_id=series,
        lead_steps=lead.steps,
        seen=round(evidence.r, 3),
        allowed=_compute_honest_correlation(lead),
        n_rows=evidence.n_rows,
        says=f"{name!r} knows what the target is {later}{where}: correlation {evidence.r:.2f} over "
        f"{evidence.n_rows} rows with what the target's own past does not explain, {evidence.errors:.0f} "
        f"standard errors from 0, where chance reaches {evidence.limit:.1f}; with the target at the cutoff "
        f"it is {abs(evidence.r_now):.2f}. The column holds later values. Remove it from `features.list`, "
        "or find out when it was known: values published ahead belong into `about.covariates.known_ahead`, "
        f"a column that honestly leads the target into `features.leaks.leading: [{name}]`.",
    )
