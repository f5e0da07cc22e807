"""What another engine may have made of a table, and this code reads or writes wrongly."""

from pathlib import Path

from deltalake import DeltaTable

from tasks.core.errors import FeedError

FEATURES_VERSION = (3, 7)  # of reader and writer, from which the table lists its features by name
# What reader version 1 and writer version 2 know
FEATURES = {"appendOnly", "invariants"}
# Writer or reader version -> what it adds without naming it
OLD_FEATURES = {
    "reader": {2: "columnMapping"},
    "writer": {3: "checkConstraints", 4: "changeDataFeed", 5: "columnMapping", 6: "identityColumns"},
}


def check_protocol(table: DeltaTable, folder: Path) -> None:
    """Raise FeedError when *table* uses a feature of the protocol that this code does not know.

    Rows that another engine deleted would come back, renamed columns would be null, and files that
    are in use would be removed as unused.
    """
    if unknown := find_unknown_features(table):
        raise FeedError(
            f"The table in {folder} uses {', '.join(unknown)} of the Delta protocol: another engine turned"
            " it on. Tidemill knows tables without it, and would read wrong rows. Nothing was changed. Drop"
            f" the feature there (in Spark: ALTER TABLE ... DROP FEATURE {unknown[0]}), or give the feed a"
            " table of its own."
        )


def find_unknown_features(table: DeltaTable) -> list[str]:
    """Features that *table* uses beyond FEATURES, by name."""
    protocol = table.protocol()
    named = set(protocol.reader_features or ()) | set(protocol.writer_features or ())
    reader, writer = protocol.min_reader_version, protocol.min_writer_version
    if reader < FEATURES_VERSION[0]:
        named |= {name for version, name in OLD_FEATURES["reader"].items() if version <= reader}
    if writer < FEATURES_VERSION[1]:
        named |= {name for version, name in OLD_FEATURES["writer"].items() if version <= writer}
    newer = reader > FEATURES_VERSION[0] or writer > FEATURES_VERSION[1]
    return sorted(named - FEATURES) or ([f"reader {reader}, writer {writer}"] if newer else [])
