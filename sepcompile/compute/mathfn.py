"""Elementary functions as float32 tensor expressions that vectorize: no call to libm, NaN and Inf as in IEEE 754.

TVM's own ``exp``, ``tanh``, ``erf`` and ``log`` become one scalar library call per element. TVM also folds float
constants while it builds an expression (``(x + c) - c`` becomes ``x``), so rounding by a magic number goes through
``reinterpret``. A constant always comes first in ``max`` and ``min``: that order keeps a NaN operand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

Expr = Any

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the rounded integer in the low mantissa bits
_ROUND_BITS = 0x4B400000
# Cephes expf: exp(r) - 1 - r over |r| <= ln2 / 2.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# Eigen's rational tanh over |x| <= 9.
_TANH_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
# N. Juffa's erff: two branches joined at 0.927734375.
_ERF_SPLIT = 0.927734375
_ERF_BIG = (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
_ERF_SMALL = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def let(value: Expr, use: Callable[[Expr], Expr]) -> Expr:
    """``use(value)`` with ``value`` computed once.

    TVM's passes walk an expression as a tree, so that a value used twice would be visited, and emitted, twice: nested
    functions would grow exponentially.
    """
    if isinstance(value, te.tensor.TensorSlice):
        value = value.asobject()
    var = tirx.Var("v", value.ty.dtype)
    return tirx.Let(var, value, use(var))


def _horner(x: Expr, coefficients: tuple[float, ...], start: Expr | None = None) -> Expr:
    rest = coefficients if start is not None else coefficients[1:]
    p = f32(coefficients[0]) if start is None else start
    for c in rest:
        p = p * x + f32(c)
    return p


def _power_of_two(k: Expr) -> Expr:
    return tirx.reinterpret("float32", (k + 127) << 23)


def _with_exp_parts(x: Expr, use: Callable[[Expr, Expr, Expr], Expr]) -> Expr:
    """``use(em1, a, b)`` with x = n ln2 + r, em1 = exp(r) - 1 and a * b = 2**n; 2**n alone would overflow."""

    def reduced(x: Expr, bits: Expr) -> Expr:
        n = bits.astype("float32")
        r = n * f32(-_LN2_LOW) + (n * f32(-_LN2_HIGH) + x)
        half = bits >> 1
        a, b = _power_of_two(half), _power_of_two(bits - half)
        return let(r, lambda r: let(_horner(r, _EXP) * (r * r) + r, lambda em1: use(em1, a, b)))

    def rounded(x: Expr) -> Expr:
        bits = tirx.reinterpret("int32", x * f32(1.442695040888963) + f32(_ROUND)) - _ROUND_BITS
        return let(bits, lambda bits: reduced(x, bits))

    return let(tirx.max(f32(-103.98), tirx.min(f32(88.8), x)), rounded)


def exp(x: Expr) -> Expr:
    """e**x over the full range, denormal results included; within 1 ulp."""
    return _with_exp_parts(x, lambda em1, a, b: (em1 + f32(1.0)) * a * b)


def expm1(x: Expr) -> Expr:
    """e**x - 1 without cancellation near 0, for x <= 88."""
    return _with_exp_parts(x, lambda em1, a, b: let(a * b, lambda scale: em1 * scale + (scale - f32(1.0))))


def tanh(x: Expr) -> Expr:
    """tanh(x) within 6 ulp."""

    def rational(x: Expr) -> Expr:
        return let(x * x, lambda s: x * _horner(s, _TANH_P) / _horner(s, _TANH_Q))

    return let(tirx.max(f32(-9.0), tirx.min(f32(9.0), x)), rational)


def absolute(x: Expr) -> Expr:
    """|x|; of NaN, NaN."""
    return let(x, lambda x: tirx.Select(x < f32(0.0), -x, x))


def erf(x: Expr) -> Expr:
    """erf(x) within 1.1 ulp."""

    def branches(x: Expr, t: Expr, s: Expr) -> Expr:
        r = f32(-1.72853470e-5) * t + f32(3.83197126e-4)
        u = f32(-3.88396438e-3) * t + f32(2.42546219e-2)
        r = _horner(t, _ERF_BIG, r * s + u) * t - t
        small = _horner(s, _ERF_SMALL) * x + x

        def joined(magnitude: Expr) -> Expr:
            big = tirx.Select(x < f32(0.0), -magnitude, magnitude)
            return tirx.Select(t > f32(_ERF_SPLIT), big, small)

        return let(f32(1.0) - exp(r), joined)

    return let(x, lambda x: let(absolute(x), lambda t: let(x * x, lambda s: branches(x, t, s))))


def log1p_unit(u: Expr) -> Expr:
    """log(1 + u) for 0 <= u <= 1 with full relative accuracy: 2 atanh(u / (2 + u)) by its series."""
    series = tuple(1.0 / (2 * n + 1) for n in range(8, -1, -1))

    def atanh(s: Expr) -> Expr:
        return let(s * s, lambda square: f32(2.0) * s * _horner(square, series))

    return let(u, lambda u: let(u / (u + f32(2.0)), atanh))


def log(x: Expr) -> Expr:
    """log(x) for normal positive x; NaN stays NaN."""

    def parts(x: Expr, bits: Expr) -> Expr:
        exponent = (bits >> 23) - 127
        mantissa = tirx.reinterpret("float32", (bits & 0x007FFFFF) | 0x3F800000)
        value = exponent.astype("float32") * f32(0.6931471805599453) + log1p_unit(mantissa - f32(1.0))
        # TVM would fold a test of x against itself, so NaN is found as what is not positive.
        return tirx.Select(x > f32(0.0), value, x)

    return let(x, lambda x: let(tirx.reinterpret("int32", x), lambda bits: parts(x, bits)))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    return f32(1.0) / (exp(-x) + f32(1.0))


def softplus(x: Expr) -> Expr:
    """log(1 + e**x) = max(x, 0) + log1p(e**-|x|)."""
    return let(x, lambda x: tirx.max(f32(0.0), x) + log1p_unit(exp(-absolute(x))))
