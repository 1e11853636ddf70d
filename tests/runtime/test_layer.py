"""Calling a layer: results, inputs, outputs."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle

import numpy as np
import pytest

from sepcompile.runtime import buffers
from sepcompile.runtime.errors import ArtifactError, InputError
from sepcompile.runtime.loader import load, read_manifest, verify


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("macs", [1, 100_000])
def test_results_do_not_depend_on_threads_or_batch(tmp_path, samples, write_sample, steps, threads, macs):
    sample = samples(rows=13, steps=steps, macs=macs)
    layer = load(write_sample(tmp_path / "a", sample), threads=threads)
    for batch in (0, 1, 2, 3, 4, 5, 9):
        x = sample.input(batch)
        for _ in range(20):
            np.testing.assert_array_equal(layer(x), sample.expected(x))


def test_big_batches_are_split_evenly(tmp_path, samples, write_sample):
    sample = samples(rows=2, columns=1, macs=10)
    layer = load(write_sample(tmp_path / "a", sample), threads=2)
    x = sample.input(300_000)
    np.testing.assert_array_equal(layer(x), sample.expected(x))


def test_properties(artifact):
    layer = load(artifact, threads=2)
    assert (layer.name, layer.variant, layer.threads) == ("conv1", "here", 2)
    assert layer.input_shape == layer.output_shape == (None, 12, 8)
    assert layer.dtype == layer.input_dtype == np.float32
    assert "conv1" in repr(layer)
    assert layer.selftest().passed
    result = layer.benchmark(batch=2, seconds=0.01)
    assert result.batch == 2 and result.calls >= 5 and 0 < result.best <= result.median
    assert "us per call" in str(result)


def test_out_is_written_and_returned(artifact, samples):
    layer, x = load(artifact), samples().input(3)
    y = np.full_like(x, np.nan)
    assert layer(x, out=y) is y
    np.testing.assert_array_equal(y, samples().expected(x))


def test_out_refused(artifact, samples):
    layer, x = load(artifact), samples().input(2)
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    bad = {
        "shape": np.empty((3, 12, 8), np.float32),
        "dtype": np.empty((2, 12, 8), np.float64),
        "C-contiguous": np.empty((2, 8, 12), np.float32).transpose(0, 2, 1),
        "read-only": read_only,
        "type list": [],
        "overlaps": x,
    }
    for word, out in bad.items():
        with pytest.raises(InputError, match=word):
            layer(x, out=out)
    whole = np.zeros((3, 12, 8), np.float32)
    with pytest.raises(InputError, match="overlaps"):
        layer(whole[:2], out=whole[1:])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_other_floats_are_cast(artifact, samples, dtype):
    x = samples().input(2).astype(dtype)
    np.testing.assert_array_equal(load(artifact)(x), samples().expected(x.astype(np.float32)))


def test_bfloat16_is_cast(artifact, samples):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = samples().input(2).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(load(artifact)(x), samples().expected(x.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64, object, "U3", [("a", "f4")]])
def test_other_dtypes_are_refused(artifact, dtype):
    with pytest.raises(InputError, match=r"dtype .*float32"):
        load(artifact)(np.zeros((1, 12, 8), dtype))


@pytest.mark.parametrize("shape", [(), (12, 8), (1, 12, 8, 1), (1, 12, 7), (1, 11, 8)])
def test_wrong_shapes_are_refused(artifact, shape):
    with pytest.raises(InputError, match=r"expected .*\(None, 12, 8\)"):
        load(artifact)(np.zeros(shape, np.float32))


def test_fixed_batch(tmp_path, samples, write_sample):
    sample = samples(batch=2)
    layer = load(write_sample(tmp_path / "a", sample))
    assert layer(sample.input(2)).shape == (2, 12, 8)
    with pytest.raises(InputError, match=r"\(3, 12, 8\); expected \(2, 12, 8\)"):
        layer(sample.input(3))


def test_layouts_are_copied_where_needed(artifact, samples):
    layer, x = load(artifact), samples().input(4)
    expected = samples().expected(x)
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    fortran = np.asfortranarray(x)
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not shifted.flags.aligned
    for other in (strided, fortran, shifted):
        np.testing.assert_array_equal(layer(other), expected)
    np.testing.assert_array_equal(layer(np.broadcast_to(x[:1], (3, 12, 8)))[2], expected[0])


class _Array:
    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


class _Tensor(_Array):
    device = (1, 0)

    def __dlpack__(self, **_):
        return self.x.__dlpack__()

    def __dlpack_device__(self):
        return self.device


def test_foreign_arrays(artifact, samples):
    layer, x = load(artifact), samples().input(2)
    for other in (_Array(x), _Tensor(x)):
        np.testing.assert_array_equal(layer(other), samples().expected(x))


def test_foreign_arrays_refused(artifact, samples):
    layer, x = load(artifact), samples().input(2)
    gpu = _Tensor(x)
    gpu.device = (2, 0)
    with pytest.raises(InputError, match="DLPack device type 2"):
        layer(gpu)
    with pytest.raises(InputError, match="type list"):
        layer(x.tolist())
    with pytest.raises(InputError, match="masked"):
        layer(np.ma.masked_array(x))

    class Broken:
        def __array__(self, *_, **__):
            raise RuntimeError("requires grad")

    with pytest.raises(InputError, match="requires grad"):
        layer(Broken())


@pytest.mark.parametrize("threads", [0, -1, 2000, 1.0, True, "2"])
def test_threads_refused(artifact, threads):
    with pytest.raises(InputError, match="threads is"):
        load(artifact, threads=threads)


def test_nan_and_inf_pass(artifact, samples):
    x = samples().input(1)
    x[0, 0, :3] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(load(artifact)(x), samples().expected(x))


def test_addresses():
    kinds = itertools.product([(0,), (3,), (4, 5)], [np.float16, np.float64])
    arrays = [np.zeros(shape, dtype) for shape, dtype in kinds]
    for array in [*arrays, arrays[-1][1:, ::2], np.frombuffer(bytearray(64), np.uint8)[5:]]:
        assert buffers.address_of(array) == array.ctypes.data
        assert buffers._slow_address(array) == array.ctypes.data


def test_large_results_are_aligned():
    for nbytes in (4096, 100_000):
        array = buffers.aligned_empty((nbytes // 4,), np.dtype(np.float32), nbytes)
        assert array.ctypes.data % 64 == 0 and array.nbytes == nbytes and array.flags.carray


@pytest.mark.parametrize("threads", [1, 2])
def test_bound_calls_read_and_write_in_place(artifact, samples, threads):
    layer = load(artifact, threads=threads)
    x, again = samples().input(3), samples().input(3)[::-1].copy()
    bound = layer.bind(x)
    expected = layer(x)
    bound.out[:] = np.nan
    assert bound() is bound.out and bound.inputs == (x,)
    np.testing.assert_array_equal(bound.out, expected)
    x[:] = again
    np.testing.assert_array_equal(bound(), layer(again))
    y = np.full_like(expected, np.nan)
    assert layer.bind(x, out=y)() is y
    np.testing.assert_array_equal(y, layer(again))


def test_bound_calls_outlive_their_layer(artifact, samples):
    x = samples().input(2)
    bound = load(artifact, threads=2).bind(x)
    gc.collect()
    np.testing.assert_array_equal(bound(), samples().expected(x))


def test_bind_refuses_what_it_would_have_to_convert(artifact, samples):
    layer, x = load(artifact), samples().input(2)
    for other in (x.astype(np.float64), np.asfortranarray(x), x.tolist()):
        with pytest.raises(InputError):
            layer.bind(other)
    with pytest.raises(InputError, match="overlaps"):
        layer.bind(x, out=x)


def test_copies_are_the_layer_itself(artifact, samples):
    layer, x = load(artifact), samples().input(2)
    for other in (copy.copy(layer), copy.deepcopy({"a": [layer]})["a"][0]):
        assert other is layer
    np.testing.assert_array_equal(layer(x), samples().expected(x))
    with pytest.raises(TypeError, match=r"'conv1' cannot be pickled.*load the artifact"):
        pickle.dumps(layer)


@pytest.mark.parametrize("batch", [-1, 1.5, "2", True])
def test_bad_batch_of_a_benchmark(artifact, batch):
    with pytest.raises(InputError, match="batch is"):
        load(artifact).benchmark(batch=batch, seconds=0.01)


def test_out_of_the_other_byte_order(artifact, samples):
    x = samples().input(2)
    with pytest.raises(InputError, match="float32 of the other byte order; expected float32"):
        load(artifact)(x, out=np.empty(x.shape, np.dtype(np.float32).newbyteorder()))


@pytest.mark.parametrize("path", [None, 3, b"conv1", "a\0b"])
def test_no_path(path):
    for function in (load, verify, read_manifest):
        with pytest.raises(ArtifactError):
            function(path)
