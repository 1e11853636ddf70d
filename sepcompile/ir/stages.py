"""The IR: a program is a short list of typed stages over NHWC tensors (a 1-D layer is NHWC with H = 1).

Everything here is frozen and hashable, so that a program can be a cache key and a pass can only return a new one.
A stage names the weights it reads; their arrays travel beside the program as ``dict[str, numpy.ndarray]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Pair = tuple[int, int]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Origin:
    """Where a stage comes from, for error messages: ``model.keras: layers[3] "sep_conv_2".dilation_rate``."""

    source: str = "config"
    layer: str = ""
    field: str = ""

    def __str__(self) -> str:
        name = f'{self.source} "{self.layer}"' if self.layer else self.source
        return f"{name}.{self.field}" if self.field else name


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor at the program's edge, in the user's own layout; ``None`` is a dynamic batch."""

    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Transpose:
    """Permute the four axes; ``(0, 2, 3, 1)`` brings NCHW to NHWC and ``(0, 3, 1, 2)`` back."""

    perm: tuple[int, int, int, int]
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class Pad:
    """Zero padding of H and W, in elements before and after."""

    before: Pair
    after: Pair
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class Depthwise:
    """Valid cross-correlation of each channel with ``depth_multiplier`` kernels of its own.

    ``weight`` has shape (kh, kw, C, m); output channel ``c*m + j`` is channel c under kernel j.
    """

    weight: str
    kernel_size: Pair
    strides: Pair
    dilation_rate: Pair
    channels: int
    depth_multiplier: int = 1
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class Pointwise:
    """1x1 convolution, a matrix product over the channels; ``weight`` has shape (C, F)."""

    weight: str
    channels: int
    filters: int
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class Bias:
    """Adds one number per channel; ``weight`` has shape (C,)."""

    weight: str
    channels: int
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class ScaleShift:
    """``x * scale + shift`` per channel (BatchNormalization at inference); folded into weights before codegen."""

    scale: str
    shift: str
    channels: int
    origin: Origin = field(default=Origin(), compare=False, repr=False)


@dataclass(frozen=True)
class Activation:
    """An activation function by its canonical ``kind``, see ``ir.activations``.

    ``params`` are sorted (name, value) pairs, every parameter of the kind present. ``axis`` is the NHWC axis (1, 2 or
    3) that the row-wise kinds (softmax, log_softmax, sparsemax, glu) run along and None for elementwise kinds; in a
    program that is not canonical yet it counts the axes of the tensor as it stands there, which may be transposed.
    ``weight`` names PReLU's ``alpha`` (shape (H|1, W|1, C|1), NHWC) and is None for every other kind.
    """

    kind: str
    params: tuple[tuple[str, float], ...] = ()
    axis: int | None = None
    weight: str | None = None
    origin: Origin = field(default=Origin(), compare=False, repr=False)

    def param(self, name: str) -> float:
        """The value of parameter ``name``."""
        return dict(self.params)[name]


@dataclass(frozen=True)
class Residual:
    """Adds the program's second input (a skip connection), which has the shape and dtype of its output."""

    origin: Origin = field(default=Origin(), compare=False, repr=False)


Stage = Transpose | Pad | Depthwise | Pointwise | Bias | ScaleShift | Activation | Residual


@dataclass(frozen=True)
class Program:
    """A layer, ready to be compiled.

    ``input`` and ``output`` are in the user's layout and rank (3 for 1-D layers); inside, 1-D tensors have H = 1.
    ``batch`` is the fixed batch or None. Every stage computes in float32; a float16 edge is converted there.
    """

    name: str
    input: TensorSpec
    output: TensorSpec
    stages: tuple[Stage, ...]

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None when it is dynamic."""
        return self.input.shape[0]

    @property
    def residual(self) -> TensorSpec | None:
        """The second input, or None for a program with one."""
        return self.output if any(isinstance(stage, Residual) for stage in self.stages) else None

    def with_stages(self, stages: tuple[Stage, ...]) -> Program:
        """The same program with other stages."""
        return replace(self, stages=stages)


def lift(shape: Shape) -> Shape:
    """The rank-4 shape of an edge tensor as the stages see it (before any transpose).

    A rank-3 (N, W, C) becomes (N, 1, W, C). A rank-3 channels_first (N, C, W) is lifted with its H after C by the
    caller's own transpose, so it needs ``lift_channels_first``.
    """
    return (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape


def lift_channels_first(shape: Shape) -> Shape:
    """(N, C, W) as (N, C, 1, W); rank 4 unchanged."""
    return (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else shape


def is_channels_first(program: Program) -> bool:
    """Whether the program's first stage is the transpose that a channels_first input needs.

    Activations may stand before it (in a program that is not canonical yet): they do not care about the layout.
    """
    first = next((stage for stage in program.stages if not isinstance(stage, Activation)), None)
    return isinstance(first, Transpose)


def input_shape(program: Program) -> Shape:
    """The input shape as the first stage sees it, rank 4."""
    lifted = lift_channels_first if is_channels_first(program) else lift
    return lifted(program.input.shape)
