"""The signature of a release as a bundle that the tools of OpenSSF model signing verify.

`model.sig` in the release's folder, next to our own signature: an in-toto statement of all files in
a DSSE envelope in a Sigstore bundle, signed with ECDSA on P-256. The service does not read it. The
public key is next to the signing key: `signing.p256.pub`, PEM.
Sources of the formats: in-toto Statement v1, DSSE v1.0.2, Sigstore bundle v0.3, and the predicate
https://model_signing/signature/v1.0.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.edges.artifacts import write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_PAYLOAD_TYPE = "application/vnd.in-toto+json"


def write_bundle(
    path: Path, name: str, files: Mapping[str, str], ignored: list[str], key: "EllipticCurvePrivateKey"
) -> None:
    """Write the bundle of *files* (sha256 by path) to *path*.

    name: of the model. ignored: files of the folder that it is not about.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = json.dumps(_build_statement(name, files, ignored)).encode()
    encoded = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signature = key.sign(encoded, ec.ECDSA(hashes.SHA256()))
    write_json(
        path,
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(public).hexdigest()},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        },
    )


def _build_statement(name: str, files: Mapping[str, str], ignored: list[str]) -> dict[str, object]:
    """The statement; its digest is over the digests of the files in the order of their paths."""
    paths = sorted(files)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[path]) for path in paths))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ignored,
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in paths],
        },
    }
