"""The DVC command: `python -m tasks.train MODEL`."""

import sys

from tasks.core.errors import ParamsError
from tasks.core.frames import FEATURES, FORECAST, VINTAGES
from tasks.core.leaks import LeakVerdict, check_leaks, check_verdict_inputs
from tasks.core.schema import FeatureSchema
from tasks.edges.artifacts import (
    compute_file_hash,
    read_calendar,
    read_frame,
    read_json,
    write_folder,
    write_frame,
    write_json,
)
from tasks.edges.door import run_stage_command
from tasks.edges.params import (
    read_about,
    read_dataset,
    read_gate_steps,
    read_model_params,
    read_models,
    read_params,
)
from tasks.edges.settings import ROOT
from tasks.edges.tracking import log_training
from tasks.train.params import TrainParams
from tasks.train.search.search import build_mlflow_logger
from tasks.train.stage import fit_model


def main() -> None:
    """Read the feature table, walk, write forecasts and fit, log the run."""
    if len(sys.argv) != 2:
        raise ParamsError(
            "`python -m tasks.train` needs the name of one model of params.yaml, for example `python -m"
            " tasks.train ridge`."
        )
    read_models()  # a list that is not the entry's stops here, and not when every model has been trained
    model, about, source = sys.argv[1], read_about(), ROOT / "data/features"
    params, model_params = read_params("train", TrainParams), read_model_params(model)
    schema = FeatureSchema.model_validate(read_json(source / "schema.json"))
    table_hash = compute_file_hash(source / "table.parquet")
    verdict = LeakVerdict.model_validate(read_json(source / "leaks.json"))
    check_verdict_inputs(verdict, f"train {model}", schema_hash=schema.hash, table=table_hash)
    check_leaks(verdict, f"train {model}")
    trained = fit_model(
        model,
        read_frame(source / "table.parquet", FEATURES),
        schema,
        about,
        read_calendar(source, about),
        params,
        model_params,
        read_gate_steps(),
        vintages=read_frame(source / "vintages.parquet", VINTAGES),
        tell=build_mlflow_logger(read_dataset(), model, table_hash),
    )
    with write_folder(ROOT / "data/forecasts" / model) as folder:
        write_frame(folder / "forecast.parquet", trained.forecasts, FORECAST)
        write_frame(folder / "gate.parquet", trained.gate, FORECAST)
        write_json(folder / "metrics.json", trained.metrics)
        write_json(folder / "plan.json", trained.plan)
    with write_folder(ROOT / "models/fits" / model) as folder:
        trained.fit.save(folder)
        trained.fit.to_onnx(folder / "model.onnx")
        write_json(folder / "fit.json", trained.facts)
        for name, found in (("search", trained.search), ("selection", trained.selection)):
            if found is not None:
                write_json(folder / f"{name}.json", found)
    log_training(
        read_dataset(), model, params.model_dump() | model_params, trained.metrics, data_hash=table_hash
    )


if __name__ == "__main__":
    run_stage_command(main)
