"""The one shape of program that kernels are generated from, read off a canonical IR program.

::

    [transpose] [activation] [pad] depthwise [bias] [activation] [pointwise [bias] [activation]]
    [residual [activation]] [transpose]

Row-wise activations (softmax, glu, ...) only come last and become a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from sepcompile.errors import UnsupportedError
from sepcompile.ir.activations import KINDS
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Depthwise,
    Pad,
    Pair,
    Pointwise,
    Program,
    Residual,
    Stage,
    Transpose,
    input_shape,
)

S = TypeVar("S", Pad, Depthwise, Pointwise, Bias, Residual)

# Kinds that cost about as much as a few multiplications: they may be unrolled over a whole register tile.
_LIGHT = frozenset(
    {
        *("linear", "relu", "prelu", "soft_shrink", "hard_shrink", "sparse_plus", "hard_tanh", "threshold"),
        *("sparse_sigmoid", "hard_sigmoid", "hard_silu"),
    }
)


@dataclass(frozen=True)
class Epilogue:
    """What follows a stage, element by element: a bias weight's name, then an activation.

    Of the last stage also a residual, by the dtype of the second input, and then an activation of the sum.
    """

    bias: str | None = None
    activation: Activation | None = None
    residual: str | None = None
    last: Activation | None = None

    @property
    def activations(self) -> tuple[Activation, ...]:
        """Those there are, in order."""
        return tuple(stage for stage in (self.activation, self.last) if stage is not None)

    @property
    def is_light(self) -> bool:
        """Whether its activations are cheap enough to be unrolled with the register tile that they follow."""
        return all(is_light(stage) for stage in self.activations)


@dataclass(frozen=True)
class Form:
    """One image of a separable or depthwise layer, NHWC without N (a 1-D layer has height 1).

    ``filters`` is None for a depthwise layer. ``rowwise`` follows everything else; its axis counts as in NHWC.
    ``alphas`` gives the shape of each PReLU weight, (H|1, W|1, C|1). ``precision`` is "tf32" where a float32 matrix
    product may round its operands to TF32, else "float32".
    """

    height: int
    width: int
    channels: int
    depthwise: Depthwise
    pad_before: Pair
    pad_after: Pair
    pre: Activation | None
    middle: Epilogue
    pointwise: Pointwise | None
    final: Epilogue
    rowwise: Activation | None
    channels_first_in: bool
    channels_first_out: bool
    in_dtype: str
    out_dtype: str
    alphas: tuple[tuple[str, tuple[int, ...]], ...] = ()
    precision: str = "float32"

    @property
    def out_height(self) -> int:
        """Rows of the depthwise output."""
        return self._extent(0, self.height)

    @property
    def out_width(self) -> int:
        """Columns of the depthwise output."""
        return self._extent(1, self.width)

    @property
    def depthwise_channels(self) -> int:
        """Channels between the stages."""
        return self.channels * self.depthwise.depth_multiplier

    @property
    def out_channels(self) -> int:
        """Channels after the pointwise stage, or after the depthwise one where there is none; before ``rowwise``."""
        return self.pointwise.filters if self.pointwise else self.depthwise_channels

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C) of the output before the row-wise activation."""
        return self.out_height, self.out_width, self.out_channels

    @property
    def final_image(self) -> tuple[int, int, int]:
        """(H, W, C) of the layer's output; ``glu`` halves one axis."""
        if self.rowwise is None or not KINDS[self.rowwise.kind].halves:
            return self.image
        sizes = list(self.image)
        sizes[(self.rowwise.axis or 3) - 1] //= 2
        return sizes[0], sizes[1], sizes[2]

    @property
    def taps(self) -> int:
        """Elements of one depthwise kernel."""
        return self.depthwise.kernel_size[0] * self.depthwise.kernel_size[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        per_pixel = self.depthwise_channels * (self.taps + (self.pointwise.filters if self.pointwise else 0))
        return self.out_height * self.out_width * per_pixel

    def _extent(self, axis: int, size: int) -> int:
        d = self.depthwise
        padded = size + self.pad_before[axis] + self.pad_after[axis]
        return (padded - (d.kernel_size[axis] - 1) * d.dilation_rate[axis] - 1) // d.strides[axis] + 1


def read_form(program: Program, weight_shapes: Mapping[str, tuple[int, ...]]) -> Form:
    """Read a canonical program (``ir.passes.canonicalize``) as a ``Form``.

    Raises ``UnsupportedError`` for a stage order that no kernel covers.
    """
    reader = _Reader(program)
    first_in = reader.take_transpose((0, 2, 3, 1))
    _, height, width, channels = _nhwc(program, first_in)
    pre = reader.take_activation()
    pad = reader.take(Pad) or Pad((0, 0), (0, 0))
    depthwise = reader.take(Depthwise)
    if not isinstance(depthwise, Depthwise):
        raise reader.unexpected("a depthwise stage")
    epilogue = reader.take_epilogue()
    pointwise = reader.take(Pointwise)
    final = reader.take_epilogue() if pointwise else epilogue
    if reader.take(Residual):
        final = replace(final, residual=program.output.dtype, last=reader.take_activation())
    rowwise = reader.take_activation(rowwise=True)
    first_out = reader.take_transpose((0, 3, 1, 2))
    if reader.rest:
        raise reader.unexpected("nothing more")
    form = Form(
        height=height,
        width=width,
        channels=channels,
        depthwise=depthwise,
        pad_before=pad.before,
        pad_after=pad.after,
        pre=pre,
        middle=epilogue if pointwise else Epilogue(),
        pointwise=pointwise,
        final=final,
        rowwise=rowwise,
        channels_first_in=first_in,
        channels_first_out=first_out,
        in_dtype=program.input.dtype,
        out_dtype=program.output.dtype,
    )
    acting = (*((pre,) if pre else ()), *form.middle.activations, *final.activations)
    names = [stage.weight for stage in acting if stage.weight]
    return replace(form, alphas=tuple((name, tuple(weight_shapes[name])) for name in names))


def _nhwc(program: Program, channels_first: bool) -> tuple[int | None, int, int, int]:
    n, a, b, c = input_shape(program)
    sizes = (b, c, a) if channels_first else (a, b, c)
    height, width, channels = (int(size or 0) for size in sizes)
    return n, height, width, channels


def is_light(stage: Activation | None) -> bool:
    """Whether the activation is cheap enough to be unrolled with the register tile that it follows."""
    return stage is None or stage.kind in _LIGHT


class _Reader:
    """Takes stages off the front of a program."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.rest: list[Stage] = list(program.stages)

    def take(self, kind: type[S]) -> S | None:
        if self.rest and isinstance(self.rest[0], kind):
            stage = self.rest.pop(0)
            assert isinstance(stage, kind)
            return stage
        return None

    def take_transpose(self, perm: tuple[int, int, int, int]) -> bool:
        if self.rest and isinstance(stage := self.rest[0], Transpose) and stage.perm == perm:
            self.rest.pop(0)
            return True
        return False

    def take_activation(self, rowwise: bool = False) -> Activation | None:
        if self.rest and isinstance(stage := self.rest[0], Activation) and KINDS[stage.kind].is_rowwise == rowwise:
            self.rest.pop(0)
            return stage
        return None

    def take_epilogue(self) -> Epilogue:
        bias = self.take(Bias)
        return Epilogue(bias.weight if bias else None, self.take_activation())

    def unexpected(self, wanted: str) -> UnsupportedError:
        found = type(self.rest[0]).__name__ if self.rest else "the end"
        return UnsupportedError(
            f"{self.name}: found {found} where {wanted} was expected; kernels cover [transpose] [activation] [pad] "
            "depthwise [bias] [activation] [pointwise [bias] [activation]] [residual [activation]] "
            "[row-wise activation] [transpose]"
        )
