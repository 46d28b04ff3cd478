"""The `modelswarm` command. Its commands are in `scripts/commands/`.

What those do is in modules that each imports when it runs, so that it starts with no more than it needs.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.commands import machine, measure, results  # noqa: F401  # each makes its commands known
from scripts.commands.options import app
from scripts.errors import CannotRun, UserError
from scripts.output import outlive_readers


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    root: Annotated[
        Path | None,
        typer.Option(envvar="MODELSWARM_ROOT", help="The project; default: the nearest parent that is one."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which model server should I run for this model, on this hardware, at this load?"""
    if version:
        from importlib import metadata

        print(f"modelswarm {metadata.version('modelswarm')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
    context.obj = root


def main() -> None:
    """Run the command; turn what a person can do something about into a sentence and an exit status."""
    outlive_readers()
    try:
        app()
    except UserError as error:
        print(f"modelswarm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        failed = cannot_run(error)
        print(f"modelswarm: {failed}", file=sys.stderr)
        sys.exit(failed.exit_code)


def cannot_run(error: OSError) -> CannotRun:
    """Say what this machine refused; a traceback would end with 1, as if an objective were missed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "while writing"
        return CannotRun(f"The disk is full ({where}): free some space and try again.")
    where = error.filename2 or error.filename  # the second is what was to be replaced
    return CannotRun(f"{where}: {error.strerror}." if where else f"{error}")
