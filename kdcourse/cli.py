"""The command `kdcourse`: check, hint and env for who solves the exercises; release, grade and explain for who teaches;
run, results and reproduce for the book's recorded studies.

Exit codes: 0 done (check: all right; env: enough to read, solve and grade; reproduce: reproduced); 1 not so; 2 wrong
use, or a record that forbids it; 3 a data set or the sandbox is missing; 130 interrupted, and what is finished is kept
(run: `--resume`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch

try:
    import typer
except ModuleNotFoundError:
    sys.exit("kdcourse: the command needs typer: pip install 'kdcourse[train]'")

from kdcourse.experiments import study as studies
from kdcourse.grading import commands

NOT_REPRODUCED, WRONG_USE, NO_DATA, INTERRUPTED = 1, 2, 3, 130
SHOWN = 10  # units that are missing; a study may have hundreds

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
Name = Annotated[str, typer.Argument(help=f"One of {', '.join(studies.STUDIES)}.")]
Scale = Annotated[str, typer.Option(help="smoke (seconds, proves that it runs), cpu or gpu, where the study has it.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where records are; without it book/results, and _build/results for smoke.")
]


@app.command()
def run(
    name: Name,
    scale: Scale = "cpu",
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a record that is not complete.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Drop what is recorded at this scale.")] = False,
    folder: Folder = None,
) -> None:
    """Run a study and record each part of it as soon as it is computed."""
    with _plain_errors():
        _check_device(device)
        chosen = studies.study(name)
        file = studies.run(chosen, scale, folder=folder, device=device, resume=resume, anew=anew, progress=True)
        typer.echo(f"{name}, scale {scale}: complete in {file}")


@app.command()
def results(folder: Folder = None) -> None:
    """List what is recorded, how it was made, and what is missing."""
    with _plain_errors():
        for name in studies.STUDIES:
            chosen = studies.study(name)
            typer.echo(f"{name}: {chosen.question}")
            for scale in chosen.scales:
                file = (folder or studies.default_folder(scale)) / f"{name}.json"
                absent, units = studies.missing(chosen, scale, folder), chosen.chosen(scale)
                typer.echo(f"  {scale}: {len(units) - len(absent)} of {len(units)} units recorded")
                if len(absent) < len(units):
                    for what, value in studies.card(file)[scale].items():
                        typer.echo(f"    {what}: {value}")
                    for unit in absent[:SHOWN]:
                        typer.echo(f"    missing: {unit}")
                    if len(absent) > SHOWN:
                        typer.echo(f"    missing: {len(absent) - SHOWN} more")


@app.command()
def reproduce(
    name: Name,
    scale: Scale = "cpu",
    only: Annotated[str | None, typer.Option(help='Units whose name matches, such as "500 images*".')] = None,
    device: Device = "cpu",
    folder: Folder = None,
) -> None:
    """Run a recorded study again, or a part of it, and compare."""
    with _plain_errors():
        _check_device(device)
        chosen = studies.study(name)
        table = studies.reproduce(chosen, scale, only=only, folder=folder, device=device, progress=True)
    typer.echo(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    failed = int((~table.reproduced).sum())
    if failed:
        typer.echo(f"not reproduced: {failed} of {len(table)} means lie outside the tolerance")
        raise typer.Exit(NOT_REPRODUCED)
    typer.echo(f"reproduced: all {len(table)} means lie within the tolerance")


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # not a device, or not on this machine or in this build of torch
        raise ValueError(f"--device must be a device that torch has here, got {device!r}: {error}") from None


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What a user can mend is one line, not a traceback."""
    try:
        yield
    except FileNotFoundError as error:
        typer.echo(f"kdcourse: {error}", err=True)
        raise typer.Exit(NO_DATA) from None
    except ValueError as error:
        typer.echo(f"kdcourse: {error}", err=True)
        raise typer.Exit(WRONG_USE) from None
    except KeyboardInterrupt:
        typer.echo("kdcourse: interrupted; all finished units are recorded, --resume goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None


commands.add_to(app)

if __name__ == "__main__":
    app()
