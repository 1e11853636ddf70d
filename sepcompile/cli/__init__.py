"""The command line. ``main`` is the entry point; each file in ``commands/`` is one command."""

from __future__ import annotations

from sepcompile.cli.app import main

__all__ = ["main"]
