"""Write all pages into TIDEMILL_HOME/report."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deployments.console.html import render_element, render_page
from deployments.console.inputs import list_missing
from deployments.console.pages import monitor, rollout, training, validation
from deployments.console.pages.run import render_run
from tasks.core.errors import FrameError
from tasks.edges.artifacts import write_text
from tasks.edges.settings import ROOT, read_settings

INDEX = "index.html"


class Page(NamedTuple):
    """A page in addition to the run's. list_inputs: paths of its inputs, relative to the root."""

    name: str
    title: str
    render: Callable[[Path], str]
    list_inputs: Callable[[Path], list[str]]


PAGES = (
    Page(
        "validate.html",
        "What validate found: rules, quarantine, figures of the clean rows, gaps",
        validation.render_validation,
        validation.list_inputs,
    ),
    Page(
        "training.html",
        "How each model was trained: folds, purge and embargo, searches",
        training.render_training,
        training.list_inputs,
    ),
    Page(
        "monitor.html",
        "How right the champion turned out to be, what was served, drift",
        monitor.render_monitor,
        monitor.list_inputs,
    ),
    Page(
        "rollout.html",
        "How a challenger takes over by steps: its moves, both losses, the bets",
        rollout.render_rollout,
        rollout.list_inputs,
    ),
)


def write_pages(root: Path = ROOT) -> list[Path]:
    """Write every page of the current dataset from the stages' reports under *root*.

    Returns their paths, that of the run first. A page whose inputs are missing is removed.
    """
    folder = read_settings().home / "report"
    titles = {}
    for page in PAGES:
        if list_missing(page.list_inputs(root), root):
            (folder / page.name).unlink(missing_ok=True)
        else:
            write_text(folder / page.name, _render_page(page, root))
            titles[page.name] = page.title
    if list_missing([*monitor.list_inputs(root), monitor.STREAMS], root):
        (folder / monitor.EVIDENTLY).unlink(missing_ok=True)
    else:
        monitor.write_evidently(root, folder / monitor.EVIDENTLY)
    write_text(folder / INDEX, render_run(root, titles))
    return [folder / INDEX, *(folder / name for name in titles)]


def _render_page(page: Page, root: Path) -> str:
    try:
        return page.render(root)
    except FrameError as error:  # a file of another version
        return render_page(page.name, render_element("p", str(error)))
