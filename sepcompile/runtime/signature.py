"""Who signed an artifact. The signature is of the manifest, which holds the digest of every other file."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from . import ed25519
from .errors import ArtifactError, InputError
from .fields import Fields, parse_json
from .files import read_bounded

SIGNATURE = "signature.json"
FORMAT, ALGORITHM = "sepcompile-signature", "ed25519"
CONTEXT = b"sepcompile artifact manifest\0"
"""Goes before the manifest in what is signed, so that no signature made for something else counts here."""
_PEM = r"-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END PUBLIC KEY-----"
_PREFIX = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4)
_HEX_KEY, _HEX_SIGNATURE = r"[0-9a-f]{64}", r"[0-9a-f]{128}"
_MOST_BYTES = 1 << 16

PublicKey = Union[str, "os.PathLike[str]"]


def public_keys(given: PublicKey | Sequence[PublicKey] | None) -> tuple[bytes, ...]:
    """The keys that ``require_signature`` names: 64 hexadecimal digits, a PEM text or a PEM file's path, or several.

    Raises ``InputError``.
    """
    if given is None:
        return ()
    items = [given] if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(items, (list, tuple)) or not items:
        raise InputError(f"require_signature={given!r:.100}: expected a public key, or a list of them")
    return tuple(_public_key(item) for item in items)


def _public_key(given: object) -> bytes:
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise InputError(f"require_signature={given!r:.100}: expected a public key as text, or the path of its file")
    if re.fullmatch(_HEX_KEY, text.lower()):
        return bytes.fromhex(text)
    where = "require_signature"
    if "-----BEGIN" not in text:
        where = f"require_signature={text!r:.200}"
        try:
            with Path(text).open("rb") as file:
                text = file.read(_MOST_BYTES).decode("ascii", "replace")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{where}: neither 64 hexadecimal digits nor a readable file: {reason}") from error
    found = re.search(_PEM, text)
    try:
        data = base64.b64decode(found.group(1), validate=False) if found else b""
    except binascii.Error:
        data = b""
    if len(data) != len(_PREFIX) + 32 or not data.startswith(_PREFIX):
        raise InputError(f"{where}: not the PEM of an Ed25519 public key")
    return data[len(_PREFIX) :]


def check_signature(root: Path, manifest: bytes, keys: Sequence[bytes]) -> None:
    """Raises ``ArtifactError`` unless the artifact's manifest is signed with one of ``keys``."""
    wanted = ", ".join(key.hex() for key in keys)
    if not os.path.lexists(root / SIGNATURE):
        raise ArtifactError(f"{root}: not signed; a signature by {wanted} is required")
    where = str(root / SIGNATURE)
    fields = Fields(parse_json(read_bounded(root, SIGNATURE, _MOST_BYTES), where), where)
    for key, value in (("format", FORMAT), ("algorithm", ALGORITHM)):
        fields.text(key, re.escape(value))
    public_key = bytes.fromhex(fields.text("public_key", _HEX_KEY))
    signature = bytes.fromhex(fields.text("signature", _HEX_SIGNATURE))
    fields.done()
    if public_key not in keys:
        raise ArtifactError(f"{where}: signed with {public_key.hex()}; a signature by {wanted} is required")
    if not ed25519.verify(public_key, CONTEXT + manifest, signature):
        raise ArtifactError(f"{where}: the signature is not one of this manifest; the artifact was changed")
