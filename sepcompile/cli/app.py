"""The group of commands, and how every way to end becomes an exit code.

0: done. 1: ``verify`` or ``demo`` found something wrong, or a bug of ours. 2: bad input, told in one line.
130: interrupted. 141: the reader of our output went away.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from sepcompile import __version__
from sepcompile.cli import commands
from sepcompile.cli.output import safe
from sepcompile.errors import SepcompileError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


class Commands(click.Group):
    """One command per module of ``sepcompile.cli.commands``, imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"{commands.__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="sepcompile", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compile Keras depthwise and separable convolution layers into artifacts that need only NumPy.

    \b
    Example:
      sepcompile compile layer.json --input-shape None,112,112,32 --output build/conv1
      sepcompile run build/conv1 --benchmark
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may not be encodable
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = _invoke(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)  # the next line of the terminal starts clean, after the ^C
        return EXIT_INTERRUPTED
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "sepcompile"
        return _fail(f"{error.format_message().rstrip('.')} (see {command} --help)")
    except click.ClickException as error:
        return _fail(error.format_message())
    except SepcompileError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _drop_output()
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except MemoryError as error:
        return _fail(f"not enough memory: {error}")
    except Exception as error:
        return _bug(error)


def _invoke(arguments: list[str]) -> int:
    # Not cli.main(), which has a code of its own for a broken pipe.
    try:
        with cli.make_context("sepcompile", arguments) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _fail(message: str) -> int:
    click.echo(f"sepcompile: error: {safe(' '.join(message.split()))}", err=True)
    return EXIT_BAD_INPUT


def _bug(error: Exception) -> int:
    if os.environ.get("SEPCOMPILE_TRACEBACK"):
        raise error
    _fail(f"internal: {type(error).__name__}: {error} (SEPCOMPILE_TRACEBACK=1 shows where; please report it)")
    return EXIT_FAILED


def _drop_output() -> None:
    """What is still buffered goes nowhere, so that the interpreter's own flush at exit stays quiet too."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
