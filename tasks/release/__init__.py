"""The one inference path: verify, load, predict.

Explain, the parity check, promote and the service all answer through it. In: a body
(models/challenger/*) or a sealed release (models/release), and rows. Out: forecasts with quantiles
in the target's unit. Promised: polars, numpy and onnxruntime alone; a forecast is a pure function
of the release, the cutoff and the rows known by it.
"""

from tasks.release.load import Release, load_release, load_unsealed_release
from tasks.release.manifest import EnsembleSpec, Manifest, check_manifest, write_manifest
from tasks.release.origins import select_relevant_rows
from tasks.release.outputs import predict_ensemble
from tasks.release.predict import find_absence_reasons, make_forecasts, predict_cutoffs

__all__ = [
    "EnsembleSpec",
    "Manifest",
    "Release",
    "check_manifest",
    "find_absence_reasons",
    "load_release",
    "load_unsealed_release",
    "make_forecasts",
    "predict_cutoffs",
    "predict_ensemble",
    "select_relevant_rows",
    "write_manifest",
]
