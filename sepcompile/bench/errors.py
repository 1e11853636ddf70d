"""What can go wrong in a benchmark, as types.

A peer that fails is no exception to the driver: it becomes a line of the report. These are for the rest.
"""

from __future__ import annotations


class BenchError(RuntimeError):
    """A benchmark cannot run as asked: an unknown suite, peer or option."""


class PeerError(RuntimeError):
    """A peer's process failed, answered nonsense or took too long; the message is the reason in the report."""


class UnsupportedLayerError(RuntimeError):
    """An adapter cannot express this layer in its peer; the row says so and the run goes on."""
