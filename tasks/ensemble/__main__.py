"""The DVC command: `python -m tasks.ensemble`."""

import shutil
from pathlib import Path

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.frames import FEATURES, FORECAST, HISTORY
from tasks.core.schema import FeatureSchema
from tasks.core.windows import build_panel
from tasks.edges.artifacts import (
    compute_file_hash,
    read_calendar,
    read_frame,
    read_json,
    write_folder,
    write_frame,
    write_json,
    write_sessions,
)
from tasks.edges.door import run_stage_command
from tasks.edges.params import read_about, read_dataset, read_model_params, read_models, read_params
from tasks.edges.settings import ROOT
from tasks.ensemble.align import AlignedForecasts, align_forecasts
from tasks.ensemble.body import build_history_frame, write_frames, write_members
from tasks.ensemble.combiner import compute_shares
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import ENSEMBLE, AssembledEnsemble, build_ensemble, build_summary
from tasks.release import EnsembleSpec
from tasks.release.combine import find_plain_weights

FEATURES_FOLDER = ROOT / "data/features"


def main() -> None:
    """Read the members' forecasts, assemble, write both bodies and the report."""
    about, params = read_about(), read_params("ensemble", EnsembleParams)
    calendar = read_calendar(FEATURES_FOLDER, about)
    aligned, stride_steps = read_aligned(about, calendar)
    assembled = build_ensemble(aligned, about, params)
    print(assembled.choice.reason)
    with write_folder(ROOT / "models/challenger") as folder:
        for role, name in (("challenger", assembled.shipped), ("baseline", assembled.baseline)):
            (folder / role).mkdir()
            write_unsealed_release(folder / role, name, assembled, aligned, about, calendar, stride_steps)
    with write_folder(ROOT / "data/reports/ensemble") as folder:
        write_frames(
            folder,
            assembled.candidates[ENSEMBLE],
            assembled.candidates,
            aligned,
            about,
            assembled.scored,
            assembled.gate,
        )
        facts = build_summary(assembled, aligned, about)
        write_json(folder / "summary.json", facts)
    print(facts["gains"]["text"])


def read_aligned(about: About, calendar: Calendar) -> tuple[AlignedForecasts, int]:
    """Forecasts of exactly the models listed, and the stride of their cutoffs.

    A model that forecasts a quantile has no say in the point.
    """
    models = read_models()
    quantile_of = {m: float(q) for m in models if (q := read_model_params(m).get("quantile")) is not None}
    if quantile_of:
        print(f"not combined, since they forecast quantiles: {', '.join(quantile_of)}")
    schema = FeatureSchema.model_validate(read_json(FEATURES_FOLDER / "schema.json"))
    panel = build_panel(read_frame(FEATURES_FOLDER / "table.parquet", FEATURES), schema, calendar)
    walk, gate = (
        {m: read_frame(ROOT / "data/forecasts" / m / f"{part}.parquet", FORECAST) for m in models}
        for part in ("forecast", "gate")
    )
    stride_steps = int(read_json(ROOT / "models/fits" / models[0] / "fit.json")["stride_steps"])
    return align_forecasts(walk, gate, panel, calendar, about, stride_steps, quantile_of), stride_steps


def write_unsealed_release(
    folder: Path,
    name: str,
    assembled: AssembledEnsemble,
    aligned: AlignedForecasts,
    about: About,
    calendar: Calendar,
    stride_steps: int,
) -> None:
    """What the service loads, without the rows and the manifest that `package` adds."""
    candidate = assembled.candidates[name]
    simple = find_plain_weights(candidate.how)
    weights = simple or {
        m: float(w)
        for m, w in zip(aligned.models, compute_shares(candidate.how, aligned.models), strict=True)
        if w > 0
    }
    blend = EnsembleSpec(
        model=name,
        weights=weights,
        quantiles=about.quantiles,
        group=assembled.issuer.group,
        residuals=assembled.issuer.n_residuals,
        adapt_rate=assembled.issuer.adapt_rate,
        block=assembled.issuer.block,
        regime=assembled.issuer.regime if assembled.issuer.group == "regime" else None,
        quantile_members=assembled.issuer.quantile_members,
        stride_steps=stride_steps,
        seen_until=aligned.panel.cutoff[int(aligned.origins[aligned.n_walk - 1])],
        as_of=aligned.panel.cutoff[-1],
        dataset=read_dataset(),
        data_version=compute_file_hash(ROOT / "data/clean/rows.parquet"),
        combiner=assembled.choice.combiner if name == ENSEMBLE else "weighted",
        combination=None if simple else candidate.how,
    )
    write_members(folder, blend.members, ROOT / "models/fits")
    write_frame(folder / "history.parquet", build_history_frame(candidate, assembled.issuer), HISTORY)
    write_json(folder / "ensemble.json", blend.model_dump(mode="json", exclude_defaults=True))
    write_json(folder / "about.json", about.model_dump(mode="json"))
    for file in ("features.json", "schema.json", "leaks.json"):
        shutil.copyfile(FEATURES_FOLDER / file, folder / file)
    write_sessions(folder, calendar)


if __name__ == "__main__":
    run_stage_command(main)
