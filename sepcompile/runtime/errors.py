"""The errors of the loader, which must not import anything but the standard library."""


class SepcompileError(Exception):
    """The root of every error that sepcompile raises on purpose."""


class ArtifactError(SepcompileError):
    """An artifact is damaged, of an unknown version, or not for this machine."""


class InputError(SepcompileError, ValueError):
    """A tensor does not fit the layer: shape, dtype or device."""


class DeviceError(SepcompileError):
    """A GPU or its driver failed: too little memory, a failed launch."""
