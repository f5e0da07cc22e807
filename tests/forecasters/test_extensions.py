"""A forecaster of one's own: the how-to's file, found by its name and loaded from what it saved."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_trees import schema_of, walk_of

from tasks.core.errors import ForecasterError
from tasks.edges import extensions as extensions_module
from tasks.forecasters import build_forecaster, load_forecaster

ROOT = Path(__file__).resolve().parents[2]
DRIFT = re.search(r"```python\n(.*?)```", (ROOT / "docs/how-to/add-a-model.md").read_text(), flags=re.DOTALL)[
    1
]


def test_a_file_in_extensions_is_found_by_its_name_and_its_fit_is_loaded(extensions):
    (extensions / "drift_there.py").write_text(DRIFT)
    x, z = walk_of(100)
    fit = build_forecaster("drift_there:Drift", schema_of(), 1, {}).fit(x, z)
    (extensions / "fit").mkdir()
    fit.save(extensions / "fit")
    np.testing.assert_array_equal(load_forecaster(extensions / "fit").predict(x), fit.predict(x))


def test_a_file_in_the_old_folder_is_found_with_a_warning_and_its_fit_is_loaded(
    extensions, monkeypatch, tmp_path
):
    monkeypatch.setattr(extensions_module, "ROOT", tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/drift_before.py").write_text(DRIFT)
    x, z = walk_of(100)
    with pytest.warns(FutureWarning, match="git mv own/drift_before.py tasks/extensions/drift_before.py"):
        fit = build_forecaster("drift_before:Drift", schema_of(), 1, {}).fit(x, z)
    (extensions / "fit").mkdir()
    fit.save(extensions / "fit")
    with pytest.warns(FutureWarning, match="goes with the next release"):
        loaded = load_forecaster(extensions / "fit")
    np.testing.assert_array_equal(loaded.predict(x), fit.predict(x))


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("nowhere:Drift", None, r"No module 'nowhere'.*Put nowhere.py into"),
        ("mistaken:Drift", "class Drfit: pass", r"has no 'Drift'"),
        (
            "bare:Drift",
            "class Drift: pass",
            r"does not fit: \['fit', 'predict', 'save', 'load', 'to_onnx'\] is missing",
        ),
        ("needing:Drift", "import no_such_library", r"needs 'no_such_library', which is not installed"),
        ("wrong:Drift", "def f(:", r"wrong.py cannot be imported: SyntaxError"),
        ("rigde", None, r"No forecaster 'rigde' \(did you mean 'ridge'"),
    ],
)
def test_what_is_no_forecaster_is_refused_with_what_it_lacks(extensions, name, source, message):
    if source:
        (extensions / f"{name.partition(':')[0]}.py").write_text(source)
    with pytest.raises(ForecasterError, match=message):
        build_forecaster(name, schema_of(), 1, {})
