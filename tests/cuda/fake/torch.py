"""As much of PyTorch as `benchmarks/gpu_check.py` uses, with NumPy: its GPU's memory is the stand-in driver's.

Graphs compute while they are recorded and not when they are replayed; every event is a millisecond after the last.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import types

import ml_dtypes
import numpy as np

__version__ = "stand-in"
_MOST = 1 << 24  # elements beyond which a tensor is a single number, repeated


class Dtype:
    def __init__(self, name, numpy):
        self.name, self.numpy = name, np.dtype(numpy)


uint8, float16, float32, float64 = (Dtype(name, name) for name in ("uint8", "float16", "float32", "float64"))
bfloat16 = Dtype("bfloat16", ml_dtypes.bfloat16)
_BY_NUMPY = {dtype.numpy: dtype for dtype in (uint8, float16, float32, float64, bfloat16)}
channels_last = object()


def _aligned(array):
    """A C-contiguous copy at an address that is a multiple of 64."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


class Tensor:
    def __init__(self, array, on_gpu):
        self.array, self.on_gpu = array, on_gpu

    dtype = property(lambda self: _BY_NUMPY[self.array.dtype])
    shape = property(lambda self: self.array.shape)

    def _new(self, array):
        return Tensor(np.asarray(array), self.on_gpu)

    def __dlpack_device__(self):
        return (2, 0) if self.on_gpu else (1, 0)

    def __dlpack__(self, stream=None):
        from sepcompile.runtime.cuda_tensors import _DLTensor, _pointer

        assert self.on_gpu and stream is not None
        narrow = self.array.dtype == bfloat16.numpy
        capsule = (self.array.view(np.uint16) if narrow else self.array).__dlpack__()
        tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
        tensor.device.type = 2
        if narrow:
            tensor.code = 4
        return capsule

    def to(self, dtype):
        return self._new(_aligned(self.array.astype(dtype.numpy)))

    def float(self):
        return self.to(float32)

    def double(self):
        return self.to(float64)

    def cuda(self):
        return Tensor(_aligned(self.array), True)

    def cpu(self):
        return Tensor(self.array, False)

    def numpy(self):
        assert not self.on_gpu and self.array.dtype != bfloat16.numpy
        return self.array

    def fill_(self, value):
        self.array[...] = value
        return self

    def random_(self, low, high):
        return self

    def copy_(self, other):
        return self

    def clamp_(self, low, high):
        return self._new(np.clip(self.array, low, high))

    def relu_(self):
        return self._new(np.maximum(self.array, 0))

    def norm(self):
        return self._new(np.linalg.norm(self.array.astype(np.float64)))

    def dim(self):
        return self.array.ndim

    def element_size(self):
        return self.array.itemsize

    def reshape(self, *shape):
        return self._new(self.array.reshape(shape))

    def permute(self, *axes):
        return self._new(self.array.transpose(axes))

    def t(self):
        return self._new(self.array.T)

    def contiguous(self, memory_format):
        assert memory_format is channels_last
        return self

    def unsqueeze(self, axis):
        return self._new(np.expand_dims(self.array, axis))

    def squeeze(self, axis):
        return self._new(np.squeeze(self.array, axis))

    def __getitem__(self, index):
        return self._new(self.array[index])

    def __sub__(self, other):
        return self._new(self.array - other.array)

    def __truediv__(self, other):
        return self._new(self.array / other.array)

    def __matmul__(self, other):
        return self

    def __float__(self):
        return float(self.array)


def _filled(shape, dtype, value):
    array = np.broadcast_to(np.asarray(value, dtype.numpy), shape)
    return Tensor(array if array.size > _MOST else _aligned(array), True)


def full(shape, value, dtype, device):
    return _filled(shape, dtype, value)


def empty(*shape, dtype, device):
    return _filled(shape[0] if isinstance(shape[0], tuple) else shape, dtype, 0)


def empty_like(other):
    return _filled(other.shape, other.dtype, 0)


_RANDOM = np.random.default_rng(0)


def randn(*shape, dtype=float32, device="cuda"):
    shape = shape[0] if isinstance(shape[0], tuple) else shape
    if np.prod(shape) > _MOST:
        return _filled(shape, dtype, 1)
    return Tensor(_aligned(_RANDOM.standard_normal(shape).astype(dtype.numpy)), True)


def tensor(values, dtype):
    return Tensor(np.array(values, dtype.numpy), False)


def from_numpy(array):
    return Tensor(array, False)


def conv2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    data, kernel = x.array.astype(np.float64), weight.array.astype(np.float64)
    data = np.pad(data, ((0, 0), (0, 0), *((p, p) for p in padding)))
    filters, depth, *taps = kernel.shape
    sizes = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(data.shape[2:], taps, dilation, stride, strict=True)
    ]
    out = np.zeros((len(data), filters, *sizes))
    grouped = out.reshape(len(data), groups, filters // groups, *sizes)
    for i, j in itertools.product(range(taps[0]), range(taps[1])):
        rows, columns = (
            slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in zip((i, j), dilation, sizes, stride, strict=True)
        )
        part = data[:, :, rows, columns].reshape(len(data), groups, depth, *sizes)
        grouped += np.einsum("ngdhw,gfd->ngfhw", part, kernel[:, :, i, j].reshape(groups, filters // groups, depth))
    if bias is not None:
        out += bias.array.astype(np.float64).reshape(1, -1, 1, 1)
    return x._new(out.astype(x.array.dtype))


def _pad(x, widths):
    left, right, top, bottom = widths
    return x._new(np.pad(x.array, ((0, 0), (0, 0), (top, bottom), (left, right))))


nn = types.SimpleNamespace(functional=types.SimpleNamespace(pad=_pad))
backends = types.SimpleNamespace(
    cudnn=types.SimpleNamespace(allow_tf32=True, benchmark=False, version=lambda: 0),
    cuda=types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=False)),
)
_dynamo = types.SimpleNamespace(reset=lambda: None)


def set_grad_enabled(on):
    assert not on


def compile(function, mode):
    assert mode == "max-autotune-no-cudagraphs"
    return function


class _Stream:
    def __init__(self):
        self.buffer = ctypes.create_string_buffer(1)
        self.cuda_stream = ctypes.addressof(self.buffer)


class _Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1.0


_NOW = [_Stream()]


@contextlib.contextmanager
def _on(stream):
    _NOW.append(stream)
    yield
    _NOW.pop()


cuda = types.SimpleNamespace(
    is_available=lambda: True,
    get_device_properties=lambda number: types.SimpleNamespace(name="stand-in", multi_processor_count=1),
    current_stream=lambda device: _NOW[-1],
    Stream=_Stream,
    stream=_on,
    synchronize=lambda: None,
    CUDAGraph=lambda: types.SimpleNamespace(replay=lambda: None),
    graph=lambda graph, stream: _on(stream),
    Event=_Event,
)
