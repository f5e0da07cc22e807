"""What a release contains and what its service requires, as a CycloneDX document (an SBOM).

`sbom.cdx.json` next to the manifest: each sealed file with its sha256, and each package of the
Bento's lock with the hashes of its files, its platforms and what requires it. Two packages of the
same release and lock have the same document, but for the time.
Source of the format: CycloneDX 1.6 (ECMA-424).
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement

from tasks.release import Manifest

SBOM_NAME = "sbom.cdx.json"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class LockedPackage(NamedTuple):
    """One package of a lock.

    is_direct: the requirements name it. requirers: packages that require it. files: sha256 of each.
    """

    name: str
    version: str
    marker: str
    files: tuple[str, ...]
    is_direct: bool
    requirers: tuple[str, ...]


def render_sbom(manifest: Manifest, lock: str, built_at: datetime) -> str:
    """The document of the release with *manifest*, as JSON.

    lock: text of the Bento's requirements with hashes.
    """
    release = Component(
        name=manifest.dataset,
        version=manifest.digest,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="release",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=manifest.digest)],
        components=_build_files(manifest.files),
    )
    components = {package: _build_package(package) for package in read_lock(lock)}
    bom = Bom(
        components=components.values(),
        metadata=BomMetaData(component=release, timestamp=built_at),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"tidemill:{manifest.digest}:{lock}"),
    )
    bom.register_dependency(release, [part for package, part in components.items() if package.is_direct])
    for package, component in components.items():
        required = [part for other, part in components.items() if package.name in other.requirers]
        bom.register_dependency(component, required)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def read_lock(lock: str) -> Iterator[LockedPackage]:
    """The packages of a lock as `uv pip compile` writes it."""
    for entry in re.split(r"\n(?=\w)", lock):
        head, _, via = entry.partition("# via")
        if not head.strip() or head.startswith("#"):
            continue
        requirement = Requirement(head.split("\\")[0])
        requirers = re.findall(r"[\w.-]+", re.sub(r"-[cr] \S+", "", via))
        (specifier,) = requirement.specifier
        yield LockedPackage(
            requirement.name,
            specifier.version,
            str(requirement.marker or ""),
            tuple(_HASH.findall(head)),
            "-r " in via,
            tuple(requirers),
        )


def _build_files(files: Mapping[str, str]) -> list[Component]:
    return [
        Component(
            name=path,
            type=ComponentType.FILE,
            bom_ref=f"file:{path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        )
        for path, digest in sorted(files.items())
    ]


def _build_package(package: LockedPackage) -> Component:
    """A package as a component; its files are its distributions, whichever is installed."""
    address = PackageURL("pypi", None, package.name, package.version)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.files]
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(address),
        purl=address,
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(str(address)), hashes=hashes)
        ],
        properties=[Property(name="tidemill:platforms", value=package.marker)] if package.marker else [],
    )
