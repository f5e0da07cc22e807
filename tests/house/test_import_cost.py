"""A command with nothing to do starts fast: it brings no library that takes long to import.

That `tidemill --help` brings none at all is tested with the command line.
"""

import subprocess
import sys

import pytest

from tasks.edges.params import STAGES

# Seconds on two cores: torch with Lightning 11, Great Expectations 6, Evidently 5 to 8, mlflow 4.
HEAVY = {
    *("arch", "bentoml", "catboost", "confluent_kafka", "distributed", "dvc", "evidently", "fastapi"),
    *("exchange_calendars", "great_expectations", "lightgbm", "lightning", "matplotlib", "mlflow", "onnx"),
    *("onnxruntime", "optuna", "pandas", "prefect", "prophet", "shap", "sklearn", "sqlalchemy"),
    *("statsmodels", "torch", "xgboost"),
}
COMMANDS = ("deployments.ops.status", "deployments.ops.supervisor", *(f"tasks.{s}.__main__" for s in STAGES))


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_brings_no_heavy_library(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
