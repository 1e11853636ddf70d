"""The errors a user can meet, as one tree.

::

    SepcompileError
    ├── ConfigError(ValueError)      a layer config, a shape or a file that holds them is wrong
    ├── WeightError(ValueError)      a weight is missing, of the wrong shape or not readable
    ├── UnsupportedError             correct Keras, but not compiled (yet); says what is
    ├── TargetError(ValueError)      an unknown, malformed or unusable target
    ├── ScheduleError(ValueError)    a schedule record that does not fit its program or target
    ├── BudgetError(ValueError)      a layer takes more flash or RAM than was allowed
    ├── CompileError                 code generation, the C compiler or the linker failed
    ├── ArtifactError                an artifact is damaged, of another version or for another machine
    ├── InputError(ValueError)       a tensor handed to a compiled layer does not fit it
    ├── DeviceError                  a GPU or its driver failed: too little memory, a failed launch
    └── TuningError                  a search, a measurement or the tuning database failed

Every message says which layer, which field and which value, and what would be accepted.
The emitted loader carries ``ArtifactError``, ``InputError`` and ``DeviceError`` of its own, which are the same classes
as here (``sepcompile.runtime.errors``).
"""

from sepcompile.runtime.errors import ArtifactError, DeviceError, InputError, SepcompileError

__all__ = [
    "ArtifactError",
    "BudgetError",
    "CompileError",
    "ConfigError",
    "DeviceError",
    "InputError",
    "ScheduleError",
    "SepcompileError",
    "TargetError",
    "TuningError",
    "UnsupportedError",
    "WeightError",
]


class ConfigError(SepcompileError, ValueError):
    """A layer config, a shape or a file that holds them is wrong."""


class WeightError(SepcompileError, ValueError):
    """A weight is missing, has the wrong shape or dtype, or cannot be read."""


class UnsupportedError(SepcompileError):
    """Legal Keras that sepcompile does not compile; the message says what it does."""


class TargetError(SepcompileError, ValueError):
    """A target is unknown, malformed, or cannot be used here."""


class ScheduleError(SepcompileError, ValueError):
    """A schedule record does not fit its program or its target."""


class BudgetError(SepcompileError, ValueError):
    """A layer takes more flash or RAM of its target than was allowed; the message says how much it needs."""


class CompileError(SepcompileError):
    """Code generation, the C compiler or the linker failed."""


class TuningError(SepcompileError):
    """A search, a measurement or the tuning database failed."""
