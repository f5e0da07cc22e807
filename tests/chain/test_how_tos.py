"""How-tos run to the letter: their files, entries and commands, in a checkout of its own."""

import re
import shlex
import shutil
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from small_checkout import ROOT, small_checkout

PROGRAMS = {"tidemill": "deployments.cli", "dvc": "dvc", "pytest": "pytest"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """One for all pages, since they add to it, and what is up to date runs once."""
    folder = tmp_path_factory.mktemp("how_tos")
    yield small_checkout(folder)
    shutil.rmtree(folder, ignore_errors=True)


class Page:
    """The blocks of a how-to."""

    def __init__(self, name):
        self.text = (ROOT / "docs/how-to" / name).read_text()

    def blocks(self, language=""):
        found = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        return [text for name, text in found if name == language]

    def commands(self):
        return re.findall(r"^    (\.venv/bin/.*)$", self.text, flags=re.MULTILINE)


def run_line(checkout, line):
    """A command line of a page, with the checkout's code."""
    program, *arguments = shlex.split(line, comments=True)
    return checkout.run(sys.executable, "-m", PROGRAMS[program.removeprefix(".venv/bin/")], *arguments)


def insert(path, before, text):
    """Put *text* before the first line that starts with *before*."""
    content = path.read_text()
    assert content.count(before) >= 1, before
    path.write_text(content.replace(before, f"{text}{before}", 1))


def add_to_features(checkout, item):
    """One more line in `features.list` of the current dataset, exactly as the page has it."""
    path = checkout.root / "params.yaml"
    lines = path.read_text().splitlines()
    at_line = next(i for i, line in enumerate(lines) if re.fullmatch(r"\s+list:", line))
    indent = re.match(r"\s+", lines[at_line + 1])[0]
    path.write_text("\n".join([*lines[: at_line + 1], indent + item.strip(), *lines[at_line + 1 :]]) + "\n")


def test_own_features_runs_as_written(checkout):
    page = Page("own-features.md")
    (source,) = page.blocks("python")
    (checkout.root / source.splitlines()[0].removeprefix("# ")).write_text(source)
    (entry,) = page.blocks("yaml")
    add_to_features(checkout, entry.splitlines()[-1])
    done = [run_line(checkout, line) for line in page.commands()]
    assert "keeps all" in done[0].stdout
    assert "No leak found." in done[2].stdout
    table = pl.read_parquet(checkout.root / "data/features/table.parquet")
    assert "z_above_yesterday_24" in table.columns
    assert (checkout.home / "registry" / "index_volatility" / "champion.json").exists()


def test_add_a_feature_runs_as_written(checkout):
    page, root = Page("add-a-feature.md"), checkout.root
    shutil.copytree(ROOT / "tests", root / "tests", dirs_exist_ok=True)
    (entry,) = page.blocks("yaml")
    add_to_features(checkout, entry.splitlines()[-1])
    spec, builder, loop = page.blocks("python")
    union, name, case, item, by_kind = page.blocks()
    insert(root / "tasks/features/specs.py", "FeatureSpec = Annotated[", f"{spec}\n\n")
    insert(root / "tasks/features/specs.py", "    | Function,", union)
    columns = root / "tasks/features/columns.py"
    columns.write_text(f"{columns.read_text()}\n\n{builder}")
    insert(columns, "    Ewm,\n", name)
    insert(columns, "        case Function():", case)
    law = root / "tests/laws/test_features.py"
    insert(law, '    {"kind": "garman_klass"},', item)
    insert(law, '        "garman_klass": lambda', by_kind)
    # The suite itself runs the law with all its examples
    few = re.sub(r"max_examples=\d+", "max_examples=3", law.read_text())
    law.write_text(f"{few}\n\n{loop}")
    features, laws = page.commands()
    run_line(checkout, features)
    assert "close_mean_10" in pl.read_parquet_schema(root / "data/features/table.parquet")
    assert "passed" in run_line(checkout, f"{laws} -p no:cacheprovider -o addopts=").stdout


def test_add_a_source_runs_as_written(checkout):
    """The page's own database: 120 days of hours of two meters."""
    page, feeds = Page("add-a-source.md"), checkout.root / "feeds"
    feeds.mkdir()
    start = datetime(2024, 1, 1, tzinfo=UTC)
    hours = [f"{start + timedelta(hours=h):%Y-%m-%dT%H:%M:%SZ}" for h in range(120 * 24)]
    rows = [(f"m{m}", at, 10.0 * m + h % 24 + h % 7) for m in (1, 2) for h, at in enumerate(hours)]
    meters = pl.DataFrame(rows, schema=["meter", "at", "kwh"], orient="row")
    meters.write_csv(feeds / "meters.csv")
    with sqlite3.connect(feeds / "meters.db") as database:
        database.execute("CREATE TABLE meters (meter TEXT, at TEXT, kwh REAL)")
        database.executemany("INSERT INTO meters VALUES (?, ?, ?)", meters.rows())
    database.close()
    (source,) = page.blocks("python")
    (checkout.root / "tasks/extensions/meters_db.py").write_text(source)
    check, new, use, repro = page.commands()
    assert "keeps all" in run_line(checkout, check).stdout
    run_line(checkout, new)
    params = checkout.root / "params.yaml"
    (entry,) = page.blocks("yaml")
    before, _, rest = params.read_text().partition("\n  meters:\n")
    old = re.search(r"^    ingest:\n(?:      .*\n)+", rest, flags=re.MULTILINE)[0]
    params.write_text(f"{before}\n  meters:\n{rest.replace(old, entry)}")
    run_line(checkout, use)
    printed = run_line(checkout, repro).stdout
    (expected,) = page.blocks()
    assert [line for line in expected.splitlines() if line not in printed] == []
