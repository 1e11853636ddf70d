# `make demo` and `make test` start from a bare checkout: they need make and a Python >= 3.11, and install into .venv.
#   make PYTHON=/path/to/python3.12 demo     another Python
#   make test JOBS=4 ARGS="-k causal"        more processes, some of the tests

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow bench gpu-check arm-sysroot musl-python lint docs clean

help:
	@echo "make demo       compile, verify and time the layers of two networks on this machine"
	@echo "make test       run the tests"
	@echo "make test-slow  run the exhaustive tests"
	@echo "make bench      race the benchmark layers against the installed peers (minutes)"
	@echo "make gpu-check  check and time the CUDA kernels beside PyTorch (needs a GPU and PyTorch)"
	@echo "make arm-sysroot  unpack Python and NumPy of ARM and RISC-V into build/arm, for emulation (Debian)"
	@echo "make musl-python  build a Python on musl into build/musl, for the tests of the loader (Debian, minutes)"
	@echo "make lint       ruff and mypy"
	@echo "make docs       rewrite the tables and outputs in README.md and docs/"
	@echo "make clean      remove .venv, build/ and caches"

demo: $(VENV)/.installed
	@$(BIN)/sepcompile demo

# A file of tests stays in one process, so that what it compiles is compiled once.
test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(ARGS)

# Peers live beside the project's own packages; a peer that is not there is left out.
bench: $(VENV)/.installed
	@$(PIP) -e '.[bench]'
	@$(BIN)/sepcompile bench --suite dev --html build/bench.html $(ARGS)

# Packs where TVM is, checks where the GPU is: on another machine run the second line with the same repository.
gpu-check: $(VENV)/.installed
	@$(PIP) -e '.[cuda]'
	@$(BIN)/python benchmarks/gpu_pack.py build/gpu
	@$(PYTHON) benchmarks/gpu_check.py build/gpu benchmarks/results

# Python of ARM and RISC-V machines, unpacked and not installed; with qemu-user it runs here. No privileges are needed.
arm-sysroot: $(VENV)/.installed
	@$(BIN)/python -m sepcompile.bench.emulate.sysroot build/arm --arch arm64 --arch armhf --arch riscv64

musl-python:
	@tests/musl/make_python.sh build/musl

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(VENV)/.installed
	@$(BIN)/python docs/make_tables.py --write
	@$(BIN)/python docs/quickstart.py --write

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second `make` quick; a change of pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml | $(VENV)/.created
	@echo "installing sepcompile into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.created
	@echo "installing sepcompile and its test tools into $(VENV) ..."
	@$(PIP) -e '.[test,lint]'
	@touch $@ $(VENV)/.installed

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not found; sepcompile needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); sepcompile needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
