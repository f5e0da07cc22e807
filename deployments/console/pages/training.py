"""How each model was trained: its folds, and what its search found."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deployments.console.charts.folds import draw_folds
from deployments.console.charts.search import draw_front, draw_importances, draw_search
from deployments.console.html import (
    Image,
    Markup,
    render_element,
    render_facts,
    render_image,
    render_page,
    render_section,
)
from tasks.edges.artifacts import read_json
from tasks.edges.params import read_dataset, read_models
from tasks.edges.settings import read_settings

_FIGURES = ("n_cutoffs", "n_cutoffs_left_out", "n_fits", "refit", "n_series", "n_steps", "seen_until")


def list_inputs(root: Path) -> list[str]:
    """What the page is made of, from *root*: the plan of each model of the current dataset."""
    return [f"data/forecasts/{model}/plan.json" for model in read_models(root)]


def render_training(root: Path) -> str:
    """A section for each model."""
    return render_page(
        f"training: {read_dataset(root)}",
        render_element("h1", "training"),
        render_element("p", "What each model learned from, and which cutoffs it forecast.", "lead"),
        *(_render_model(model, root) for model in read_models(root)),
    )


def _render_model(model: str, root: Path) -> Markup:
    plan = read_json(root / "data/forecasts" / model / "plan.json")
    facts = render_facts({name: plan[name] for name in _FIGURES})
    # A plan of an earlier version has no origins to draw
    folds = [draw_folds(plan, f"folds of {model}")] if "release_origin" in plan else []
    images = [*folds, *_draw_searches(root / "models/fits" / model)]
    return render_section(model, facts, *map(render_image, images))


def _draw_searches(fit: Path) -> Iterable[Image]:
    """Of the last search; with the fronts of what varies between runs, while its study is kept."""
    if not (fit / "search.json").exists():
        return
    search: Mapping[str, Any] = read_json(fit / "search.json")[-1]
    yield draw_search(search)
    yield draw_importances(search["importances"])
    trials = read_settings().home / "search" / search.get("study", "") / "trials.json"
    if trials.is_file():
        study = read_json(trials)
        drawn = {"error", *(key for trial in search["trials"] for key in trial)}
        for objective in study["objectives"]:
            if objective not in drawn:
                yield draw_front(study["trials"], objective, search["chosen"]["trial"])
