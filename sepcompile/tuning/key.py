"""What a tuning result is valid for. Keys are compared whole; their hash only finds the row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from sepcompile.codegen.cache import source_digest, tool_versions
from sepcompile.compute.form import Form
from sepcompile.targets import Target
from sepcompile.tuning.runner import MachineIdentity


@dataclass(frozen=True)
class Key:
    """Four texts. program: the canonical form of the layer, without names, places or weight values. target: what is
    compiled for, with the machine model. versions: of the tools and of our own code generation. machine: what measured.
    """

    program: str
    target: str
    versions: str
    machine: str

    @property
    def hash(self) -> str:
        """A digest of the four."""
        return hashlib.sha256(json.dumps([self.program, self.target, self.versions, self.machine]).encode()).hexdigest()


def make_key(form: Form, target: Target, batch: int | None, machine: MachineIdentity) -> Key:
    """The key of results for ``form`` on ``target``, as this version compiles it and ``machine`` measures it.

    The batch matters to GPUs only: CPU kernels work on one image.
    """
    program = {"form": repr(form), "batch": batch if target.gpu is not None else None}
    described = {
        "family": target.family, "arch": target.arch, "tvm": dict(target.tvm), "requires": sorted(target.requires),
        "machine": asdict(target.machine), "gpu": asdict(target.gpu) if target.gpu is not None else None,
        "images": list(target.images),
    }  # fmt: skip
    return Key(_text(program), _text(described), current_versions(), _text(machine.to_json()))


def current_versions() -> str:
    """The versions part of a key made now."""
    return _text({"tools": tool_versions(), "source": source_digest()})


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
