"""The verdict of the leak gate on a feature table.

Train and promote ask for it, and it travels with the release.
"""

from collections.abc import Mapping

from pydantic import Field

from tasks.core.errors import LeakError
from tasks.core.reports.features import LeadingColumn
from tasks.core.strict import Strict

SHOWN = 3  # findings in an error; all of them are in leaks.json


class LeakFinding(Strict):
    """One way in which a feature knows too much.

    rule: which check found it.
    cutoff, series_id: the row, where the rule is about one row.
    seen: the value in the table.
    allowed: what could be known at the cutoff; null for nothing.
    lead_steps: how many steps after the cutoff it knows the target.
    n_rows: how many of the checked rows break the rule.
    says: the same as a sentence, with what to do next.
    """

    rule: str
    feature: str
    series_id: str | None = None
    cutoff: str | None = None
    seen: float | None = None
    allowed: float | None = None
    lead_steps: int | None = None
    n_rows: int = 1
    says: str


class LeakVerdict(Strict):
    """leaks.json.

    schema_hash, table, data_version: what was checked (hash of the feature schema, of
      table.parquet, of data/clean/rows.parquet).
    checks: for each rule what was checked and the bound that held, as plain figures.
    findings: empty when nothing leaks.
    leading: each column's strongest agreement with the target later; it is in leading.json and not
      here, so that it is in no digest.
    """

    schema_hash: str
    table: str
    data_version: str
    checks: dict[str, Mapping[str, object]]
    findings: tuple[LeakFinding, ...] = ()
    leading: tuple[LeadingColumn, ...] = Field(default=(), exclude=True)


def check_leaks(verdict: LeakVerdict, where: str) -> None:
    """Raise LeakError with the first findings. where: the stage that refuses."""
    if verdict.findings:
        shown = "\n".join(f"  {finding.says}" for finding in verdict.findings[:SHOWN])
        more = f"\n  and {len(verdict.findings) - SHOWN} more" if len(verdict.findings) > SHOWN else ""
        raise LeakError(
            f"{where}: the leak gate has {len(verdict.findings)} finding(s). `tidemill leaks` shows"
            f" all.\n{shown}{more}"
        )


def check_verdict_inputs(verdict: LeakVerdict, where: str, **hashes: str) -> None:
    """Raise LeakError when *verdict* is about other inputs than these.

    hashes: of the inputs, by the verdict's field.
    """
    for field, here in hashes.items():
        if (judged := getattr(verdict, field)) != here:
            raise LeakError(
                f"{where}: the leak gate's verdict is about {field} {judged[:12]}, but here is {here[:12]}:"
                " it does not hold for these. Run `dvc repro features` and what follows again."
            )
