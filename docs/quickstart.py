"""Runs the code in README.md as it is written there, and compares or rewrites the output that stands beside it.

    python docs/quickstart.py           exit code 1 if the output has changed, other than in its figures
    python docs/quickstart.py --write   rewrite the output

``json`` blocks after "Save this as `NAME`" become files, ``console`` blocks hold commands behind ``$ `` with their
output, a ``python`` block is followed by a ``text`` block with what it prints. All run in one folder, in order.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"```(json|console|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"(?<![A-Za-z_])\d+(\.\d+)?(e[+-]?\d+)?")
UNIT = re.compile(r"# (us|ms|s|B|KB|MB)\b")


def skeleton(text: str) -> str:
    """``text`` without what differs from run to run and from machine to machine: figures, units, target, spacing."""
    text = re.sub(r"x86-64-v\d", "TARGET", text)
    return re.sub(r" +", " ", UNIT.sub("# UNIT", NUMBER.sub("#", text))).strip()


def fill(text: str, folder: Path) -> str:
    """The README's text with the output of a run in ``folder``."""

    def run_block(match: re.Match[str]) -> str:
        kind, body = match[1], match[2]
        if kind == "json":
            _save(text[: match.start()], body, folder)
            return match[0]
        if kind == "console":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            shown = "".join(f"$ {command}\n{run(['bash', '-ec', command], folder)}" for command in commands)
            return f"```console\n{shown}```"
        if match[3] is None:
            raise SystemExit("README.md: a python block has no text block after it")
        printed = run([sys.executable, "-c", body], folder)
        return f"```python\n{body}```\n\n```text\n{printed}```"

    return BLOCK.sub(run_block, text)


def _save(before: str, body: str, folder: Path) -> None:
    names = re.findall(r"Save this as `([\w.]+)`", before)
    (folder / names[-1]).write_text(body, encoding="utf-8")


def run(command: list[str], folder: Path) -> str:
    """What a command prints; ends this program where it fails."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise SystemExit(f"README.md: {command[-1]}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    """Exit code 1 where the output differs and is not rewritten."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        new = fill(text, Path(folder))
    if "--write" in sys.argv[1:]:
        README.write_text(new, encoding="utf-8")
        return 0
    same = skeleton(text) == skeleton(new)
    print("README.md: its output is", "as printed" if same else "out of date")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
