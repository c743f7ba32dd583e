"""Commands that become another program by ``execv``: the daemon, and ``model_commands``.

What lives here: passing arguments on. What never does: parsing them; the other program does.
"""

import os
import sys
from typing import NoReturn

import typer

from lorad.errors import ConfigError

app = typer.Typer()
FORWARDED = ("base", "plan", "check", "doctor", "export", "verify", "reproduce", "calibrate")

GROUPS = ("base",)
"""Groups of commands; their commands take a home, but no settings."""

AS_TYPED = {
    "add_help_option": False,
    "context_settings": {
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    },
}


@app.command()
def run(ctx: typer.Context) -> None:
    """Run the daemon in the foreground."""
    _become("lorad.apps.daemon.app", ctx.obj.arguments())


@app.command(**AS_TYPED)  # type: ignore[arg-type]  # one dict holds differently typed options
def base(ctx: typer.Context) -> None:
    """Add and list base models; see: lorad base --help."""
    hand_over(ctx, "base")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def plan(ctx: typer.Context) -> None:
    """Show how lorad would train on a file; see: lorad plan --help."""
    hand_over(ctx, "plan")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def check(ctx: typer.Context) -> None:
    """Validate a dataset file; see: lorad check --help."""
    hand_over(ctx, "check")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def doctor(ctx: typer.Context) -> None:
    """Check this machine and this home, and suggest remedies; see: lorad doctor --help."""
    from lorad.apps.cli.packages import check_packages  # noqa: PLC0415 - 20 ms that `lorad status` need not spend

    # without some of them the other program cannot start
    missing = [found for found in check_packages() if found.status == "fail"]
    if missing:
        missing_packages = "; ".join(f"{found.name} {found.detail}: {found.remedy}" for found in missing)
        raise ConfigError(missing_packages, code="no_package")
    hand_over(ctx, "doctor")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def export(ctx: typer.Context) -> None:
    """Export a version as an adapter, a merged model or GGUF; see: lorad export --help."""
    hand_over(ctx, "export")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def verify(ctx: typer.Context) -> None:
    """Load versions and run all checks and probes; see: lorad verify --help."""
    hand_over(ctx, "verify")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def reproduce(ctx: typer.Context) -> None:
    """Train a version again and compare; see: lorad reproduce --help."""
    hand_over(ctx, "reproduce")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def calibrate(ctx: typer.Context) -> None:
    """Measure a version's calibration, or its drift; see: lorad calibrate --help."""
    hand_over(ctx, "calibrate")


def hand_over(ctx: typer.Context, *command: str) -> NoReturn:
    """Pass on the arguments as they were typed, followed by the options before the command."""
    cut = ctx.args.index("--") if "--" in ctx.args else len(ctx.args)
    is_group = command[0] in GROUPS
    has_command = not is_group or (ctx.args and not ctx.args[0].startswith("-"))  # else it needs no home
    known = ctx.obj.arguments(with_settings=not is_group) if has_command else []
    _become("lorad.apps.cli.model_commands", [*command, *ctx.args[:cut], *known, *ctx.args[cut:]])


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Replace this program by another one, which then owns the signals, the exit status and the terminal."""
    sys.stdout.flush()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars would fill a log
    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: a torch.py here is not torch
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point
