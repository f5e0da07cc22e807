"""A sealed release as the folder of an MLflow model, which `mlflow.pyfunc.load_model` reads.

`release/` has the sealed files, `code/` what their forecasts import. The signature is written by
hand, since MLflow would call the model to find it.
"""

import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.kinds import get_forecast_schema
from tasks.edges.artifacts import write_text
from tasks.edges.release_files import MANIFEST, read_release_identity
from tasks.edges.settings import ROOT

LOADER = "tasks.release.pyfunc"
_CODE = ("__init__.py", "core", "features", "release", "edges/__init__.py", "edges/files.py")  # of tasks/
_PACKAGES = ("holidays", "mlflow", "numpy", "onnxruntime", "pandas", "polars", "pyarrow", "pydantic")
_TYPES = {"String": "string", "Categorical": "string", "Datetime": "datetime", "Int32": "integer"}


def write_mlflow_model(source: Path, folder: Path, run_id: str) -> None:
    """Write the model of the sealed release in *source* into the new *folder*.

    run_id: of the run that it is logged in.
    Raises ReleaseError when *source* has no manifest.
    """
    with warnings.catch_warnings():  # of its own type hints
        warnings.simplefilter("ignore")
        from mlflow.models import Model
        from mlflow.pyfunc import add_to_model

    for name in (MANIFEST, *read_release_identity(source).files):
        _copy(source / name, folder / "release" / name)
    for name in _CODE:
        _copy(ROOT / "tasks" / name, folder / "code/tasks" / name)
    write_text(folder / "requirements.txt", "".join(f"{name}=={version(name)}\n" for name in _PACKAGES))
    write_text(folder / "python_env.yaml", "dependencies:\n- -r requirements.txt\n")
    model = Model(artifact_path="model", run_id=run_id, signature=_build_signature(source))
    add_to_model(model, LOADER, data="release", code="code", python_env="python_env.yaml")
    model.save(str(folder / "MLmodel"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


def _build_signature(source: Path) -> Any:
    """In: series, or rows of them. Out: forecasts."""
    from mlflow.models import ModelSignature

    about = About.model_validate_json((source / "about.json").read_bytes())
    given = pl.read_parquet_schema(source / "rows.parquet")
    return ModelSignature(
        _build_schema(given, required={"series_id"}), _build_schema(get_forecast_schema(about).columns)
    )


def _build_schema(columns: Mapping[str, Any], required: set[str] | None = None) -> Any:
    from mlflow.types import ColSpec, Schema

    types = {name: _TYPES.get(str(dtype).partition("(")[0], "double") for name, dtype in columns.items()}
    return Schema([ColSpec(kind, name, required is None or name in required) for name, kind in types.items()])
