"""Does a column know what its target does later?

For columns that come from outside and were wrong before they came. A column that holds the target
some steps later (a value, a mean, a change; noisy, transformed, in a part of the rows) agrees at
that lead with what the target's own past leaves open. Honest columns may do so too, but
differently: they say most of the step at which they are recorded, they move by themselves whatever
the target does, or several leads each explain a part of them. A noisy copy does none of that: given
the one later value, the rest of it is noise.
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
# Real loads, prices and volumes reach .10 with each other at the next step or over the next ones
MIN_CORRELATION = 0.12
MIN_CORRELATION_AT_A_LEAD = 0.07  # from two steps on: what is honest there also moves by itself
MAX_CORRELATION = 0.8  # two thirds of what the past leaves open: honest columns of real data stay below .4
COPIED_FRAC = 0.8  # of a column, explained by one later value with no help of the column's own past
MOVES_BY_ITSELF = 0.5  # autocorrelation of what that value leaves unexplained of the column
# F of the leads around it, some eight degrees of freedom: chance does this once in 2,000
SEVERAL_LEADS_F = 3.5
ONE_LEAD_FRAC = 0.95  # of what all those leads explain, by the one
# The agreement must be there all along: t of its mean over so many stretches of rows
N_BLOCKS, MIN_BLOCK_T = 16, 3.0
# A part of the rows must agree so many times more than all, where all were found honest
MORE_THAN_CLEARED = 1.5
CHUNK = 64  # leads at a time, so that memory does not grow with the horizon

Verdict = Literal["leak", "honest", "nothing"]


class Evidence(NamedTuple):
    """How a column agrees with the target at a lead, in one group of rows.

    r: partial correlation, given the target up to the cutoff and the column's own past.
    r_now: that of the column with the target at the cutoff, given the target at the lead.
    errors, limit: |r| in standard errors, and how many chance reaches in one of a thousand
    datasets.
    n_rows: rows compared. group: all, a series, or a period.
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
    """Columns of *table* (FEATURES) among *names* that hold what the target is later; and each
    column's strongest agreement.

    Leads: every step after the cutoff up to twice the horizon, and the means up to them. Target and
    columns are compared by their ranks within a series, so that any rising or falling function of
    the target is found as well as the target. Columns that agree and look honest that way are
    compared once more by their values: ranks bend, so that the mean of a random walk's values is
    far from the mean of its ranks.
    """
    # Only the gate needs it, and the service imports this package
    from threadpoolctl import threadpool_limits

    if not names or table.is_empty():
        return [], []
    # The same bits whatever the machine; two threads gain nothing at this size
    with threadpool_limits(1, "blas"):
        leaking, seen = _find_evidence(LeadPanel.of(table, about, names), table)
        again = [n for n in names if n in seen and n not in leaking and seen[n].errors > seen[n].limit]
        if again:
            leaking |= _find_evidence(LeadPanel.of(table, about, again, ranks=False), table)[0]
        seen |= leaking
    return [_build_finding(leaking[n], table) for n in names if n in leaking], [
        _build_figures(seen[n]) for n in names if n in seen
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
        found = [*_compare_columns(panel, group, rows, leads, limit)]
        for f, part in iterate_parts(panel, rows):
            found += _compare_columns(panel.select_column(f), group, part, leads, limit)
        for evidence, verdict in found:
            name = evidence.column
            if group == ALL and verdict == "honest":
                honest[name] = abs(evidence.r)
            leaks = verdict == "leak" and abs(evidence.r) > MORE_THAN_CLEARED * honest.get(name, 0.0)
            kept = leaking if leaks else strongest
            if name not in kept or evidence.errors > kept[name].errors:
                kept[name] = evidence
    return leaking, {**strongest, **leaking}


def _compute_honest_correlation(lead: Lead) -> float:
    """The correlation that honest data has at *lead*."""
    return MIN_CORRELATION_AT_A_LEAD if lead.kind == "value" and lead.steps > 1 else MIN_CORRELATION


def _compute_limit(n_tests: int) -> float:
    """Standard errors that the largest of so many tests reaches by chance in FALSE_ALARM_FRAC of
    all cases.
    """
    from scipy.special import ndtri

    return float(-ndtri(FALSE_ALARM_FRAC / 2 / max(n_tests, 1)))


def _compute_residuals(values: Array, basis: Array) -> Array:
    """What an orthonormal *basis* leaves of the columns of *values*."""
    left: Array = values - basis @ (basis.T @ values)
    return left


def _compute_correlation(a: Array, b: Array) -> float:
    """Correlation of two residuals; 0 where one is empty."""
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _compare_columns(
    panel: LeadPanel, group: str, rows: Array, leads: list[Lead], limit: float
) -> Iterator[tuple[Evidence, Verdict]]:
    """For each column its strongest lead in *rows*, and whether that is a leak, or strong and
    honest.

    Everything is a residual of the target's past (Frisch and Waugh), so that a column costs a few
    products.
    """
    past = build_past_basis(panel, rows)
    y = _compute_residuals(panel.y[rows], past)
    # A third lag of its own
    own_lags = (0, 1, 2, panel.season_steps if panel.season_steps > 2 else 3)
    n_columns = panel.x.shape[1]
    x = np.stack([panel.get_lagged(panel.x, rows, k) for k in own_lags], axis=2).reshape(len(rows), -1)
    x = _compute_residuals(x, past)
    xx = np.einsum("nfa,nfb->fab", *[x.reshape(len(rows), n_columns, len(own_lags))] * 2)
    xy = (x.T @ y).reshape(n_columns, -1)
    of_lead = []
    for start in range(0, len(leads), CHUNK):
        c = _compute_residuals(
            np.column_stack([panel.at(lead, rows) for lead in leads[start : start + CHUNK]]), past
        )
        of_lead.append((np.square(c).sum(axis=0), c.T @ y, (c.T @ x).reshape(c.shape[1], n_columns, -1)))
    cc, cy, cx = (np.concatenate(parts) for parts in zip(*of_lead, strict=True))
    dof = len(rows) - past.shape[1] - len(own_lags) - 1
    for f, name in enumerate(panel.names):
        found = _find_strongest_lead(xx[f], xy[f], cx[:, f], cc, cy, float(y @ y))
        if found is None:
            continue
        best, r, r_now, copied = found
        evidence = Evidence(
            name, group, leads[best], r, r_now, abs(r) * float(np.sqrt(dof)), limit, len(rows)
        )
        verdict: Verdict = "nothing"
        if evidence.errors > limit:
            residuals = _Residuals(panel, rows, past, y, x[:, f * len(own_lags) : (f + 1) * len(own_lags)])
            certain = abs(r) >= MAX_CORRELATION or copied.max() >= COPIED_FRAC
            noisy = _is_silent_on_present(r, r_now, dof) and residuals.is_noise_besides(
                leads, leads[int(copied.argmax())], copied.max()
            )
            if not ((certain or noisy) and residuals.is_consistent(leads[best])):
                verdict = "honest"
            elif abs(r) > _compute_honest_correlation(leads[best]):
                verdict = "leak"
        yield evidence, verdict


def _find_strongest_lead(
    xx: Array, xy: Array, cx: Array, cc: Array, cy: Array, yy: float
) -> tuple[int, float, float, Array] | None:
    """(lead, r, r_now, share of the column that each lead explains given y alone) from products of
    residuals; None for a constant.

    xx: (a, a) of the column now and before; xy: (a,); cx: (leads, a); cc, cy: (leads,) of the
    leads.
    """
    if xx[0, 0] <= 1e-9 or yy <= 1e-9:
        return None
    inverse = np.linalg.pinv(xx[1:, 1:], rcond=1e-9, hermitian=True)
    by_past = xx[0, 1:] @ inverse
    sxx, sxy = xx[0, 0] - by_past @ xx[1:, 0], xy[0] - by_past @ xy[1:]
    syy, sxc = yy - xy[1:] @ inverse @ xy[1:], cx[:, 0] - cx[:, 1:] @ by_past
    syc = cy - cx[:, 1:] @ inverse @ xy[1:]
    scc = cc - np.einsum("ka,ab,kb->k", cx[:, 1:], inverse, cx[:, 1:])
    if sxx <= 1e-6 * xx[0, 0] or syy <= 1e-6 * yy:  # it follows from its own past, or the target from it
        return None
    tiny = 1e-12 * yy
    r = (sxc - sxy * syc / syy) / np.sqrt(
        np.maximum(sxx - sxy**2 / syy, tiny) * np.maximum(scc - syc**2 / syy, tiny)
    )
    best = int(np.argmax(np.abs(r)))
    now = sxy - sxc[best] * syc[best] / scc[best]
    size = (sxx - sxc[best] ** 2 / scc[best]) * (syy - syc[best] ** 2 / scc[best])
    left = xx[0, 0] - xy[0] ** 2 / yy
    copied = (cx[:, 0] - xy[0] * cy / yy) ** 2 / np.maximum(left * (cc - cy**2 / yy), tiny)
    return best, float(np.clip(r[best], -1, 1)), float(now / np.sqrt(max(size, tiny))), copied


def _is_silent_on_present(r: float, r_now: float, dof: int) -> bool:
    """A copy of the later value says nothing of the present once that value is known; a change
    up to it, as much with the other sign.
    """
    error = 1.0 / np.sqrt(dof)
    if r * r_now < 0:
        return abs(r_now) <= abs(r) + 2.5 * error
    return abs(r_now) <= 0.8 * abs(r) + error and abs(r) - abs(r_now) > 2 * np.sqrt(2) * error


class _Residuals(NamedTuple):
    """A column in a group of rows: residuals of the target's past. y: (n,) of the target at the
    cutoff, x: (n, a) of the column now and before.
    """

    panel: LeadPanel
    rows: Array
    past: Array
    y: Array
    x: Array

    def is_noise_besides(self, leads: list[Lead], lead: Lead, copied: float) -> bool:
        """Whether what *lead* leaves open of the column is noise: no course of its own, nothing
        that the leads around explain.
        """
        near = range(lead.steps - 3, lead.steps + 4)
        others = sorted({1, 2, 3, *near} & {other.steps for other in leads if other.kind == "value"})
        columns = [
            self.panel.at(lead, self.rows),
            *(self.panel.at(Lead("value", s), self.rows) for s in others if Lead("value", s) != lead),
        ]
        now = (self.y / np.sqrt(self.y @ self.y))[:, None]
        around = _compute_residuals(_compute_residuals(np.column_stack(columns), self.past), now)
        left = _compute_residuals(self.x[:, 0], now)
        one = around[:, :1] / np.sqrt(np.square(around[:, 0]).sum())
        rest, after = _compute_residuals(left, one), _compute_residuals(left, np.linalg.qr(around)[0])
        n, q = len(self.rows) - self.past.shape[1], len(columns) - 1
        f = (rest @ rest - after @ after) / q / max(float(after @ after) / (n - q), 1e-300)
        explained = 1 - float(after @ after) / float(left @ left) - q / n
        by_itself = _compute_correlation(rest[:-1], rest[1:])
        return abs(by_itself) < MOVES_BY_ITSELF and (
            f < SEVERAL_LEADS_F or copied > ONE_LEAD_FRAC * explained
        )

    def is_consistent(self, lead: Lead) -> bool:
        """Whether column and lead agree in stretch after stretch of rows, and not through a few
        long swings.
        """
        given = np.linalg.qr(np.column_stack([self.y, self.x[:, 1:]]))[0]
        both = _compute_residuals(
            _compute_residuals(np.column_stack([self.x[:, 0], self.panel.at(lead, self.rows)]), self.past),
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
    what = (
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
        says=f"{name!r} knows what the target is {what}{where}: correlation {evidence.r:.2f} over "
        f"{evidence.n_rows} rows with what "
        f"the target's own past leaves open, {evidence.errors:.0f} standard errors from 0 where chance "
        f"reaches {evidence.limit:.1f}; "
        f"of the target at the cutoff it says {abs(evidence.r_now):.2f}. Its column holds later values. "
        f"Take it out of `features.list`, or find "
        "out when it was known: what is published ahead belongs into `about.covariates.known_ahead`, and a "
        "column that honestly "
        f"leads the target into `features.leaks.leading: [{name}]`.",
    )
