"""Fused multiply-adds by name, for 32-bit Arm, where LLVM does not form them by itself.

LLVM's NEON code multiplies by a lane (``vmul``) and adds: two instructions, and a register for each product. The fused
multiply-add has no form by lane, but repeating a lane in a register serves every vector of a tile, and products need no
register at all, so that larger tiles fit into sixteen.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx


def fuse_multiply_adds(func: Any) -> Any:
    """Every sum of a float32 vector and a product as one ``llvm.fma``, which rounds once."""

    def add(node: Any) -> Any:
        if not str(node.ty.dtype).startswith("float32x"):
            return node
        for product, other in ((node.b, node.a), (node.a, node.b)):
            if isinstance(product, tirx.Mul):
                return tirx.call_llvm_pure_intrin(node.ty.dtype, "llvm.fma", product.a, product.b, other)
        return node

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.Add, add)]))
