"""Writing artifacts: content, atomic replacement, determinism, and use with nothing but NumPy."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sepcompile.codegen import folder as folder_module
from sepcompile.codegen.entry import symbol_name
from sepcompile.codegen.folder import write_folder
from sepcompile.errors import ArtifactError, CompileError
from sepcompile.ir.stages import TensorSpec
from sepcompile.runtime.loader import load, read_manifest, verify

ROOT = Path(__file__).resolve().parents[2]


def content(root: Path) -> dict[str, bytes]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_what_is_in_it(artifact):
    names = set(content(artifact))
    manifest = read_manifest(artifact)
    assert names == {*manifest.files, "manifest.json"}
    assert {"__init__.py", "loader.py", "README.md", "include/conv1.h", "here/libconv1.so"} <= names
    for module in (ROOT / "sepcompile" / "runtime").glob("*.py"):
        assert (artifact / "runtime" / module.name).read_bytes() == module.read_bytes()
    assert (artifact / "here" / "libconv1.so").stat().st_size < 8192
    assert manifest.layer["class_name"] == "SeparableConv1D"
    assert manifest.variants[0].plan.steps[0].symbol == "affine"
    report = verify(artifact)
    assert report.passed and report.files == len(names) - 1


def test_same_bytes_in_two_folders(tmp_path, samples, write_sample):
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import conftest as c; "
    code += "c.write(Path(sys.argv[1]), c.Sample(steps=2))"
    for name, seed in (("a", "1"), ("b/c", "2")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        here = str(Path(__file__).parent)
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), here], env=environment, check=True)
    assert content(tmp_path / "a") == content(tmp_path / "b" / "c")


def test_weights_of_variants_are_stored_once(tmp_path, samples, variant, write_sample):
    sample = samples()
    one = variant(sample, "one")
    packed = {**one.weights, "scale": one.weights["scale"].reshape(2, 4)}
    variants = [one, replace(one, target="two"), replace(one, target="three", weights=packed)]
    path = write_sample(tmp_path / "a", sample, variants=variants)
    keys = [{weight.name: weight.key for weight in v.weights} for v in read_manifest(path).variants]
    assert keys[0] == keys[1] == {"scale": "scale", "shift": "shift"}
    assert keys[2] == {"scale": "scale@three", "shift": "shift"}
    assert verify(path).passed


def test_replaces_an_artifact_whole(tmp_path, samples, write_sample):
    path = write_sample(tmp_path / "a")
    layer, x = load(path), samples().input(1)
    (path / "left over").write_text("")
    write_sample(path, samples(rows=5))
    assert load(path).input_shape == (None, 5, 8)
    assert not (path / "left over").exists()
    np.testing.assert_array_equal(layer(x), samples().expected(x))  # the old library stays mapped
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_replaces_without_an_atomic_exchange(tmp_path, samples, write_sample, monkeypatch):
    monkeypatch.setattr(folder_module, "_exchange", lambda one, other: False)
    path = write_sample(tmp_path / "a")
    write_sample(path, samples(rows=5))
    assert verify(path).passed and load(path).input_shape == (None, 5, 8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_refuses_what_is_no_artifact(tmp_path, write_sample):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("mine", "file"):
        with pytest.raises(ArtifactError, match="is not an artifact"):
            write_sample(tmp_path / name)
    assert content(tmp_path) == {"file": b"precious", "mine/data": b"precious"}
    (tmp_path / "empty").mkdir()
    assert verify(write_sample(tmp_path / "empty")).passed


def test_a_failed_write_leaves_nothing(tmp_path, write_sample, monkeypatch):
    path = write_sample(tmp_path / "a")
    before = content(tmp_path)

    def fail(one: Path, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "_put", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        write_sample(path)
    assert content(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from sepcompile.codegen.folder import write_folder
write = Path.write_bytes
left = int(sys.argv[2])
def slow(self, data):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, data)
Path.write_bytes = slow
write_folder(Path(sys.argv[1]), {f"d{i}/f": b"new" for i in range(4)}, lambda path: True)
"""


def test_killed_writers_leave_the_old_folder(tmp_path):
    target = tmp_path / "out"
    write_folder(target, {"f": b"old"}, lambda path: True)
    for files in range(4):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(target), str(files)], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == -signal.SIGKILL
        assert content(target) == {"f": b"old"}
    assert len(list(tmp_path.iterdir())) == 2, "a writer cleans up after the one before"
    write_folder(target, {"f": b"new"}, lambda path: True)
    assert content(tmp_path) == {"out/f": b"new"}


def test_a_live_writer_is_left_alone(tmp_path):
    with folder_module._locked_folder(tmp_path, ".sepcompile-out-") as folder:
        write_folder(tmp_path / "out", {"f": b"1"}, lambda path: True)
        assert folder.is_dir()
    assert content(tmp_path) == {"out/f": b"1"}


def test_readers_never_see_half(tmp_path):
    """A writer replaces the folder again and again; each file a reader opens through one handle is of one write."""
    target = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from sepcompile.codegen.folder import write_folder\n"
        "for i in range(150): write_folder(Path(sys.argv[1]), {'a': b'%d' % i, 'b': b'%d' % i}, lambda path: True)"
    )
    write_folder(target, {"a": b"x", "b": b"x"}, lambda path: True)
    writer = subprocess.Popen([sys.executable, "-c", code, str(target)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while writer.poll() is None:
        handle = os.open(target, os.O_RDONLY)  # never missing
        try:
            values = set()
            for name in ("a", "b"):
                file = os.open(name, os.O_RDONLY, dir_fd=handle)
                values.add(os.read(file, 10))
                os.close(file)
            assert len(values) == 1
        except FileNotFoundError:
            pass  # the handle's folder was replaced and removed meanwhile
        finally:
            os.close(handle)
        time.sleep(0.001)
    assert writer.returncode == 0


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("conv1", "conv1"),
        ("block_1/sepconv 2", "block_1_sepconv_2"),
        ("3x3", "layer_3x3"),
        ("Features", "layer_Features"),  # glibc's headers include features.h
        ("слой", "layer"),
        ("../../etc", "etc"),
        ("a'\"\n*/`|b", "a_______b"),
    ],
)
def test_names(tmp_path, samples, write_sample, name, symbol):
    assert symbol_name(name) == symbol
    if "\n" in name:
        return
    path = write_sample(tmp_path / "a", samples(), name=name)
    assert load(path).name == name
    assert (path / "include" / f"{symbol}.h").exists()
    for file in path.glob("*.py"):
        ast.parse(file.read_text())


def test_targets_of_any_name(tmp_path, samples, variant, write_sample):
    sample = samples()
    names = ["runtime", "../up", "a b", "a_b", "..", "INCLUDE"]
    path = write_sample(tmp_path / "a", sample, variants=[variant(sample, name) for name in names])
    report = verify(path)
    assert report.passed and [v.target for v in report.variants] == names


def test_what_does_not_fit_together(tmp_path, samples, variant, write_sample):
    sample = samples()
    linked = variant(sample)
    bad = {
        "must be linked as 'conv1'": {"variants": [variant(sample, name="other")]},
        "variants is empty": {"variants": []},
        "JSON": {"layer_info": {"a": object()}},
        "Out of range": {"layer_info": {"a": float("nan")}},
        "x_bytes": {"input": TensorSpec((None, 13, 8), "float32")},
        "twice": {"variants": [linked, linked]},
        "dtype": {"variants": [replace(linked, weights={**linked.weights, "scale": np.zeros(3, complex)})]},
    }
    for words, changes in bad.items():
        with pytest.raises(CompileError, match=words):
            write_sample(tmp_path / "a", sample, **changes)
    assert not list(tmp_path.iterdir())


def test_runs_with_nothing_but_numpy(artifact, tmp_path, samples):
    """A fresh environment into which only NumPy is linked."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    source = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (source / name).exists():
            (site / name).symlink_to(source / name)
    x = samples().input(3)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
import numpy as np
from conv1 import load, verify, InputError
x = np.load(sys.argv[1])
layer = load(selftest=True)
np.save(sys.argv[2], layer(x))
assert verify().passed
try:
    layer(x[0])
    raise SystemExit("not refused")
except InputError:
    pass
foreign = {"tvm", "tvm_ffi", "sepcompile", "jinja2", "ziglang", "safetensors"} & set(sys.modules)
assert not foreign, foreign
"""
    subprocess.run(
        [environment / "bin" / "python", "-I", "-c", f"import sys; sys.path.append({str(artifact.parent)!r})\n{code}",
         tmp_path / "x.npy", tmp_path / "y.npy"], check=True, cwd=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), samples().expected(x))


def test_the_runtime_is_python_39_and_imports_nothing_else():
    allowed = {*sys.stdlib_module_names, "numpy"}
    for path in (ROOT / "sepcompile" / "runtime").glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert str(node.module).split(".")[0] in allowed, path
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), path


def test_manifest_is_sorted_and_has_no_paths_of_this_machine(artifact):
    text = (artifact / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    for name, data in content(artifact).items():
        assert str(artifact.parent).encode() not in data, name
        assert str(ROOT).encode() not in data, name


def test_an_artifact_that_was_compiled_anew_runs_its_new_code(tmp_path, samples, write_sample):
    """In the same folder and the same process, with layers of the old code still in use."""
    for steps, rows in ((1, 12), (2, 12), (1, 5)):
        sample = samples(steps=steps, rows=rows)
        layer = load(write_sample(tmp_path / "conv1", sample), threads=2)
        x = sample.input(2)
        np.testing.assert_array_equal(layer(x), sample.expected(x))
