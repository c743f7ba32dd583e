"""The program of the commands that need models but no daemon: it puts them together and reports errors."""

import sys

import typer

from lorad.apps.cli.model_commands import (
    base_models,
    calibrate,
    dataset_files,
    doctor_command,
    exports,
    imports,
    reproduce,
    verify,
)
from lorad.apps.cli.remedies import remedy
from lorad.apps.screens import terminal
from lorad.errors import LoradError
from lorad.models import hardware

app = typer.Typer(
    cls=terminal.Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for module in (base_models, dataset_files, doctor_command, exports, imports, verify, reproduce, calibrate):
    app.add_typer(module.app)


def main() -> None:
    """Run a command; errors are one sentence."""
    terminal.prepare()
    hardware.quieten()
    try:
        app(prog_name="lorad")
    except LoradError as error:
        terminal.complain(error.message + remedy(error))
        sys.exit(1)
    except OSError as error:
        sys.exit(terminal.fail(error))
