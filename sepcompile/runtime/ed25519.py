"""Ed25519 signatures, checked as RFC 8032, section 5.1.7, describes; the standard library only.

Nothing here is secret, so nothing needs to take constant time. Signing does, and is left to a library that is made for
it. One check takes some milliseconds.
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
"""The order of the base point."""
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
"""A square root of -1."""

# A point as (X, Y, Z, T) with x = X / Z, y = Y / Z and x y = T / Z.
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (64 bytes) is one of ``message`` by the holder of the key that ``public_key`` (32) tells.

    The encoding of R is compared, not the point, and S must be below the group's order, so that nobody can make a
    second signature out of a first.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    point, scalar = _decoded(public_key), int.from_bytes(signature[32:], "little")
    if point is None or scalar >= _L:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    challenge = int.from_bytes(digest, "little") % _L
    negated = (-point[0] % _P, point[1], point[2], -point[3] % _P)
    return _encoded(_sum(_times(scalar, _BASE), _times(challenge, negated))) == signature[:32]


def _sum(one: _Point, other: _Point) -> _Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while scalar > 0:
        if scalar & 1:
            result = _sum(result, point)
        point = _sum(point, point)
        scalar >>= 1
    return result


def _encoded(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(data: bytes) -> _Point | None:
    """The point, or None for bytes that encode none."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & (2**255 - 1)
    x = _root(y, sign) if y < _P else None
    return None if x is None else (x, y, 1, x * y % _P)


def _root(y: int, sign: int) -> int | None:
    """The x of this sign on the curve."""
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    return x if x & 1 == sign else _P - x


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _root(_BASE_Y, 0) or 0
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)
