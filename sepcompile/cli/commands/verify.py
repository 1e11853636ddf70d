"""``sepcompile verify``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import options, output
from sepcompile.errors import ArtifactError

if TYPE_CHECKING:
    from sepcompile.runtime.results import VariantReport, VerifyReport


@click.command("verify", short_help="Check artifacts and run their self-tests.")
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True)
@click.option(
    "--require-signature", "keys", multiple=True, metavar="KEY", help="A public key, or its PEM file; repeatable."
)
@options.json_option
@click.pass_context
def command(ctx: click.Context, artifacts: tuple[str, ...], keys: tuple[str, ...], as_json: bool) -> None:
    """Check each ARTIFACT, or every artifact of a model's folder: all its files, and the self-test of each variant that
    this machine can run.

    With --require-signature, also that the holder of one of the keys signed it.

    The exit code is 1 if an artifact is damaged, a self-test fails, or none of its variants runs here.

    \b
    Example:
      sepcompile verify build/conv1 build/conv2
      sepcompile verify build/ --require-signature release.pem.pub
    """
    artifacts = tuple(folder for path in artifacts for folder in options.artifact_folders(path))
    for path in artifacts:
        _require_artifact(path)
    results = []
    with output.progress(len(artifacts), quiet=as_json or len(artifacts) == 1) as step:
        for path in artifacts:
            step(path)
            results.append(_verify(path, keys))
    if as_json:
        output.say_json(results)
    else:
        for result in results:
            _print_text(result)
    ctx.exit(0 if all(result["passed"] for result in results) else 1)


def _require_artifact(path: str) -> None:
    """A path that is no artifact is a mistake in the command, not a failed check."""
    try:
        found = (Path(path) / "manifest.json").is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise ArtifactError(f"{path!r}: not an artifact (a folder with manifest.json)")


def _verify(path: str, keys: tuple[str, ...]) -> dict[str, Any]:
    from sepcompile import api

    try:
        return {"path": path, "error": None} | _as_dict(api.verify(path, require_signature=keys or None))
    except ArtifactError as error:
        return {"path": path, "error": str(error), "name": None, "passed": False, "variants": []}


def _as_dict(report: VerifyReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "passed": report.passed,
        "files": report.files,
        "bytes": report.nbytes,
        "variants": [{**asdict(variant), "result": _result(variant)} for variant in report.variants],
    }


def _result(variant: VariantReport) -> str:
    if variant.missing:
        return "not run"
    return "passed" if variant.selftest is not None and not variant.problem else "failed"


def _print_text(result: dict[str, Any]) -> None:
    word = "passed" if result["passed"] else "FAILED"
    if result["error"] is not None:
        output.say(f"{result['path']}: {word}: {result['error']}")
        return
    output.say(f"{result['path']}: {word} ({result['files']} files, {output.size(result['bytes'])})")
    for variant in result["variants"]:
        output.say(f"  {variant['target']}: {variant['result']}{_details(variant)}")
    if all(variant["for_c"] for variant in result["variants"]):
        output.say("  its files are intact; no machine with Python runs it")
    elif all(variant["result"] == "not run" for variant in result["variants"]):
        output.say("  its files are intact, but this machine runs none of its variants")


def _details(variant: dict[str, Any]) -> str:
    if variant["for_c"]:
        return ", for C programs on microcontrollers"
    if variant["missing"]:
        return f", this machine lacks {' '.join(variant['missing'])}"
    test = variant["selftest"]
    if test is None:
        return f": {variant['problem']}"
    return f", largest error {test['max_error']:.3g} ({test['worst']:.3g} of tolerance), {test['elements']} elements"
