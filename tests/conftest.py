"""What all tests share: the real data beside the project, and one printed line where it is
absent."""

from pathlib import Path

import pytest
from kafka_support import kafka_cluster  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(config, items):
    """Deselect tests that need the shared data where there is none."""
    if SHARED_DATA.exists():
        return
    needing = [item for item in items if item.get_closest_marker("shared")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
        print(f"\n{len(needing)} tests need ../shared/data, which is not here: left out")


@pytest.fixture(scope="session")
def shared_data():
    return SHARED_DATA


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A small checkout whose whole chain has run once, undisturbed; shared, since a chain takes a
    minute.

    Leave its params.yaml as it was.
    """
    from small_checkout import small_checkout

    checkout = small_checkout(tmp_path_factory.mktemp("built"))
    checkout.repro()
    return checkout


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    """An empty folder in the place of `tasks/extensions`."""
    import sys

    import tasks.extensions

    folder = tmp_path / "extensions"
    folder.mkdir()
    monkeypatch.setattr(tasks.extensions, "__path__", [str(folder)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield folder
    for name in {n for n in sys.modules.keys() - before if n.startswith("tasks.extensions.")}:
        del sys.modules[name]
