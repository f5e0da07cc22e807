"""The DVC command: `python -m tasks.train MODEL`."""

import sys

from tasks.core.about import About
from tasks.core.errors import ParamsError
from tasks.core.frames import FEATURES, VINTAGES
from tasks.core.kinds import get_forecast_schema
from tasks.core.leaks import LeakVerdict, check_leaks, check_verdict_inputs
from tasks.edges.artifacts import read_frame, read_json, write_folder, write_frame, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.dataset import read_features_dataset
from tasks.edges.event_log import EventLabel, label_events
from tasks.edges.files import compute_file_hash
from tasks.edges.mlflow_live import LiveRun
from tasks.edges.params import read_document
from tasks.edges.recipe import read_recipe
from tasks.edges.settings import ROOT
from tasks.edges.tracking import TrainedModel, log_training
from tasks.train.params import TrainParams
from tasks.train.recipe import fit_by_recipe
from tasks.train.search.report import build_mlflow_logger
from tasks.train.split import TrainingData
from tasks.train.stage import TrainResult


def main() -> None:
    """Read the feature table, walk, write forecasts and fit, log the run."""
    if len(sys.argv) != 2:
        raise ParamsError(
            "`python -m tasks.train` needs the name of one model of params.yaml, for example `python -m"
            " tasks.train ridge`."
        )
    document = read_document()
    document.list_models()  # a list that is not the entry's stops here, not after all models are trained
    model, source = sys.argv[1], ROOT / "data/features"
    params, model_params = document.parse_stage("train", TrainParams), document.get_model_params(model)
    dataset = read_features_dataset(source, document.about)
    table_hash = compute_file_hash(source / "table.parquet")
    verdict = LeakVerdict.model_validate(read_json(source / "leaks.json"))
    check_verdict_inputs(verdict, f"train {model}", schema_hash=dataset.schema.hash, table=table_hash)
    check_leaks(verdict, f"train {model}")
    label = EventLabel(document.dataset, model)
    with LiveRun(label) as live, label_events(label):
        training = TrainedModel(document.dataset, model, table_hash, live.key, live.started_ns)
        trained = fit_by_recipe(
            read_recipe(document.dataset),
            model,
            TrainingData(
                read_frame(source / "table.parquet", FEATURES),
                dataset,
                document.gate_steps,
                read_frame(source / "vintages.parquet", VINTAGES),
            ),
            params,
            model_params,
            on_trial=build_mlflow_logger(training),
        )
        _write_result(model, trained, document.about)
        metrics = trained.metrics.model_dump(exclude={"schema_version"})
        log_training(
            training._replace(epochs=live.read_points()), params.model_dump() | model_params, metrics
        )


def _write_result(model: str, trained: TrainResult, about: About) -> None:
    """The outputs of the stage."""
    with write_folder(ROOT / "data/forecasts" / model) as folder:
        write_frame(folder / "forecast.parquet", trained.forecasts, get_forecast_schema(about))
        write_frame(folder / "gate.parquet", trained.gate, get_forecast_schema(about))
        write_report(folder / "metrics.json", trained.metrics)
        write_report(folder / "plan.json", trained.plan)
    with write_folder(ROOT / "models/fits" / model) as folder:
        trained.fit.save(folder)
        trained.fit.to_onnx(folder / "model.onnx")
        write_report(folder / "fit.json", trained.facts)
        for name, report in (("search", trained.search), ("selection", trained.selection)):
            if report is not None:
                write_report(folder / f"{name}.json", report)


if __name__ == "__main__":
    run_stage_command(main)
