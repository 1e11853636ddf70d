"""Bad input: one line on standard error, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sepcompile.cli.output import safe

from .conftest import ENTRY, LAYER

GOOD = ("compile", "layer.json", "--input-shape", "None,6,5,4")
BAD = {
    "no layer": ("compile",),
    "unknown command": ("frobnicate",),
    "unknown option": (*GOOD, "--fast"),
    "missing file": ("compile", "missing.json"),
    "not JSON": ("compile", "{", "--input-shape", "None,6,5,4"),
    "not a layer": ("compile", "[1]", "--input-shape", "None,6,5,4"),
    "no shape": ("compile", "layer.json"),
    "words for a shape": ("compile", "layer.json", "--input-shape", "1,two"),
    "digits that are not ASCII": ("compile", "layer.json", "--input-shape", "1,6,5,٤"),
    "negative size": ("compile", "layer.json", "--input-shape=None,-6,5,4"),
    "unknown target": (*GOOD, "--target", "pentium"),
    "empty target": (*GOOD, "--target", "native,"),
    "missing target file": (*GOOD, "--target", "mine.toml"),
    "missing weights": (*GOOD, "--weights", "w.npz"),
    "bad version": (*GOOD, "--keras-version", "banana"),
    "missing schedule": (*GOOD, "--schedule", "s.json"),
    "schedule of no object": (*GOOD, "--schedule", "list.json"),
    "unknown knob": (*GOOD, "--schedule", "layer.json"),
    "negative seed": (*GOOD, "--seed=-1"),
    "output is a file": (*GOOD, "--output", "layer.json"),
    "output below a file": (*GOOD, "--output", "layer.json/a"),
    "output is no artifact": (*GOOD, "--output", "full"),
    "run nothing": ("run", "missing"),
    "run a file": ("run", "layer.json"),
    "verify nothing": ("verify",),
    "verify a folder": ("verify", "full"),
    "verify a null": ("verify", "x" * 5000),
    "inspect a folder": ("inspect", "full"),
    "inspect missing": ("inspect", "missing.json"),
    "unknown target shown": ("targets", "pentium"),
    "unknown network": ("demo", "--network", "vgg"),
}


def one_line(done, code=2):
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("sepcompile: error: ") and done.stderr.endswith("\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr[:-1].isprintable(), ascii(done.stderr)
    return done.stderr


@pytest.mark.parametrize("case", BAD)
def test_bad_input(cli, tmp_path, case):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "list.json").write_text("[]")
    before = sorted(tmp_path.rglob("*"))
    one_line(cli(*BAD[case]))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--input", "layer.json"),
        ("run", "--input", "missing.npy"),
        ("run", "--input", "wrong.npy"),
        ("run", "--input", "objects.npy"),
        ("run", "--input", "huge.npy"),
        ("run", "--input", "integers.npy"),
        ("run", "--output", "missing/y.npy"),
        ("run", "--threads", "0"),
        ("run", "--batch", "99999999999999"),
        ("run", "--variant", "pentium"),
        ("run", "--repeat", "2", "--benchmark"),
        ("inspect", "--asm"),
        ("inspect", "--target", "pentium"),
        ("inspect", "--input-shape", "1,6,5,4"),
    ],
)
def test_bad_input_beside_an_artifact(cli, conv1, tmp_path, arguments):
    np.save(tmp_path / "wrong.npy", np.zeros((1, 6, 5, 3), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "integers.npy", np.zeros((1, 6, 5, 4), np.int32))
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6,) * 3}
    with (tmp_path / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    command, *options = arguments
    one_line(cli(command, conv1, *options))


def test_a_user_error_names_the_field(cli):
    wrong = json.dumps({**LAYER, "config": {**LAYER["config"], "dilation_rate": 0}})
    assert "dilation_rate" in one_line(cli("compile", "-", "--input-shape", "None,6,5,4", stdin=wrong))


def test_hostile_names_are_escaped(cli):
    name = "\x1b[31mred\r\n\x9b2J\u202eevil [bold]x[/bold]"
    wrong = json.dumps({**LAYER, "config": {**LAYER["config"], "name": name, "padding": name}})
    one_line(cli("compile", "-", "--input-shape", "None,6,5,4", stdin=wrong))
    one_line(cli("verify", "\x1b[31m\n\u202e"))
    one_line(cli("compile", os.fsdecode(b"\xff\xfe.json")))
    right = json.dumps({**LAYER, "config": {**LAYER["config"], "name": name}})
    for arguments in (("compile", "-", "--output", "named"), ("inspect", "-"), ("inspect", "-", "--asm")):
        done = cli(*arguments, "--input-shape", "None,6,5,4", stdin=right)
        assert all(c.isprintable() or c in "\n\t" for c in done.stdout + done.stderr), ascii(done.stdout)
    for command in ("run", "verify", "inspect"):
        done = cli(command, "named")
        assert done.returncode == 0, done.stderr
        assert all(c.isprintable() or c == "\n" for c in done.stdout)


def test_safe():
    assert safe("a\tb\n\x00\x7f\x9b\u202e\ud800é漢") == r"a\tb\n\x00\x7f\x9b\u202e\ud800é漢"


def test_output_that_cannot_be_encoded(cli):
    named = json.dumps({**LAYER, "config": {**LAYER["config"], "name": "漢"}})
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = cli("inspect", "-", "--input-shape", "None,6,5,4", stdin=named, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"\u6f22" in done.stdout


def test_a_bug_is_told_in_one_line(cli, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sepcompile.targets as t\nt.list_targets = lambda: 1 / 0\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    assert "internal: ZeroDivisionError" in one_line(cli("targets", env=environment), code=1)
    traced = cli("targets", env={**environment, "SEPCOMPILE_TRACEBACK": "1"})
    assert traced.returncode == 1 and "Traceback" in traced.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("targets",), ("inspect", "CONV1", "--json")])
def test_broken_pipe_is_quiet(conv1, arguments):
    arguments = [str(conv1) if argument == "CONV1" else argument for argument in arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", ENTRY, *arguments], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_full_disk(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, "targets"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == "sepcompile: error: output: No space left on device\n"


def test_interrupt(tmp_path):
    """Ctrl-C reaches the whole process group: 130, quietly, and no process stays behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY, "demo", "--output", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"[1/")  # it is at work
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == b"" and b"Traceback" not in stderr, stderr
    for _ in range(50):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process of the command still runs")
