"""The rooms of the package and which way imports may run, read from the source; and what importing it costs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sepcompile"

# Which rooms each room may import, beside itself. `errors` and `targets` are open to all but `runtime`.
OPEN = {"errors", "targets"}
ARROWS = {
    "runtime": set(),
    "errors": {"runtime"},  # the loader's own errors are the same classes
    "targets": {"errors", "runtime"},  # the loader's list of CPU features decides what `native` is
    "ir": set(),
    "frontend": {"ir"},
    "compute": {"ir"},
    "schedule": {"compute", "ir"},
    # It writes what the runtime reads: the format's names come from the reader, whose files it copies.
    "codegen": {"schedule", "compute", "ir", "runtime"},
    "tuning": {"schedule", "codegen", "runtime", "compute", "ir"},
}
# On top: these may import every room, and no room imports them.
TOPS = {"api", "autotune", "models", "live", "cli", "demo", "bench", "signing", "__init__", "__main__"}
# Beside the standard library and NumPy.
FOREIGN = {
    "compute": {"tvm", "tvm_ffi"},
    "schedule": {"tvm", "tvm_ffi"},
    "codegen": {"tvm", "tvm_ffi", "jinja2", "ziglang", "elftools", "platformdirs"},
    "tuning": {"distributed"},
    "frontend": {"safetensors"},
    "signing": {"cryptography"},
    "autotune": {"platformdirs"},
    "cli": {"click", "rich"},
}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def rooms() -> set[str]:
    return {room_of(path) for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, relative ones made absolute."""
    package = ("sepcompile", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            # `from sepcompile import api` imports a room, `from sepcompile.api import load` a name of one.
            yield from ((f"{base}.{alias.name}" if base == "sepcompile" else base, node.lineno) for alias in node.names)


def edges() -> Iterator[tuple[str, str, str]]:
    """(room, imported top-level name or room of ours as ".room", place)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for module, line in imports(path):
            first, _, rest = module.partition(".")
            name = "." + rest.partition(".")[0] if first == "sepcompile" else first
            yield room_of(path), name, f"{path.relative_to(ROOT)}:{line}"


def test_every_room_has_its_arrows():
    assert rooms() <= set(ARROWS) | TOPS


def test_arrows_between_rooms():
    known = rooms()
    wrong = []
    for room, name, place in edges():
        other = name.removeprefix(".")
        if not name.startswith(".") or other == room or room in TOPS or other not in known:
            continue  # not ours, its own, on top, or a name such as __version__
        allowed = ARROWS[room] | (OPEN if room not in ("runtime", *OPEN) else set())
        if other not in allowed:
            wrong.append(f"{place}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_foreign_packages_stay_in_their_rooms():
    wrong = []
    for room, name, place in edges():
        if name.startswith(".") or name in sys.stdlib_module_names or name == "numpy" or room == "bench":
            continue  # the benchmark's peers are other people's libraries, each in a process of its own
        if name not in FOREIGN.get(room, set()):
            wrong.append(f"{place}: {room} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing_at_once():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    found = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert found == ["from __future__ import annotations", "from typing import TYPE_CHECKING, Any"]


def test_runtime_imports_only_itself_relatively():
    """Its files are copied into artifacts, where there is no package called sepcompile."""
    for path in (PACKAGE / "runtime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path}:{node.lineno}"
                assert node.level == 1 or (node.module or "").partition(".")[0] != "sepcompile"
                assert "runtime" not in (node.module or "").split("."), f"{path}:{node.lineno}"


def test_no_file_is_too_long():
    long = {str(path): n for path in PACKAGE.rglob("*.py") if (n := path.read_text().count("\n")) >= 400}
    assert not long


# ---- in a process of its own ---------------------------------------------------------------------------------------


def run_python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick_and_light():
    code = """
        import sys, time
        start = time.perf_counter()
        import sepcompile
        seconds = time.perf_counter() - start
        heavy = {"numpy", "tvm", "tvm_ffi", "click", "rich", "jinja2", "safetensors"} & set(sys.modules)
        assert not heavy, heavy
        print(seconds)
    """
    # The least of several: another process may have had the CPU.
    assert min(float(run_python(code)) for _ in range(5)) < 0.1


def test_help_imports_no_compiler():
    code = """
        import sys
        from sepcompile.cli import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        assert not {"numpy", "tvm", "tvm_ffi"} & set(sys.modules)
    """
    run_python(code)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    import sepcompile

    config = {"class_name": "DepthwiseConv2D", "config": {"name": "dw", "kernel_size": 3}}
    return sepcompile.compile(config, (None, 4, 4, 8), output=tmp_path_factory.mktemp("arrows") / "dw").path


def test_load_needs_neither_tvm_nor_the_compiler(artifact):
    code = """
        import sys
        blocked = ("tvm", "tvm_ffi", "jinja2", "safetensors", "click", "rich", "ziglang", "platformdirs")
        sys.modules.update(dict.fromkeys(blocked))  # importing one of them now fails
        import sepcompile
        import numpy as np
        layer = sepcompile.load(sys.argv[1], selftest=True)
        assert layer(np.ones((2, 4, 4, 8), np.float32)).shape == (2, 2, 2, 8)
        assert sepcompile.verify(sys.argv[1]).passed
        sepcompile.inspect(sys.argv[1])
        loaded = {name.split(".")[1] for name in sys.modules if name.startswith("sepcompile.")}
        assert loaded <= {"api", "runtime", "errors", "targets"}, loaded
    """
    run_python(code, artifact)


def test_compiling_keeps_tvm_out_of_the_process(tmp_path):
    code = """
        import sys
        import sepcompile
        config = {"class_name": "DepthwiseConv2D", "config": {"name": "dw", "kernel_size": 3}}
        sepcompile.compile(config, (None, 4, 4, 8), output=sys.argv[1], cache=False)
        assert not {"tvm", "tvm_ffi"} & set(sys.modules)
    """
    run_python(code, tmp_path / "dw")
