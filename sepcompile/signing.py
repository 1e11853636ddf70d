"""Signs artifacts (Ed25519), for loaders that require it; the arithmetic on the secret key is ``cryptography``'s."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcompile.errors import ArtifactError, InputError
from sepcompile.runtime.files import check_file, read_bounded
from sepcompile.runtime.manifest import MANIFEST, MOST_BYTES, parse_manifest
from sepcompile.runtime.signature import ALGORITHM, CONTEXT, FORMAT, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> str:
    """Signs the artifact in the folder ``path`` with the secret key in the PEM file ``key``; returns the public key.

    Every file is checked against the manifest first. The signature is a file of the artifact, ``signature.json``; a
    compile that replaces the artifact takes it away. Raises ``ArtifactError`` for an artifact that is damaged or cannot
    be written, and ``InputError`` for a key that cannot be read or a missing ``cryptography`` package.
    """
    secret = _secret_key(Path(key))
    root = Path(path).resolve()
    data = read_bounded(root, MANIFEST, MOST_BYTES)
    for entry in parse_manifest(data, root).files.values():
        check_file(root, entry)
    public_key = secret.public_key().public_bytes_raw().hex()
    document = {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "public_key": public_key,
        "signature": secret.sign(CONTEXT + data).hex(),
    }
    try:
        _replace(root / SIGNATURE, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise ArtifactError(f"{root / SIGNATURE}: cannot be written: {error.strerror or error}") from error
    return public_key


def new_key(path: str | os.PathLike[str]) -> str:
    """Makes a secret key: the PEM file ``path``, readable by its owner alone, and ``path`` + ``.pub`` for loaders.

    Returns the public key as hexadecimal digits. Raises ``InputError``, also where one of the files exists.
    """
    from cryptography.hazmat.primitives import serialization as pem

    secret = _ed25519().Ed25519PrivateKey.generate()
    private = secret.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = secret.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    for place, content, mode in ((Path(path), private, 0o600), (Path(f"{os.fspath(path)}.pub"), public, 0o644)):
        try:
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except (OSError, ValueError) as error:
            raise InputError(f"{place}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return str(secret.public_key().public_bytes_raw().hex())


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError("signing needs the package cryptography: pip install 'sepcompile[sign]'") from error
    return ed25519


def _secret_key(path: Path) -> Ed25519PrivateKey:
    kind = _ed25519().Ed25519PrivateKey
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InputError(f"key={str(path)!r}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"key={str(path)!r}: not the PEM of an Ed25519 key without a password: {error}") from error
    if not isinstance(found, kind):
        raise InputError(f"key={str(path)!r}: a key of another kind; expected Ed25519")
    key: Ed25519PrivateKey = found
    return key


def _replace(path: Path, text: str) -> None:
    """Readers find the old file or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
