"""Transfer: the fit of another dataset, or of an earlier training, that a model goes on from."""

import json

from tasks.core.errors import FoldError, ForecasterError, FrameError
from tasks.core.reports.train import FitReport
from tasks.core.schema import FeatureSchema
from tasks.edges.artifacts import read_report
from tasks.edges.settings import ROOT
from tasks.train.fits import FitContext, encode_fit
from tasks.train.plan import FitPlan


def load_starting_fit(folder_name: str, context: FitContext, plan: FitPlan) -> bytes:
    """The fit in *folder_name*, as train writes it in models/fits/<model>.

    folder_name: relative ones count from the checkout.
    Raises ForecasterError when there is none, or one of another kind or other columns; FoldError
    when it has seen what our first fit must not.
    """
    folder, kind = ROOT / folder_name, type(context.build())
    try:
        described = json.loads((folder / "forecaster.json").read_text())
        seen_until = read_report(folder / "fit.json", FitReport).seen_until
    except (OSError, ValueError, FrameError) as error:
        raise ForecasterError(
            f"`start_from: {folder_name}` holds no fit: {error}. Name a folder that train wrote,"
            " models/fits/<model>."
        ) from error
    fit = kind.load(folder)  # refuses one of another kind by itself
    theirs, ours = FeatureSchema.model_validate(described["schema"]), context.panel.schema
    if theirs != ours:
        only = {
            "there": sorted(set(theirs.names) - set(ours.names)),
            "here": sorted(set(ours.names) - set(theirs.names)),
        }
        other = [
            name
            for name in FeatureSchema.model_fields
            if name != "columns" and getattr(theirs, name) != getattr(ours, name)
        ]
        raise ForecasterError(
            f"`start_from: {folder_name}` was fitted on other columns: only there {only['there'][:8]}, only"
            f" here {only['here'][:8]}{f', and {other} differ' if other else ''}. Declare the same"
            " `features`, horizon and season for both datasets."
        )
    first = context.panel.cutoff[min(plan.origins)]
    if seen_until > first:
        raise FoldError(
            f"`start_from: {folder_name}` has seen everything until {seen_until.isoformat()}, and the first"
            f" fit is as of {first.isoformat()}: its forecasts would not be out of sample. Train the other"
            " with a larger `promote.gate_steps`, or lower `train.n_cutoffs` here."
        )
    return encode_fit(fit)
