"""sepcompile: compiles Keras depthwise and separable convolution layers into artifacts that need only NumPy.

``compile`` turns a layer into an artifact folder, ``load`` runs one; see ``sepcompile.api``. Names are imported on
first use, so that ``import sepcompile`` costs a few milliseconds and loading an artifact never imports the compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepcompile.api import Artifact, compile, inspect, list_targets, load, verify
    from sepcompile.autotune import tune
    from sepcompile.compute.planar_record import PlanarSchedule
    from sepcompile.compute.record import Schedule
    from sepcompile.errors import SepcompileError
    from sepcompile.live import optimize
    from sepcompile.signing import sign

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "PlanarSchedule",
    "Schedule",
    "SepcompileError",
    "__version__",
    "compile",
    "inspect",
    "list_targets",
    "load",
    "optimize",
    "sign",
    "tune",
    "verify",
]

_HOMES = {
    "PlanarSchedule": "sepcompile.compute.planar_record",
    "Schedule": "sepcompile.compute.record",
    "SepcompileError": "sepcompile.errors",
    "optimize": "sepcompile.live",
    "sign": "sepcompile.signing",
    "tune": "sepcompile.autotune",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sepcompile' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "sepcompile.api")), name)


def __dir__() -> list[str]:
    return list(__all__)
