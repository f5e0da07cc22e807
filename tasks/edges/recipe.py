"""data/recipe/recipe.json: how the training that runs now differs from params.yaml.

The flow `training` writes it, the stage `train` depends on it, so DVC trains again when it changes.
Without the file, and for another dataset, training is as params.yaml says.
"""

from pathlib import Path

from tasks.core.reports.retrain import Recipe
from tasks.core.strict import Strict
from tasks.edges.artifacts import write_json
from tasks.edges.settings import ROOT


class TrainingRecipe(Strict):
    """A recipe (see `RetrainDecision`) and the dataset that it is for."""

    dataset: str
    recipe: Recipe


def write_recipe(dataset: str, recipe: Recipe, root: Path = ROOT) -> None:
    """Let the next training of *dataset* follow *recipe*."""
    path = _get_path(root)
    if recipe == "full":
        path.unlink(missing_ok=True)
    else:
        write_json(path, TrainingRecipe(dataset=dataset, recipe=recipe).model_dump())


def read_recipe(dataset: str, root: Path = ROOT) -> Recipe:
    """The recipe of a training of *dataset* that starts now."""
    path = _get_path(root)
    if not path.exists():
        return "full"
    written = TrainingRecipe.model_validate_json(path.read_bytes())
    return written.recipe if written.dataset == dataset else "full"


def _get_path(root: Path) -> Path:
    return root / "data" / "recipe" / "recipe.json"
