"""Commands that become another program by ``execv``: the daemon, and what needs models.

What lives here: handing over what was typed. What never does: reading it; the other program does.
"""

import os
import sys
from typing import NoReturn

import typer

from lorad.errors import ConfigError

app = typer.Typer()


FORWARDED = ("base", "plan", "check", "doctor", "export", "verify", "reproduce", "calibrate")


GROUPS = ("base",)
"""Commands of commands: those below them take a home, and no settings."""


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
    """Add base models and look at them; see: lorad base --help."""
    hand_over(ctx, "base")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def plan(ctx: typer.Context) -> None:
    """Show how a file would be learned; see: lorad plan --help."""
    hand_over(ctx, "plan")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def check(ctx: typer.Context) -> None:
    """Read a file as the inbox would, and report; see: lorad check --help."""
    hand_over(ctx, "check")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def doctor(ctx: typer.Context) -> None:
    """Say what is wrong with this machine and this home, and the remedy; see: lorad doctor --help."""
    from lorad.apps.cli.doctor import packages  # noqa: PLC0415 - 20 ms that `lorad status` need not spend

    # the other program could not even start without some of them
    missing = [found for found in packages() if found.status == "fail"]
    if missing:
        told = "; ".join(f"{found.name} {found.detail}: {found.remedy}" for found in missing)
        raise ConfigError(told, code="no_package")
    hand_over(ctx, "doctor")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def export(ctx: typer.Context) -> None:
    """Write a version for another program: an adapter, a merged model, GGUF; see: lorad export --help."""
    hand_over(ctx, "export")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def verify(ctx: typer.Context) -> None:
    """Load versions with every check and their probes; see: lorad verify --help."""
    hand_over(ctx, "verify")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def reproduce(ctx: typer.Context) -> None:
    """Make a version once more and compare; see: lorad reproduce --help."""
    hand_over(ctx, "reproduce")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def calibrate(ctx: typer.Context) -> None:
    """Measure whether a version is as right as it is sure, or has drifted; see: lorad calibrate --help."""
    hand_over(ctx, "calibrate")


def hand_over(ctx: typer.Context, command: str) -> NoReturn:
    """Pass on what was typed as it was typed, and what stood before the command after it."""
    cut = ctx.args.index("--") if "--" in ctx.args else len(ctx.args)
    is_group = command in GROUPS
    has_command = not is_group or (ctx.args and not ctx.args[0].startswith("-"))  # else it is of no home
    known = ctx.obj.arguments(with_settings=not is_group) if has_command else []
    _become("lorad.apps.cli.model_commands", [command, *ctx.args[:cut], *known, *ctx.args[cut:]])


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Turn into another program: signals, exit status and terminal are its own from here on."""
    sys.stdout.flush()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a bar of the libraries would fill a log
    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: a torch.py here is not torch
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point
