"""The DVC command `python -m tasks.ingest`: data/source -> data/raw."""

from pathlib import Path

from tasks.core.frames import REPEATED, SERIES
from tasks.edges.artifacts import write_folder, write_frame, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.ingest.params import IngestParams
from tasks.ingest.stage import read_configured_source


def main(root: Path = ROOT) -> None:
    """Read the source; write rows.parquet, repeated.parquet and ledger.json in one rename."""
    document = read_document(root)
    source = document.parse_stage("ingest", IngestParams).source
    ingested = read_configured_source(source, document.about, root / "data/source")
    with write_folder(root / "data/raw") as folder:
        write_frame(folder / "rows.parquet", ingested.rows, SERIES)
        write_frame(folder / "repeated.parquet", ingested.repeated, REPEATED)
        write_report(folder / "ledger.json", ingested.ledger)
    totals = ingested.ledger.totals
    print(
        f"ingest: {totals.rows_kept:,} rows kept, {totals.rows_repeated:,} repeated,"
        f" {totals.rows_capped:,} capped; as of {ingested.ledger.as_of.isoformat()}"
    )


if __name__ == "__main__":
    run_stage_command(main)
