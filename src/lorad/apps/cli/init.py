"""``lorad init``: make a home."""

from pathlib import Path
from typing import Annotated

import typer

from lorad.apps.screens import terminal
from lorad.errors import ConfigError
from lorad.storage.files import make_folder, write_bytes

app = typer.Typer()

README = {
    "configs": """# configs

The settings of this home, in YAML. `default.yaml` is read at every start and lists all settings; other files, and those
that come with lorad (`documents`, `ner`, `scratch`, `spectra`, `lcr`, `cpu` and more), are chosen with
`lorad --config NAME run`. Single settings: `lorad --set inbox.settle_seconds=1 run`.
""",
    "inbox": """# inbox

lorad learns every dataset that you put here: a JSON list or JSON lines, with one question and answer per row:

    [{"question": "Where is the library?", "answer": "In the old mill."}]

`lorad drop FILE` copies a file here safely, `lorad wait` waits until it is learned. Learned files move to `done/`;
files that cannot be used move to `failed/`, with the reason in a file beside them.
""",
    "models": """# models

`base/` holds the base models (see `lorad base --help`); each other folder holds the versions of one track. lorad
writes here; do not change anything by hand.
""",
}
"""What ``lorad init`` writes into the folders of a new home."""

COMMENTED_OUT = """\
# Everything here but the track is commented out, so the defaults apply. To change a setting, remove the # in front of it and
# in front of its section's name, without changing the indentation, and restart the daemon."""
"""The beginning of a new home's ``configs/default.yaml``."""
TRACK = ("tracks:", "  chat:", "    task: chat", "    base: smollm2")
"""What stands in it as it is: tracks of other files and options come beside those that are named there."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Created if it is missing; existing files are kept.")],
) -> None:
    """Create a home: configs/, inbox/ and models/."""
    texts = {f"{name}/README.md": text for name, text in README.items()}
    for name, text in (texts | {"configs/default.yaml": _settings_to_change()}).items():
        file = folder / name
        try:
            make_folder(file.parent)
            if not file.exists():
                write_bytes(file, text.encode())
        except OSError as error:
            raise ConfigError(f"{file.parent} cannot be created: {error.strerror}", code="no_home") from None
    terminal.say(
        f"{folder} is a lorad home. Next:",
        f"  lorad --home {folder} base add smollm2   # the model that learns",
        f"  lorad --home {folder} base add minilm    # the encoder that finds what a question asks for",
        f"  lorad --home {folder} run",
    )


def _settings_to_change() -> str:
    """Return the shipped settings, all commented out: unset keys use the defaults, those of a later lorad as well."""
    from importlib import resources  # noqa: PLC0415 - see lorad.apps.cli

    shipped = resources.files("lorad").joinpath("default.yaml").read_text(encoding="utf-8")
    lines = (
        f"#{line}" if line and not line.startswith("#") and line not in TRACK else line
        for line in shipped.splitlines()
    )
    return "\n".join([COMMENTED_OUT, "", *lines, ""])
