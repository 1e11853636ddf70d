"""Signatures against RFC 8032 and a library, and loaders that require one."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import sepcompile
from sepcompile import signing
from sepcompile.cli.commands.sign import command as sign_command
from sepcompile.cli.commands.verify import command as verify_command
from sepcompile.errors import ArtifactError, InputError
from sepcompile.runtime import ed25519
from sepcompile.runtime.signature import public_keys

# RFC 8032, section 7.1: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_the_rfcs_vectors(secret: str, public: str, message: str, signature: str) -> None:
    made = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)).sign(bytes.fromhex(message))
    assert made.hex() == signature
    assert ed25519.verify(bytes.fromhex(public), bytes.fromhex(message), made)
    assert not ed25519.verify(bytes.fromhex(public), bytes.fromhex(message) + b"x", made)


def test_what_a_library_signs() -> None:
    rng = random.Random(3)
    for _ in range(12):
        secret = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        public, message = secret.public_key().public_bytes_raw(), rng.randbytes(rng.randrange(200))
        signature = secret.sign(message)
        assert ed25519.verify(public, message, signature)
        bit = rng.randrange(512)
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not ed25519.verify(public, message, bytes(changed))
        other = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)).public_key().public_bytes_raw()
        assert not ed25519.verify(other, message, signature)
        # S + L is the same scalar: a second signature of the same message, which RFC 8032 has refused.
        raised = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
        assert not ed25519.verify(public, message, signature[:32] + raised)


def test_points_that_are_none() -> None:
    signature = bytes.fromhex(VECTORS[0][3])
    off_curve, beyond = (2).to_bytes(32, "little"), (2**255 - 1).to_bytes(32, "little")
    minus_zero = (1 | 1 << 255).to_bytes(32, "little")
    for public in (off_curve, beyond, minus_zero, b"", bytes(31), bytes(33)):
        assert not ed25519.verify(public, b"", signature)
    for wrong in (b"", signature[:63], signature + b"\0"):
        assert not ed25519.verify(bytes.fromhex(VECTORS[0][1]), b"", wrong)


# ---- artifacts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "conv1"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "release.pem"
    return path, signing.new_key(path)


def test_sign_and_require(own: Path, key: tuple[Path, str], tmp_path: Path) -> None:
    path, public = key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ArtifactError, match=f"not signed; a signature by {public} is required"):
        sepcompile.load(own, require_signature=public)
    assert sepcompile.sign(own, path) == public
    pem = Path(f"{path}.pub")
    for given in (public, public.upper(), pem, str(pem), pem.read_text(), [("00" * 32), public]):
        sepcompile.load(own, require_signature=given)
    assert sepcompile.verify(own, require_signature=pem).passed
    sepcompile.load(own)  # a signature that nobody asks for is not looked at
    other = signing.new_key(tmp_path / "other.pem")
    with pytest.raises(ArtifactError, match=f"signed with {public}; a signature by {other} is required"):
        sepcompile.load(own, require_signature=other)


def _manifest(own: Path) -> None:
    path = own / "manifest.json"
    path.write_text(path.read_text().replace('"here"', '"hers"'))


def _library(own: Path) -> None:
    library = next(own.glob("*/lib*.so"))
    library.write_bytes(library.read_bytes()[:-1] + b"x")


def _field(name: str, value: Any) -> Callable[[Path], None]:
    def change(own: Path) -> None:
        path = own / "signature.json"
        document = {**json.loads(path.read_text()), name: value}
        path.write_text(json.dumps({key: item for key, item in document.items() if item is not None}))

    return change


def _link(own: Path) -> None:
    (own / "signature.json").rename(own / "elsewhere.json")
    (own / "signature.json").symlink_to(own / "elsewhere.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_manifest, "the artifact was changed"),
        (_library, "SHA-256|bytes"),
        (_field("signature", "00" * 64), "the artifact was changed"),
        (_field("signature", "zz"), "signature"),
        (_field("public_key", None), "public_key"),
        (_field("algorithm", "none"), "algorithm"),
        (_field("more", 1), "unknown key"),
        (_link, "symbolic link"),
        (lambda own: (own / "signature.json").write_text("[" * 10**5), "signature.json"),
        (lambda own: (own / "signature.json").write_text("{}" + " " * 10**5), "more than"),
        (lambda own: (own / "signature.json").unlink(), "not signed"),
    ],
)
def test_what_is_refused(change: Callable[[Path], None], words: str, own: Path, key: tuple[Path, str]) -> None:
    sepcompile.sign(own, key[0])
    change(own)
    with pytest.raises(ArtifactError, match=words):
        sepcompile.load(own, require_signature=key[1])


@pytest.mark.parametrize("given", ["", "ab", "00" * 31, "missing.pem", [], 7, [b"x"], b"x" * 32, __file__, "a\0b"])
def test_keys_that_are_none(given: Any) -> None:
    with pytest.raises(InputError, match="require_signature"):
        public_keys(given)


def test_secret_keys_that_are_none(own: Path, tmp_path: Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    other = tmp_path / "other.pem"
    other.write_bytes(
        curve.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "none.pem").write_text("no key")
    for path in (other, tmp_path / "none.pem", tmp_path / "missing.pem", tmp_path):
        with pytest.raises(InputError, match="key="):
            sepcompile.sign(own, path)
    signing.new_key(tmp_path / "mine.pem")
    with pytest.raises(InputError, match=r"mine.pem"):
        signing.new_key(tmp_path / "mine.pem")


def test_a_damaged_artifact_is_not_signed(own: Path, key: tuple[Path, str]) -> None:
    _library(own)
    with pytest.raises(ArtifactError):
        sepcompile.sign(own, key[0])
    assert not (own / "signature.json").exists()


def test_the_commands(own: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    secret = str(tmp_path / "k.pem")
    made = run(sign_command, ["--new-key", secret, "--json"])
    assert made.exit_code == 0, made.output
    # A model's folder: every artifact in it.
    folder = tmp_path / "model"
    for name in ("one", "two"):
        shutil.copytree(own, folder / name)
    (folder / "model.json").write_text("{}")
    done = run(sign_command, [str(own), str(folder), "--key", secret])
    assert done.exit_code == 0 and done.output.count("signed") == 3, done.output
    arguments = [str(own), str(folder / "one"), "--require-signature", f"{secret}.pub"]
    assert run(verify_command, arguments).exit_code == 0
    refused = run(verify_command, [str(own), "--require-signature", "00" * 32])
    assert refused.exit_code == 1 and "a signature by" in refused.output
    for wrong in ([str(own)], ["--key", secret], ["--key", "a", "--new-key", "b", str(own)]):
        assert run(sign_command, wrong).exit_code == 2


# ---- who may write -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has these permissions")
@pytest.mark.parametrize("name", [".", "here", "here/libconv1.so", "manifest.json", "runtime", "runtime/loader.py"])
def test_what_everybody_may_write_to_is_not_loaded(name: str, own: Path) -> None:
    place = own / name
    place.chmod(place.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(ArtifactError, match="every user of this machine may write to it; chmod -R o-w"):
        sepcompile.load(own)
    with pytest.raises(ArtifactError, match="every user"):
        sepcompile.verify(own)
    sepcompile.inspect(own)  # reads the manifest alone, and maps nothing


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has a umask")
def test_what_is_written_loads_whatever_the_umask(write_sample: Callable[..., Path], tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = write_sample(tmp_path / "conv1")
    finally:
        os.umask(old)
    sepcompile.load(path)
    assert stat.S_IMODE((path / "manifest.json").stat().st_mode) == 0o664
