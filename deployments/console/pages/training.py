"""The training page: each model's folds and the results of its search."""

from collections.abc import Iterable
from pathlib import Path

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
from tasks.core.reports.base import StageFile
from tasks.core.reports.train import PlanReport, SearchReport
from tasks.edges.artifacts import read_json, read_report
from tasks.edges.params import read_dataset, read_document
from tasks.edges.settings import read_settings

_FIGURES = ("n_cutoffs", "n_cutoffs_left_out", "n_fits", "refit", "n_series", "n_steps", "seen_until")


def list_inputs(root: Path) -> list[str]:
    """Paths of the page's inputs: the plan of each model of the current dataset."""
    return [get_path_of_model(PlanReport, model) for model in read_document(root).list_models()]


def get_path_of_model(kind: type[StageFile], model: str) -> str:
    """Path of a report that each model has, relative to the root."""
    return kind.PATH.replace("<model>", model)


def render_training(root: Path) -> str:
    """A section for each model."""
    return render_page(
        f"training: {read_dataset(root)}",
        render_element("h1", "training"),
        render_element("p", "What each model learned from, and which cutoffs it forecast.", "lead"),
        *(_render_model(model, root) for model in read_document(root).list_models()),
    )


def _render_model(model: str, root: Path) -> Markup:
    plan = read_report(root / get_path_of_model(PlanReport, model), PlanReport)
    facts = render_facts({name: getattr(plan, name) for name in _FIGURES})
    images = [draw_folds(plan, f"folds of {model}"), *_draw_searches(model, root)]
    return render_section(model, facts, *map(render_image, images))


def _draw_searches(model: str, root: Path) -> Iterable[Image]:
    """Charts of the last search, with its fronts while the study still exists."""
    path = root / get_path_of_model(SearchReport, model)
    if not path.exists():
        return
    search = read_report(path, SearchReport).searches[-1]
    yield draw_search(search)
    yield draw_importances(search.importances)
    trials = read_settings().home / "search" / search.study / "trials.json"
    if trials.is_file():
        study = read_json(trials)
        drawn = {"error", *(key for trial in search.trials for key in trial)}
        for objective in study["objectives"]:
            if objective not in drawn:
                yield draw_front(study["trials"], objective, search.chosen.trial)
