"""The HDF5 reader against h5py, on everything that Keras writes and on what it must refuse."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

from sepcompile.errors import UnsupportedError, WeightError
from sepcompile.frontend.hdf5 import Dataset, File, Group


def written(fill: Callable[[h5py.File], None], **options: Any) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        fill(file)
    return memory.getvalue()


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        return [plain(item) for item in value]
    return value


def assert_same(group: Group, other: h5py.Group) -> int:
    """Names, attributes and arrays below a group; returns how many datasets there were."""
    assert set(group.names()) == set(other)
    attributes = group.attributes()
    assert set(attributes) == set(other.attrs)
    for name, value in attributes.items():
        assert np.array_equal(value, plain(other.attrs[name])), name
    count = 0
    for name in group.names():
        child = group.child(name)
        if isinstance(child, Group):
            count += assert_same(child, other[name])
        else:
            assert isinstance(child, Dataset)
            array, expected = child.array(), other[name][...]
            assert array.dtype == expected.dtype and array.shape == expected.shape
            assert array.tobytes() == expected.tobytes()
            count += 1
    return count


def check(data: bytes) -> int:
    with h5py.File(io.BytesIO(data)) as file:
        return assert_same(File(data, "test.h5"), file)


DTYPES = ["<f2", "<f4", "<f8", ">f4", ">f8", "<i1", "<i2", "<i4", "<i8", ">i4", "<u1", "<u2", "<u4", "<u8", "V2"]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_types_and_shapes(libver: str) -> None:
    rng = np.random.default_rng(0)

    def fill(file: h5py.File) -> None:
        for number, shape in enumerate([(), (1,), (0,), (3, 0, 2), (2, 3), (3, 3, 4, 1), (1, 2, 1, 2, 1, 2)]):
            for dtype in DTYPES[: 6 if libver == "latest" else None]:
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                data = np.frombuffer(rng.bytes(size), dtype).reshape(shape)
                if size or libver == "earliest":
                    file[f"g{number}/{dtype.strip('<>')}{'>' in dtype}"] = data

    assert check(written(fill, libver=libver)) > 20


@pytest.mark.parametrize("count", [1, 7, 8, 9, 300, 3000])
def test_groups_of_any_size(count: int) -> None:
    """B-trees of several levels, names that are not in order, object headers that go on elsewhere."""
    names = [f"layer_{(number * 7919) % 100_003}" for number in range(count)]

    def fill(file: h5py.File) -> None:
        for number, name in enumerate(names):
            file.create_group(name).attrs["n"] = number
        file["x"] = np.arange(3.0)

    assert check(written(fill)) == 1


def test_attributes() -> None:
    def fill(file: h5py.File) -> None:
        file.attrs["text"] = "a text, also ünïcödé \u4e2d"
        file.attrs["bytes"] = b"bytes"
        file.attrs["fixed"] = np.bytes_("fixed length")
        file.attrs["empty"] = ""
        file.attrs["list"] = ["one", "two", ""]
        file.attrs["fixed list"] = np.array([b"aa", b"b"], "S7")
        file.attrs["none"] = []
        file.attrs["number"] = 3
        file.attrs["numbers"] = np.arange(5, dtype="f4")
        file.attrs["long"] = "x" * 200_000
        file.attrs["many"] = [f"weight_{number}" for number in range(3000)]
        for number in range(40):
            file.attrs[f"more {number}"] = "y" * number

    check(written(fill))


@pytest.mark.parametrize("seed", range(10))
def test_random_trees(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def fill(group: h5py.Group, depth: int = 0) -> None:
        for number in range(int(rng.integers(0, 9))):
            name = f"{'abc'[int(rng.integers(3))] * int(rng.integers(1, 60))}{number}"
            if rng.integers(2) and depth < 4:
                fill(group.create_group(name), depth + 1)
            else:
                group[name] = rng.normal(size=rng.integers(0, 5, int(rng.integers(0, 4)))).astype("f4")
            group[name].attrs["name"] = name * int(rng.integers(0, 9))

    check(written(lambda file: fill(file)))


REFUSED: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "chunked": (lambda f: f.create_dataset("x", (4, 4), chunks=(2, 2), data=np.ones((4, 4))), "chunked"),
    "compressed": (lambda f: f.create_dataset("x", data=np.ones((64, 64)), compression="gzip"), "compressed"),
    "compound": (lambda f: f.create_dataset("x", data=np.zeros(3, [("a", "f4")])), "class 6"),
    "enum": (lambda f: f.create_dataset("x", data=np.array([True])), "class 8"),
    "strings": (lambda f: f.create_dataset("x", data=["a", "b"]), "string"),
    "reference": (lambda f: f.create_dataset("x", data=f.ref, dtype=h5py.ref_dtype), "class 7"),
    "committed type": (
        lambda f: (f.__setitem__("t", np.dtype("f4")), f.create_dataset("x", data=1.0, dtype=f["t"])),
        "shared",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_keras_does_not_write_is_refused_by_name(name: str) -> None:
    fill, says = REFUSED[name]
    dataset = File(written(fill), "test.h5").dataset("x")
    assert dataset is not None
    with pytest.raises(UnsupportedError, match=says) as caught:
        dataset.array()
    assert "test.h5" in str(caught.value) and "contiguous" in str(caught.value)


def test_dense_groups_are_refused_by_name() -> None:
    data = written(lambda file: [file.create_group(f"g{n}") for n in range(20)] and None, libver="latest")
    with pytest.raises(UnsupportedError, match="dense"):
        File(data, "test.h5").names()


@pytest.mark.parametrize("data", [b"", b"\x89HDF", b"not hdf5" * 100, b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_files_that_are_none(data: bytes) -> None:
    with pytest.raises((WeightError, UnsupportedError), match=r"test\.h5"):
        File(data, "test.h5")


def test_paths_that_are_not_there() -> None:
    data = written(lambda file: file.__setitem__("a/b", np.ones(2)))
    file = File(data, "test.h5")
    assert file.find("a/b/c") is None and file.find("x") is None and file.group("a/b") is None
    assert file.dataset("a") is None and isinstance(file.find("a/b"), Dataset)
