"""What makes a release this release: the hash of each file that the service loads, and one digest.

The digest covers what changes answers and nothing else: no wall time, no run id, no provenance, no
report. Two trainings from the same data, parameters and code give the same digest, on any machine.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import polars as pl
from pydantic import Field, JsonValue, ValidationError

from tasks.core.about import About
from tasks.core.errors import ReleaseError
from tasks.core.frames import SERIES
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.core.versions import ReleaseTraits
from tasks.edges.files import compute_file_hash
from tasks.edges.release_files import MANIFEST, SIGNATURE
from tasks.edges.signatures import check_signature
from tasks.features import FeatureParams
from tasks.release.combine import Ranks, Regime, Weights, build_plain_weights

REQUIRED = ("about.json", "ensemble.json", "features.json", "history.parquet", "rows.parquet", "schema.json")
# Exchange calendars only; promote asks for the leak gate's verdict, a served release has passed it
OPTIONAL = ("sessions.parquet", "leaks.json")
MEMBERS = "members"
GRAPH = "ensemble.onnx"  # all members that convert and, where it does, their combination
Z_HAT, BASES = "z_hat", "bases"  # outputs: of the combination and of each member's own graph; of CQR

S = TypeVar("S", bound=Strict)  # the syntax `def f[S]` needs 3.12


class EnsembleSpec(Strict):
    """ensemble.json: how members become one forecast and quantiles, and from what it was made.

    weights: share of each member, above 0; they combine the members where there is no
      *combination*.
    group: whose residuals a series' quantiles come from: `series`, `regime` or `all`.
    residuals: newest kept for each group and step.
    adapt_rate: how fast quantile levels follow misses.
    stride_steps: distance of the cutoffs from which the quantiles learn.
    seen_until: everything here was fitted, weighted and calibrated on values known by then.
    as_of: newest `known_at` of the data.
    data_version: sha256 of the rows.
    combiner: its name.
    block: residuals so far apart in time count as independent.
    regime: distinguishes the pools where group is `regime`.
    quantile_members: for CQR, by quantile (`0.1`) the members whose forecasts of it are averaged.
    """

    model: str
    weights: dict[str, float]
    quantiles: tuple[float, ...]
    group: str
    residuals: int
    adapt_rate: float
    stride_steps: int
    seen_until: datetime
    as_of: datetime
    dataset: str
    data_version: str
    combiner: str = "weighted"
    combination: Weights | Ranks | None = None
    block: int = 1
    regime: Regime | None = None
    quantile_members: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """Every model that has a part in the forecast or in its quantiles, sorted."""
        return sorted({*self.weights, *(name for names in self.quantile_members.values() for name in names)})

    def list_quantile_members(self) -> list[tuple[str, ...]]:
        """Members of each of *quantiles*; those of another one where it has none of its own."""
        other = next(iter(self.quantile_members.values()))
        return [self.quantile_members.get(f"{q:g}", other) for q in self.quantiles]

    def get_combination(self) -> Weights | Ranks:
        """How members become one forecast, where only weights are written too."""
        return self.combination or build_plain_weights(self.weights)


class Manifest(Strict):
    """manifest.json.

    files: sha256 by path relative to the release, of exactly what the service loads. Those under
      members/ are of members that are not in the one graph.
    traits: what its version follows from; None in one that was built before there were traits.
    """

    digest: str
    dataset: str
    model: str
    seen_until: datetime
    as_of: datetime
    data_version: str
    files: dict[str, str]
    traits: ReleaseTraits | None = None


def get_member_output(name: str) -> str:
    """The output of the member *name* in the one graph."""
    return f"{Z_HAT}_{name}"


def write_manifest(folder: Path, parameters: Mapping[str, JsonValue] | None = None) -> Manifest:
    """Write manifest.json for the release in *folder*, from what its files hold.

    parameters: of its members and of the ensemble, which no file has.
    Raises ReleaseError that names the first file that a release must have and this folder has not.
    """
    manifest = _build_manifest(folder, parameters or {})
    (folder / MANIFEST).write_text(
        json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    )
    return manifest


def check_manifest(folder: Path) -> Manifest:
    """Compute everything again and compare; of a signed release every other file, too.

    Raises ReleaseError that names the first missing, altered or added file, or the signature.
    """
    sealed = read_manifest(folder)
    present = set(list_covered_files(folder))
    if missing := sorted(set(sealed.files) - present):
        raise ReleaseError(
            f"{folder}: {missing[0]} is missing, but the manifest lists it. Take the release again from where"
            " it was built; `dvc repro package` builds it."
        )
    if added := sorted(present - set(sealed.files)):
        raise ReleaseError(
            f"{folder}: {added[0]} was added after the release was sealed. Remove it, or build the release"
            " again with `dvc repro package`."
        )
    for name, expected in sorted(sealed.files.items()):
        if (found := compute_file_hash(folder / name)) != expected:
            raise ReleaseError(
                f"{folder}: {name} was altered: its sha256 is {found[:12]}, in the manifest {expected[:12]}."
                " Take the release again from where it was built."
            )
    again = _build_manifest(folder, {} if sealed.traits is None else sealed.traits.parameters)
    if sealed.traits is None:
        again = again.model_copy(update={"traits": None})
    if again != sealed:
        raise ReleaseError(
            f"{folder}: manifest.json was altered: its files give digest {again.digest[:12]} and traits of"
            f" their own, not {sealed.digest[:12]} and the sealed ones. Take the release again."
        )
    if (folder / SIGNATURE).exists():
        check_signature(folder)
    return sealed


def read_manifest(folder: Path) -> Manifest:
    """The manifest as it is written, nothing checked against it.

    Raises ReleaseError when there is none or it cannot be read.
    """
    return read_strict(folder / MANIFEST, Manifest)


def list_covered_files(folder: Path) -> list[str]:
    """Paths of the files that the digest covers, sorted.

    Everything under members/ counts, so nothing can hide there.
    """
    plain = [name for name in (*REQUIRED, *OPTIONAL, GRAPH) if (folder / name).is_file()]
    members = [
        path.relative_to(folder).as_posix() for path in (folder / MEMBERS).rglob("*") if not path.is_dir()
    ]
    return sorted(plain + members)


def read_strict(path: Path, kind: type[S]) -> S:
    """A JSON file of the release as its typed object.

    Raises ReleaseError that names file and fault.
    """
    if not path.is_file():
        raise ReleaseError(
            f"{path} is missing. `dvc repro ensemble` builds an unsealed one, `dvc repro package` seals it."
        )
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ReleaseError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}. It was altered, or"
            " written by another version; build it again."
        ) from error


def _build_manifest(folder: Path, parameters: Mapping[str, JsonValue]) -> Manifest:
    files = list_covered_files(folder)
    if missing := [name for name in REQUIRED if name not in files]:
        raise ReleaseError(
            f"{folder}: {missing[0]} is missing; a release needs {', '.join(REQUIRED)} and its graphs."
            " `dvc repro package` builds it."
        )
    ensemble = read_strict(folder / "ensemble.json", EnsembleSpec)
    schema = read_strict(folder / "schema.json", FeatureSchema)
    hashes = {name: compute_file_hash(folder / name) for name in files}
    content = {
        "files": hashes,
        "schema": schema.hash,
        "data_version": ensemble.data_version,
        # So a release that is older than a key keeps its digest
        "parameters": ensemble.model_dump(mode="json", exclude_defaults=True),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Manifest(
        digest=digest,
        files=hashes,
        traits=_build_traits(folder, schema, ensemble, parameters),
        **{k: getattr(ensemble, k) for k in ("dataset", "model", "seen_until", "as_of", "data_version")},
    )


def _build_traits(
    folder: Path, schema: FeatureSchema, ensemble: EnsembleSpec, parameters: Mapping[str, JsonValue]
) -> ReleaseTraits:
    about = read_strict(folder / "about.json", About)
    target = about.target.model_dump(mode="json")
    promised = {"column", "unit", "kind", "derive", "integer"}
    features = read_strict(folder / "features.json", FeatureParams)
    rows = pl.read_parquet_schema(folder / "rows.parquet")
    return ReleaseTraits(
        interface={
            "target": {name: value for name, value in target.items() if name in promised},
            "horizon_steps": schema.horizon_steps,
            "levels": list(ensemble.quantiles),
            **about.model_dump(mode="json", include={"every", "calendar", "integer_time"}),
            "columns": {name: str(kind) for name, kind in rows.items() if name not in SERIES.columns},
        },
        model={
            "members": list[JsonValue](ensemble.members),
            "combined by": ensemble.combiner,
            "quantiles": ensemble.model_dump(
                mode="json", include={"group", "residuals", "adapt_rate", "quantile_members"}
            ),
            "transform": {name: value for name, value in target.items() if name not in promised},
            "features": [c.name if c.code is None else f"{c.name} ({c.code[:12]})" for c in schema.columns],
            "feature inputs": features.model_dump(mode="json", exclude={"list", "leaks", "centres"}),
        },
        parameters=dict(parameters),
    )
