"""``lorad init``: make a home."""

from pathlib import Path
from typing import Annotated

import typer

from lorad.apps.screens import state_text, terminal
from lorad.errors import ConfigError

app = typer.Typer()


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Made if it is missing; what is there stays.")]) -> None:
    """Make a home: configs/, inbox/ and models/."""
    from lorad.storage.files import make_folder, write_bytes  # noqa: PLC0415 - see lorad.apps.cli

    texts = {f"{name}/README.md": text for name, text in state_text.README.items()}
    for name, text in (texts | {"configs/default.yaml": _settings_to_change()}).items():
        file = folder / name
        try:
            make_folder(file.parent)
            if not file.exists():
                write_bytes(file, text.encode())
        except OSError as error:
            raise ConfigError(f"{file.parent} cannot be made: {error.strerror}", code="no_home") from None
    terminal.say(
        f"{folder} is a lorad home. Next:",
        f"  lorad --home {folder} base --help",
        f"  lorad --home {folder} run",
    )


def _settings_to_change() -> str:
    """Return the shipped settings, all of them commented out: what nobody changed follows later defaults."""
    from importlib import resources  # noqa: PLC0415 - see lorad.apps.cli

    shipped = resources.files("lorad").joinpath("default.yaml").read_text(encoding="utf-8")
    lines = (f"#{line}" if line and not line.startswith("#") else line for line in shipped.splitlines())
    return "\n".join([state_text.COMMENTED_OUT, "", *lines, ""])
