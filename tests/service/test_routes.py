"""One file for each resource, and each of them is in the app."""

import asyncio
import re
from pathlib import Path
from types import ModuleType

import httpx
from servers import DATASET, at

from deployments.forecaster import app as app_module
from deployments.forecaster import routes
from deployments.forecaster.app import ROUTES, build_app, build_parts, create_app
from deployments.forecaster.loaded import format_iso
from deployments.forecaster.source import ReleaseSource
from tasks.edges.settings import ROOT


def test_every_file_of_routes_is_in_the_app():
    files = {path.stem for path in Path(routes.__path__[0]).glob("*.py")} - {"__init__", "shared"}
    assert {module.__name__.rpartition(".")[2] for module in ROUTES} == files


def test_every_path_is_stated_in_one_file():
    texts = [Path(str(module.__file__)).read_text() for module in ROUTES]
    stated = [
        path for text in texts for path in set(re.findall(r'app\.(?:get|post|delete)\(\s*"([^"]+)"', text))
    ]
    assert sorted(stated) == sorted({route.path for route in create_app().routes} - {"/openapi.json"})


async def get(app, *paths):
    """The answers of *app* in this process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return [await client.get(path) for path in paths]


def test_the_route_of_the_how_to_works_as_it_stands(releases, tmp_path, monkeypatch):
    source = (ROOT / "docs/how-to/add-a-route.md").read_text()
    module = ModuleType("series")
    exec(re.search(r"```python\n(.*?)```", source, flags=re.DOTALL)[1], module.__dict__)
    monkeypatch.setattr(app_module, "ROUTES", (*ROUTES, module))
    with at(tmp_path):
        held = ReleaseSource(releases / "first", DATASET)
        held.load_initial()
        answer, document = asyncio.run(get(build_app(build_parts([held])), "/api/v1/series", "/openapi.json"))
    newest = format_iso(held.loaded.newest_known)
    assert answer.json() == [{"series_id": name, "known_at": newest} for name in ("north", "south")]
    responses = document.json()["paths"]["/api/v1/series"]["get"]["responses"]
    assert "SeriesReach" in str(responses["200"])
