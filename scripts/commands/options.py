"""What commands share: the application, options that several have, and how they find their project."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from scripts.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from scripts.project import Project


class Commands(TyperGroup):
    """The commands; Ctrl-C at a question ends each with 130, as anywhere outside a run."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except typer.Abort as error:
            raise typer.Exit(130) from error


def examples(*lines: str) -> str:
    """Format a command's examples for the end of its help."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    cls=Commands,
    help="Which model server should I run for this model, on this hardware, at this load?",
    epilog="Exit status: 0 all held; 1 an objective was missed or a regression shown; "
    "2 wrong usage or input; 3 the measurement is not valid, or a trial could not be made.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Where = Annotated[str, typer.Option(help="Where: auto, local, kind or cluster.")]
KubeContext = Annotated[
    str | None, typer.Option("--context", help="Context of your kubeconfig; default: the current one.")
]
Namespace = Annotated[str, typer.Option(help="Namespace in the cluster; a run makes it where it is missing.")]
Registry = Annotated[
    str | None,
    typer.Option(envvar="MODELSWARM_REGISTRY", help="Where a cluster gets the images from."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Baseline = Annotated[
    str | None, typer.Option(help='The run that "p99 < 1.2 * baseline" holds this one against.')
]


def price(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Let a price through that is one: not negative, and neither infinite nor `nan`."""
    if value is not None and not 0 <= value < math.inf:
        option = parameter.opts[0]
        raise UserError(f"{option} {value:g} is not a price: write a number such as {option} 0.04.")
    return value


PriceCpu = Annotated[
    float | None, typer.Option(help="Price of a vCPU-hour, for the cost table.", callback=price)
]
PriceMemory = Annotated[float | None, typer.Option(help="Price of a GiB-hour of memory.", callback=price)]
Junit = Annotated[Path | None, typer.Option(help="Also write junit.xml here.", dir_okay=False)]


def project_of(context: typer.Context) -> Project:
    """Return the project that the command is about."""
    from scripts.project import Project, find_root

    return Project(find_root(context.obj, os.environ, Path.cwd()))


def console() -> Console:
    """Return the terminal, or whatever stands in its place."""
    from rich.console import Console

    # A log has no edge to wrap at, and a table needs one.
    return Console() if sys.stdout.isatty() else Console(width=shutil.get_terminal_size((140, 24)).columns)


def tell_left_out(reasons: Mapping[str, str], terminal: Console) -> None:
    """Print which backends cannot be measured, and why."""
    for key, reason in reasons.items():
        terminal.print(f"{key} is left out: {reason}", highlight=False, markup=False)


def names_in(values: list[str] | None) -> list[str]:
    """Split what may be given several times, or as one text with commas or spaces."""
    return [name for value in values or [] for name in value.replace(",", " ").split()]
