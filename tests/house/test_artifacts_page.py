"""What stages hand on is described field by field, and shown in the docs as it is."""

import ast
from collections import Counter
from pathlib import Path

import artifacts_page
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tasks", "flows", "deployments")
MAX_UNTYPED = 59  # 268 on 2026-11-30; only down
FILES = artifacts_page.list_files()


def find_models(model):
    """*model* and those inside it."""
    for field in model.model_fields.values():
        inner, _ = artifacts_page.find_nested(field.annotation)
        if inner is not None:
            yield inner
            yield from find_models(inner)


def test_the_page_of_the_artifacts_shows_the_models_as_they_are():
    assert artifacts_page.PAGE.read_text() == artifacts_page.render_page(), (
        f"Make it again: `{artifacts_page.COMMAND}`."
    )


@pytest.mark.parametrize("model", FILES, ids=lambda model: model.PATH)
def test_every_field_of_a_file_is_described(model):
    for part in (model, *find_models(model)):
        fields = part.model_fields.keys() - {"schema_version", "root"}
        assert fields <= artifacts_page.read_field_texts(part).keys(), part.__name__


def test_a_path_is_that_of_one_model():
    assert len(FILES) >= 18
    assert max(Counter(model.PATH for model in FILES).values()) == 1


def test_few_values_are_dictionaries_of_anything():
    found = Counter()
    for path in [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]":
                found[str(path.relative_to(ROOT))] += 1
    assert found.total() <= MAX_UNTYPED, f"Give these a type: {found.most_common(10)}"
