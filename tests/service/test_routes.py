"""One file for each resource, and each of them is in the app."""

import re
from pathlib import Path

from deployments.forecaster import routes
from deployments.forecaster.app import ROUTES, create_app


def test_every_file_of_routes_is_in_the_app():
    files = {path.stem for path in Path(routes.__path__[0]).glob("*.py")} - {"__init__", "shared"}
    assert {module.__name__.rpartition(".")[2] for module in ROUTES} == files


def test_every_path_is_stated_in_one_file():
    texts = [Path(str(module.__file__)).read_text() for module in ROUTES]
    stated = [path for text in texts for path in re.findall(r'app\.(?:get|post)\(\s*"([^"]+)"', text)]
    assert sorted(stated) == sorted({route.path for route in create_app().routes} - {"/openapi.json"})
