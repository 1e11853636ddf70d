"""The functions of an artifact's library, through ctypes."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .errors import ArtifactError

ENTRY_ABI = 1


class NativeLibrary:
    """The library at ``path``, whose functions start with ``symbol``. Maps native code: verify the file first.

    ``residual``: for a layer with a second input, whose address ``run`` takes after that of the first.
    Raises ``ArtifactError`` where the library cannot be mapped, lacks a function or has another ABI.
    """

    def __init__(self, path: Path, symbol: str, residual: bool = False) -> None:
        try:
            self.library = ctypes.CDLL(_spelling(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise ArtifactError(f"{path}: the library cannot be loaded: {error}") from error
        self.path = path
        pointer, size, i32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
        abi = self._function(symbol, "abi", i32)()
        if abi != ENTRY_ABI:
            raise ArtifactError(f"{path}: ABI version {abi}; this loader knows {ENTRY_ABI}")
        self.layer_bytes = self._function(symbol, "layer_bytes", size)
        self.arena_bytes = self._function(symbol, "arena_bytes", size, i32)
        self.init = self._function(symbol, "init", i32, pointer, pointer, pointer, pointer, size, pointer, i32)
        if residual:
            self.run = self._function(symbol, "run_residual", i32, pointer, pointer, pointer, pointer, i32)
        else:
            self.run = self._function(symbol, "run", i32, pointer, pointer, pointer, i32)
        self.pool_bytes = self._function(symbol, "pool_bytes", size)
        self.pool_init = self._function(symbol, "pool_init", None, pointer, i32)
        self.pool_worker = self._function(symbol, "pool_worker", None, pointer, i32)

    def _function(self, symbol: str, suffix: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
        try:
            function = self.library[f"{symbol}_{suffix}"]
        except AttributeError as error:
            raise ArtifactError(f"{self.library._name}: function {symbol}_{suffix} is missing") from error
        function.restype = result
        function.argtypes = arguments
        return function


def _spelling(path: Path) -> str:
    """``path`` spelled in a way that only this very file has.

    glibc gives back the library that it has open under a name, even where the name by now stands for another file: an
    artifact that was compiled anew. The file's number, as ``//`` and ``/./`` for its bits, makes the names differ; a
    number is not used again while its file is mapped.
    """
    bits = bin(path.stat().st_ino)[2:]
    return f"{path.parent}{''.join('/./' if bit == '1' else '//' for bit in bits)}{path.name}"
