"""Signatures of promoted releases: ed25519 over the hashes of all of their files.

`signature.json` in the release's folder. The key is a file that its owner alone can read, made at
the first signature; next to it, with the ending `.pub`, are the public keys that are trusted. A
second signature (`model_signing`) is for the tools of others.
Source of the algorithm: RFC 8032.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.core.errors import ReleaseError, SettingsError
from tasks.core.strict import Strict
from tasks.edges.artifacts import write_json, write_text
from tasks.edges.files import compute_file_hash, write_private_file
from tasks.edges.model_signing import write_bundle
from tasks.edges.release_files import BUNDLE, SIGNATURE, compute_release_hashes, find_changed_file
from tasks.edges.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


class ReleaseSignature(Strict):
    """signature.json.

    files: sha256 by path, of all files but this one.
    public_key, signature: hex. The signature is of the canonical JSON of *files*.
    """

    files: dict[str, str]
    public_key: str
    signature: str


def sign_release(folder: Path) -> str:
    """Sign all files of the release in *folder*; the public key, hex.

    Raises SettingsError when a key is of another kind, or others can read it.
    """
    key = _read_key()
    public = key.public_key().public_bytes_raw().hex()
    _trust_own_key(public)
    (folder / BUNDLE).unlink(missing_ok=True)
    files = compute_release_hashes(folder)
    files[BUNDLE] = _write_bundle(folder, files)
    signed = ReleaseSignature(files=files, public_key=public, signature=key.sign(_encode(files)).hex())
    write_json(folder / SIGNATURE, signed.model_dump())
    return public


def get_bundle_key_path() -> Path:
    """The public key, PEM, by which other tools verify the bundle of a release."""
    return _get_key_path().with_suffix(".p256.pub")


def _write_bundle(folder: Path, files: Mapping[str, str]) -> str:
    """Write the bundle of *files* into *folder*; its sha256."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = _get_key_path().with_suffix(".p256")
    key = _read_private_key(path, lambda: ec.generate_private_key(ec.SECP256R1()))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise SettingsError(f"{path} is no key on P-256. Remove it, and a new one is made.")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not get_bundle_key_path().exists() or get_bundle_key_path().read_bytes() != public:
        write_text(get_bundle_key_path(), public.decode())
    write_bundle(folder / BUNDLE, folder.name, files, [BUNDLE, SIGNATURE], key)
    return compute_file_hash(folder / BUNDLE)


def find_signer(folder: Path) -> str | None:
    """The public key by which the release in *folder* says that it is signed; None without one."""
    path = folder / SIGNATURE
    return json.loads(path.read_text())["public_key"] if path.exists() else None


def check_signature(folder: Path) -> None:
    """Check that the release in *folder* has exactly the files that were signed, by a trusted key.

    Where no key is trusted (a machine that has neither TIDEMILL_TRUSTED_KEYS nor a signing key) the
    files alone are compared.
    Raises ReleaseError with the file, the link, or the key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    way_out = "Take the release again from where it was promoted, or go to another one that is kept."
    try:
        found = ReleaseSignature.model_validate_json((folder / SIGNATURE).read_bytes())
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
        public.verify(bytes.fromhex(found.signature), _encode(found.files))
    except (OSError, ValueError, ValidationError, InvalidSignature) as error:
        fact = str(error) or "the signature is not that of its files"
        raise ReleaseError(f"{folder}: {SIGNATURE} does not hold: {fact}. {way_out}") from error
    trusted = _list_trusted_keys()
    if trusted and found.public_key not in trusted:
        raise ReleaseError(
            f"{folder}: it is signed by the key {found.public_key[:16]}, which is not trusted here. Add it to"
            f" {_get_trusted_path()} if it is yours. {way_out}"
        )
    if (change := find_changed_file(found.files, compute_release_hashes(folder))) is not None:
        raise ReleaseError(f"{folder}: {change} after the release was signed. {way_out}")


def _encode(files: Mapping[str, str]) -> bytes:
    return json.dumps(dict(files), sort_keys=True, separators=(",", ":")).encode()


def _read_key() -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _read_private_key(_get_key_path(), Ed25519PrivateKey.generate)
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"{_get_key_path()} is no ed25519 key. `openssl genpkey -algorithm ed25519` makes one; or remove"
            " it, and a new one is made."
        )
    return key


def _read_private_key(
    path: Path, generate: "Callable[[], Ed25519PrivateKey | EllipticCurvePrivateKey]"
) -> "PrivateKeyTypes":
    """The key in *path*, made by *generate* on first use with rights for its owner alone."""
    from cryptography.hazmat.primitives import serialization

    if not path.exists():
        made = generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private_file(path, made.decode().strip())
    if path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{path} can be read by others than its owner, who could sign releases with it. `chmod 600"
            f" {path}`, or set TIDEMILL_SIGNING_KEY to another key."
        )
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{path} is no private key as PEM without a password ({error}). Remove it, and a new one is made;"
            " or set TIDEMILL_SIGNING_KEY."
        ) from error


def _trust_own_key(public: str) -> None:
    """Add the public part of the signing key, unless the trusted keys are a file of the user's."""
    if read_settings().trusted_keys is None and public not in (known := _list_trusted_keys()):
        write_text(_get_trusted_path(), "".join(f"{key}\n" for key in (*known, public)))


def _list_trusted_keys() -> list[str]:
    path = _get_trusted_path()
    if not path.exists():
        if read_settings().trusted_keys is not None:
            raise SettingsError(f"TIDEMILL_TRUSTED_KEYS is {path}, which is not there. Correct the path.")
        return []
    return path.read_text().split()


def _get_key_path() -> Path:
    return read_settings().signing_key or read_settings().home / "signing.key"


def _get_trusted_path() -> Path:
    return read_settings().trusted_keys or _get_key_path().with_suffix(".pub")
