"""``lorad export``: write a version for another program."""

from pathlib import Path
from typing import Annotated

import typer

from lorad import records
from lorad.apps.cli.model_commands.context import find_track, load, named_base
from lorad.apps.cli.model_commands.options import (
    BaseOption,
    ConfigOption,
    DifferentOption,
    HomeOption,
    JsonOption,
    SetOption,
    TrackOption,
)
from lorad.apps.cli.model_commands.output import say
from lorad.errors import ConfigError
from lorad.models import bases
from lorad.tasks import find
from lorad.versions import export

app = typer.Typer()

OTHER_BASE = "other_base.json"
"""The file in an export onto another base that records both bases."""


@app.command("export")
def export_version(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")],
    target: Annotated[Path, typer.Argument(help="The folder to create; it must not exist.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help=f"{', '.join(export.FORMATS)}: gguf for llama.cpp and Ollama, onnx for labels."
        ),
    ] = "adapter",
    purpose: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Instead of --format. inference: a folder that transformers' AutoModel… classes load.",
        ),
    ] = None,
    base: BaseOption = None,
    different: DifferentOption = False,
    track: TrackOption = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a version for another program, then reload it and check its answers to the version's probes."""
    form = _form(form, purpose)
    home, settings = load(home_path, config, overrides)
    export.check(target, form, home.root)
    registry, own_base = find_track(home, settings, track)
    chosen = named_base(home, base) if base else own_base
    fingerprint = bases.read_fingerprint(chosen)
    version = registry.resolve(version)
    made_for = registry.manifest(version)["base"]
    folder = registry.verify(version, None if different else fingerprint)
    other = {"version": version, "made_for": made_for, "base": fingerprint}
    papers = {OTHER_BASE: other} if made_for != fingerprint else {}
    task = find(settings.track(track).task)
    made = export.export(
        folder, chosen, target, form, strict=made_for == fingerprint, papers=papers, task=task
    )
    say(
        {"version": folder.name, "format": form, "path": str(target), **records.as_json(made)},
        as_json,
        f"exported {folder.name} to {target} as {form}; after reloading, its logits differ by at most {made.difference:.2g}"
        + (f"; it was made for another base, see {OTHER_BASE}" if made_for != fingerprint else ""),
        made.notes,
    )


def _form(form: str, purpose: str | None) -> str:
    """Return the format that serves a purpose; raise ``ConfigError`` for an unknown one."""
    if purpose is None:
        return form
    if purpose not in export.PURPOSES:
        known = ", ".join(export.PURPOSES)
        raise ConfigError(f"there is no export for {purpose!r}; known: {known}", code="no_such_purpose")
    return export.PURPOSES[purpose]
