"""``sepcompile sign``."""

from __future__ import annotations

from pathlib import Path

import click

from sepcompile.cli import options, output


@click.command("sign", short_help="Sign artifacts, or make a key to sign with.")
@click.argument("artifacts", metavar="[ARTIFACT]...", nargs=-1)
@click.option("--key", metavar="FILE", help="The secret key: Ed25519 in PEM, without a password.")
@click.option("--new-key", metavar="FILE", help="Make a key first: FILE is secret, FILE.pub is for loaders.")
@options.json_option
def command(artifacts: tuple[str, ...], key: str | None, new_key: str | None, as_json: bool) -> None:
    """Sign each ARTIFACT, or every artifact of a model's folder, so that loaders may require it.

    \b
    Example:
      sepcompile sign --new-key release.pem
      sepcompile sign build/conv1 --key release.pem
      sepcompile verify build/conv1 --require-signature release.pem.pub
    """
    if (key is None) == (new_key is None):
        raise click.UsageError("expected either --key or --new-key")
    if key is not None and not artifacts:
        raise click.UsageError("Missing argument '[ARTIFACT]...'.")
    from sepcompile import signing

    public_key = "" if new_key is None else signing.new_key(new_key)
    secret = key if key is not None else str(new_key)
    signed = []
    for artifact in artifacts:
        for folder in options.artifact_folders(artifact):
            public_key = signing.sign(Path(folder), secret)
            signed.append(folder)
    if as_json:
        output.say_json({"public_key": public_key, "signed": signed})
    else:
        output.fields([("public key", public_key), *(("signed", folder) for folder in signed)])
