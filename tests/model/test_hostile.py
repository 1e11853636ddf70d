"""The published attacks on Keras files, each against every reader it applies to: typed errors, and nothing is run."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError, WeightError
from sepcompile.frontend.hdf5 import File
from sepcompile.frontend.model import read_model, report
from sepcompile.frontend.model.archive import FLOOR

PROBE = "sepcompile_attack_probe"


@pytest.fixture(scope="module")
def model() -> Any:
    x = given = keras.Input((6, 6, 3), name="img")
    x = layers.DepthwiseConv2D(3, name="dw")(x)
    x = layers.Activation("relu", name="act")(x)
    return keras.Model(given, layers.Conv2D(2, 1, name="mix")(x), name="net")


@pytest.fixture(scope="module")
def honest(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    model.save(folder / "net.keras")
    model.save(folder / "net.h5")
    return folder


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that leaves a mark when it is imported or called."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()\ndef run(*a, **k): open({str(mark)!r}, 'w').close()\n"
    (tmp_path / f"{PROBE}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not mark.exists() and PROBE not in sys.modules


def config_of(honest: Path) -> dict[str, Any]:
    with zipfile.ZipFile(honest / "net.keras") as archive:
        return json.loads(archive.read("config.json"))


def layer_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)


def write(folder: Path, honest: Path, config: Any, kind: str) -> Path:
    """The honest file with another config."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    path = folder / f"bad{kind}"
    if kind == ".json":
        path.write_bytes(text)
    elif kind == ".keras":
        with zipfile.ZipFile(honest / "net.keras") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, text if name == "config.json" else old.read(name))
    else:
        path.write_bytes((honest / "net.h5").read_bytes())
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = text
    return path


KINDS = [".keras", ".h5", ".json"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_honest_files_are_read(kind: str, honest: Path, tmp_path: Path) -> None:
    found = report(read_model(write(tmp_path, honest, config_of(honest), kind)))
    assert found.artifacts == ("dw",)


# ---- code in configs: CVE-2025-1550, CVE-2024-3660, CVE-2025-9905, CVE-2026-1462 -----------------------------------


def module_of_a_layer(config: dict[str, Any]) -> None:
    layer_of(config, "dw").update(module=PROBE)


def class_of_a_layer(config: dict[str, Any]) -> None:
    layer_of(config, "dw").update(module=PROBE, class_name="run", registered_name="run")


def module_of_the_model(config: dict[str, Any]) -> None:
    config.update(module=PROBE)


def function_as_activation(config: dict[str, Any]) -> None:
    value = {"module": PROBE, "class_name": "function", "config": "run", "registered_name": "run"}
    layer_of(config, "act")["config"]["activation"] = value


def function_as_initializer(config: dict[str, Any]) -> None:
    value = {"module": PROBE, "class_name": "run", "config": {}, "registered_name": "run"}
    layer_of(config, "dw")["config"]["depthwise_initializer"] = value


def lambda_as_activation(config: dict[str, Any]) -> None:
    code = {"class_name": "__lambda__", "config": {"value": ["4wEAAAAAAAAA", None, None]}}
    layer_of(config, "dw")["config"]["activation"] = code


def lambda_layer(config: dict[str, Any]) -> None:
    arguments = {"name": "act", "function": {"class_name": "__lambda__", "config": {"value": "4wEAAAAA"}}}
    layer_of(config, "act").update(class_name="Lambda", config=arguments)


def tfsm_layer(config: dict[str, Any]) -> None:
    layer_of(config, "act").update(class_name="TFSMLayer", config={"name": "act", "filepath": "http://evil/model"})


def custom_class(config: dict[str, Any]) -> None:
    layer_of(config, "act").update(registered_name="evil>ReLU")


CODE = [
    module_of_a_layer, class_of_a_layer, module_of_the_model, function_as_activation, function_as_initializer,
    lambda_as_activation, lambda_layer, tfsm_layer, custom_class,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", CODE, ids=lambda attack: attack.__name__)
def test_code_in_a_config_is_never_run(attack: Callable[[Any], None], kind: str, honest: Path, tmp_path: Path) -> None:
    config = config_of(honest)
    attack(config)
    path = write(tmp_path, honest, config, kind)
    try:
        found = report(read_model(path))
    except (ConfigError, UnsupportedError):
        return
    rows = {row.path: row for row in found.layers}
    # What is attacked is not compiled, and the reason is given; `probe` sees to the rest.
    touched = "act" if attack in (function_as_activation, lambda_layer, tfsm_layer, custom_class) else "dw"
    if attack is not module_of_the_model:
        assert rows[touched].artifact is None and rows[touched].reason


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text,says",
    [
        (b'{"class_name": "Functional", "config": NaN}', "NaN"),
        (b'{"class_name": "Functional", "config": [1e400]}', "1e400"),
        (b'{"class_name": "Functional", "class_name": "Sequential"}', "twice"),
        (b'{"class_name": "Functional", "config": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"class_name": "Functional", "config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"class_name": "Functional", "config": {}', "not JSON"),
        (b'{"class_name": "Functional", "config": ' + b" " * (9 * 2**20) + b"{}}", "bytes"),
    ],
)  # fmt: skip
def test_json_that_is_none(text: bytes, says: str, kind: str, honest: Path, tmp_path: Path) -> None:
    path = write(tmp_path, honest, text, kind)
    with pytest.raises(ConfigError) as caught:
        read_model(path)
    assert says in str(caught.value) and f"bad{kind}" in str(caught.value)


def test_not_utf8(honest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        read_model(write(tmp_path, honest, b'{"class_name": "Functional", "config": "\xff"}', ".keras"))


@pytest.mark.parametrize("name", ["\x1b[31mred", 'a"; drop()', "../../etc/passwd", "a/b", "\u202eevil", "x" * 1000])
def test_names_reach_messages_and_folders_escaped(name: str, honest: Path, tmp_path: Path) -> None:
    text = json.dumps(config_of(honest)).replace('"dw"', json.dumps(name)).replace("[3, 3]", "[9, 9]")
    read = read_model(write(tmp_path, honest, text.encode(), ".json"))
    if "/" in name:  # Keras 3 has no such names
        assert not read.units
        assert all(row.reason and row.reason.isascii() for row in report(read).layers)
        return
    (unit,) = read.units
    assert unit.name.replace("_", "a").isalnum() and len(unit.name) <= 64
    with pytest.raises(ConfigError) as caught:
        read.build(unit)
    assert str(caught.value).isascii() and str(caught.value).isprintable()


# ---- graphs ----------------------------------------------------------------------------------------------------------


def chain(depth: int, calls: int) -> dict[str, Any]:
    """A model that calls a model, ``calls`` times in a row, that calls a model ..."""
    start = {"class_name": "InputLayer", "config": {"batch_shape": [None, 4], "name": "i"}, "inbound_nodes": []}
    inner: list[dict[str, Any]] = [start]
    last = ["i", 0, 0]
    if depth:
        nodes = []
        for number in range(calls):
            nodes.append([[*last, {}]])
            last = ["m", number, 0]
        inner.append(
            {"class_name": "Functional", "config": chain(depth - 1, calls), "name": "m", "inbound_nodes": nodes}
        )
    return {"name": "m", "layers": inner, "input_layers": [["i", 0, 0]], "output_layers": [last]}


def test_models_nested_too_deep() -> None:
    with pytest.raises(ConfigError, match="nested deeper"):
        read_model({"class_name": "Functional", "config": chain(12, 1)})


def test_models_that_multiply() -> None:
    """1000 ** 8 calls from a file of some kilobytes."""
    start = time.process_time()
    config = chain(7, 1000)
    # Every level holds a layer, or nothing would be called at all.
    deepest = config
    while len(deepest["layers"]) > 1:
        deepest = deepest["layers"][1]["config"]
    dense = {"class_name": "Dense", "config": {"units": 4}, "name": "d", "inbound_nodes": [[["i", 0, 0, {}]]]}
    deepest["layers"].append(dense)
    deepest["output_layers"] = [["d", 0, 0]]
    with pytest.raises(ConfigError, match=r"calls|repeat"):
        read_model({"class_name": "Functional", "config": config})
    assert time.process_time() - start < 5


def test_a_model_that_multiplies_nothing() -> None:
    """The same with no layer inside: no call is counted, yet the work must end."""
    start = time.process_time()
    with pytest.raises(ConfigError):
        read_model({"class_name": "Functional", "config": chain(7, 1000)})
    assert time.process_time() - start < 5


ITSELF = {"class_name": "__keras_tensor__", "config": {"keras_history": ["dw", 0, 0]}}


@pytest.mark.parametrize(
    "change",
    [
        {"inbound_nodes": [{"args": [ITSELF], "kwargs": {}}]},
        {"inbound_nodes": [[["dw", 0, 0, {}]]]},
        {"inbound_nodes": [[["nowhere", 0, 0, {}]]]},
        {"inbound_nodes": [[["img", 99, 0, {}]]]},
        {"inbound_nodes": [[["img", -1, 0, {}]]]},
        {"inbound_nodes": [[["img", 10**30, 0, {}]]]},
        {"inbound_nodes": {"a": 1}},
        {"inbound_nodes": [[[]]]},
        {"inbound_nodes": "img"},
        {"name": ["dw"]},
        {"config": []},
        {"class_name": 3},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_graphs_that_are_none(change: dict[str, Any], honest: Path, tmp_path: Path) -> None:
    config = config_of(honest)
    layer_of(config, "dw").update(change)
    with pytest.raises(ConfigError):
        read_model(write(tmp_path, honest, config, ".json"))


# ---- HDF5: keras#22900, keras#22976, CVE-2026-1669, keras#22975 ----------------------------------------------------

KERNEL = "layers/depthwise_conv2d/vars/0"


def external_link(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file[path] = h5py.ExternalLink(str(secret), "/secret")


def external_link_of_a_group(file: h5py.File, path: str, secret: Path) -> None:
    group = path.rsplit("/", 1)[0]
    del file[group]
    file[group] = h5py.ExternalLink(str(secret), "/group")


def soft_link(file: h5py.File, path: str, secret: Path) -> None:
    data = file[path][()]
    del file[path]
    file["elsewhere"] = data
    file[path] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, path: str, secret: Path) -> None:
    shape = file[path].shape
    del file[path]
    file.create_dataset(path, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file: h5py.File, path: str, secret: Path) -> None:
    shape = file[path].shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(secret), "secret", shape)
    del file[path]
    file.create_virtual_dataset(path, layout)


def unwritten(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file.create_dataset(path, (2**20, 2**20), "f4")


def compressed_bomb(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file.create_dataset(path, (2**14, 2**10), "f4", compression="gzip", data=np.zeros((2**14, 2**10), "f4"))


def chunked_bomb(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file.create_dataset(path, (2**40,), "f4", chunks=(2**20,))


def strings(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file[path] = "text"


def a_group_in_its_place(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file.create_group(path)


def too_big(file: h5py.File, path: str, secret: Path) -> None:
    del file[path]
    file[path] = np.zeros((50, 50, 3, 1), "f4")


def not_numbers(file: h5py.File, path: str, secret: Path) -> None:
    file[path][...] = np.nan


HDF5 = [
    external_link, external_link_of_a_group, soft_link, external_storage, virtual_dataset, unwritten, compressed_bomb,
    chunked_bomb, strings, a_group_in_its_place, too_big, not_numbers,
]  # fmt: skip


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside that a model file must not bring in: a kernel that would fit."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.full((3, 3, 3, 1), 42.0, "f4")
        file["group/0"] = np.full((3, 3, 3, 1), 42.0, "f4")
        file["group/1"] = np.zeros(3, "f4")
        file["group"].attrs["weight_names"] = ["0", "1"]
    return path


@pytest.mark.parametrize("kind", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("attack", HDF5, ids=lambda attack: attack.__name__)
def test_weights_that_are_elsewhere_or_lie(
    attack: Callable[[h5py.File, str, Path], None], kind: str, model: Any, secret: Path, tmp_path: Path
) -> None:
    start = time.process_time()
    path = tmp_path / f"net{kind}"
    if kind == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    with _weights(path) as file:
        attack(file, KERNEL if kind != ".h5" else "model_weights/dw/dw/kernel", secret)
    with pytest.raises((WeightError, UnsupportedError)) as caught:
        read = read_model(model.to_json(), weights=path) if kind == ".weights.h5" else read_model(path)
        read.build(read.units[0])
    assert path.name in str(caught.value) or "dw" in str(caught.value)
    assert time.process_time() - start < 5


class _weights:  # noqa: N801 - a context manager
    """A model file's HDF5 part, written back when done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        self.memory = io.BytesIO(self._bytes())
        self.file = h5py.File(self.memory, "a")
        return self.file

    def _bytes(self) -> bytes:
        if self.path.suffix != ".keras":
            return self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        return self.members["model.weights.h5"]

    def __exit__(self, *error: object) -> None:
        self.file.close()
        data = self.memory.getvalue()
        if self.path.suffix != ".keras":
            self.path.write_bytes(data)
            return
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, content in {**self.members, "model.weights.h5": data}.items():
                archive.writestr(name, content)


def test_a_group_that_holds_itself(honest: Path) -> None:
    """A B-tree whose child is itself, and a header that continues in itself: the work ends."""
    data = bytearray((honest / "net.h5").read_bytes())
    trees = [at for at in range(0, len(data) - 8, 8) if data[at : at + 4] == b"TREE"]
    assert trees
    for tree in trees:
        data[tree + 5] = 1  # a level that says its children are trees
        data[tree + 32 : tree + 40] = struct.pack("<Q", tree)
    start = time.process_time()
    with pytest.raises(WeightError, match="deeper"):
        File(bytes(data), "loop.h5").names()
    assert time.process_time() - start < 5


def test_truncated_files(honest: Path) -> None:
    data = (honest / "net.h5").read_bytes()
    for length in [*range(0, 600, 7), *range(600, len(data), 997)]:
        try:
            file = File(data[:length], "short.h5")
            group = file.group("model_weights/dw")
            dataset = group.dataset("dw/kernel") if group else None
            if dataset is not None:
                dataset.array()
        except (WeightError, UnsupportedError):
            continue


# ---- zip: keras#23010, keras#22973, keras#23015 --------------------------------------------------------------------


def members(honest: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(honest / "net.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "assets/../../evil", "C:evil", "..\\evil", "a\\..\\b"])
def test_members_that_leave_the_archive(name: str, honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members(honest).items():
            archive.writestr(member, data)
        archive.writestr(name, b"evil")
    with pytest.raises(ConfigError, match="leaves the archive"):
        read_model(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["bad.keras", f"{PROBE}.py"])


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_decompression_bombs(member: str, honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    content = members(honest) | {member: bytes(FLOOR + 2**20)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 2**20
    with pytest.raises(ConfigError, match=r"declares .* expected at most"):
        read_model(path)


def test_a_member_that_declares_less_than_it_holds(honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "liar.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members(honest).items():
            archive.writestr(name, data)
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02", 0, raw.rfind(b"config.json"))
    raw[at + 24 : at + 28] = struct.pack("<I", 10)  # the uncompressed size in the central directory
    path.write_bytes(bytes(raw))
    with pytest.raises(ConfigError):
        read_model(path)


@pytest.mark.parametrize("double", ["config.json", "model.weights.h5"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(double: str, honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "double.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members(honest).items():
            archive.writestr(name, data)
        archive.writestr(double, b"{}")
    with pytest.raises(ConfigError, match="two members"):
        read_model(path)


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_missing_members(missing: str, honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members(honest).items():
            if name != missing:
                archive.writestr(name, data)
    with pytest.raises(SepcompileError, match=missing):
        read_model(path)


def test_an_npz_member_that_declares_more_than_it_stores(model: Any, tmp_path: Path) -> None:
    """keras#23016."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2**4)})
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("dw/kernel.npy", header.getvalue() + bytes(64))
    with pytest.raises(WeightError, match="declares shape"):
        read_model(model.to_json(), weights=tmp_path / "w.npz")


def test_pickles_in_an_npz_stay_closed(model: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (__import__, (PROBE,))

    np.savez(tmp_path / "w.npz", **{"dw/kernel": np.array([Evil()], dtype=object)})
    with pytest.raises(WeightError):
        read_model(model.to_json(), weights=tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["pipe.keras", "pipe.h5", "folder.keras", "folder.h5", "zero.h5", "zero.keras"])
def test_paths_that_are_no_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("zero"):
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match="not a file"):
        read_model(path)


def test_an_honest_config_is_not_changed_by_reading(honest: Path) -> None:
    config = config_of(honest)
    before = copy.deepcopy(config)
    report(read_model(config))
    assert config == before
