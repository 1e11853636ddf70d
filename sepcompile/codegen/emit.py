"""What a compile writes beside the libraries that Python loads, and how much memory it may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sepcompile.codegen.c_api import StaticLibrary, build_static
from sepcompile.codegen.plan import Compiled
from sepcompile.errors import BudgetError, ConfigError, TargetError
from sepcompile.targets import Target

EXTRAS = ("c-api",)
_UNITS = {"": 1, "K": 1024, "M": 1024**2}


@dataclass(frozen=True)
class Emit:
    """``c_api``: a static library of each variant for a CPU. ``ram`` and ``flash`` limit each of those, in bytes."""

    c_api: bool = False
    ram: int | None = None
    flash: int | None = None

    @staticmethod
    def of(emit: object, ram: object = None, flash: object = None) -> Emit:
        """From the arguments of ``sepcompile.compile``. Raises ``ConfigError``."""
        names = (emit,) if isinstance(emit, str) else emit
        if not isinstance(names, list | tuple) or not set(names) <= set(EXTRAS):
            raise ConfigError(f"emit={emit!r}: expected some of {', '.join(map(repr, EXTRAS))}")
        return Emit("c-api" in names, _bytes(ram, "ram"), _bytes(flash, "flash"))

    def check_targets(self, targets: Sequence[Target]) -> None:
        """Raises ``TargetError`` where the C API is asked for and no target has one, ``ConfigError`` for a limit
        without a library to limit."""
        cpus = [target for target in targets if target.gpu is None]
        if self.c_api and not cpus:
            raise TargetError(f"emit='c-api': target {targets[0].name!r} is a GPU; C programs need one for a CPU")
        for what, limit in (("ram", self.ram), ("flash", self.flash)):
            if limit is not None and not self.c_api and not any(target.bare for target in targets):
                raise ConfigError(f"{what}={limit} limits static libraries; give emit='c-api' (--emit c-api) too")

    def static(self, compiled: Compiled, target: Target, name: str, batch: int | None) -> StaticLibrary | None:
        """The static library of a variant, where there is to be one.

        Raises ``BudgetError`` where it does not fit, ``CompileError``.
        """
        if target.gpu is not None or not (self.c_api or target.bare):
            return None
        library = build_static(compiled, name=name, target=target, batch=batch)
        where = f"{name} for {target.name}"
        if self.flash is not None and library.flash > self.flash:
            parts = f"code {library.code}, weights and other constants {library.constants}"
            raise _too_much(where, "flash", library.flash, parts, self.flash)
        if self.ram is not None and library.ram > self.ram:
            batches = f" of {batch} images" if batch not in (None, 1) else ""
            parts = f"input{batches} {library.input}, output {library.output}, arena {library.arena}"
            stack = "" if library.stack is None else f"; its stack of {library.stack} comes on top"
            raise _too_much(where, "ram", library.ram, parts + stack, self.ram)
        return library


def _too_much(where: str, what: str, needed: int, parts: str, limit: int) -> BudgetError:
    name = "RAM" if what == "ram" else what
    return BudgetError(f"{where}: needs {needed} bytes of {name} ({parts}), {needed - limit} more than {what}={limit}")


def _bytes(value: object, what: str) -> int | None:
    """Bytes from a number or a text such as ``64K`` or ``1M`` (of 1024 and 1024 * 1024)."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    found = re.fullmatch(r"([0-9]{1,12})([KM]?)B?", value.strip().upper()) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ConfigError(f"{what}={value!r}: expected bytes above 0, such as 65536, '64K' or '1M'")
    return int(found[1]) * _UNITS[found[2]]
