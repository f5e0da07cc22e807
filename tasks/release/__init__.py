"""The one inference path: verify, load, predict. Explain, the parity check, promote and the service all answer through it.

In: a body (models/challenger/*) or a sealed release (models/release), and rows. Out: forecasts with quantiles in the target's unit.
Promised: polars, numpy and onnxruntime alone; a forecast is a pure function of the release, the cutoff and the rows known by it.
"""

from tasks.release.load import Release, load, open_body
from tasks.release.manifest import Blend, Manifest, seal, verify
from tasks.release.predict import forecasts, why_absent, z_hat

__all__ = ["Blend", "Manifest", "Release", "forecasts", "load", "open_body", "seal", "verify", "why_absent", "z_hat"]
