"""``lorad versions add``: import an externally trained adapter or model as a version."""

import contextlib
import math
import os
import re
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from lorad.apps.cli.model_commands.context import find_track, load, named_base, open_database
from lorad.apps.cli.model_commands.options import (
    BaseOption,
    ConfigOption,
    DifferentOption,
    HomeOption,
    JsonOption,
    SetOption,
    TrackOption,
)
from lorad.apps.cli.model_commands.output import console, say
from lorad.config import Settings
from lorad.errors import ConfigError, LoradError
from lorad.home import Home
from lorad.models import bases
from lorad.serving.client import Client
from lorad.storage import permissions
from lorad.storage.memory import Memory
from lorad.tasks import encode, find
from lorad.versions import import_version
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

app = typer.Typer()


METRIC = re.compile(r"[A-Za-z0-9][\w .@/%-]{0,99}")


LONGEST_DESCRIPTION = 1000


@app.command("adopt")
def adopt_version(
    version: Annotated[str, typer.Argument(help="The name that it gets, like v0.3.")],
    source: Annotated[Path, typer.Argument(help="A PEFT adapter, a whole model, or a file of tensors.")],
    description: Annotated[str, typer.Option("--description", help="What people should know of it.")] = "",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME=VALUE", help="A figure of it, repeatable.")
    ] = None,
    set_latest: Annotated[bool, typer.Option("--set-latest", help="Serve it at once.")] = False,
    base: BaseOption = None,
    different: DifferentOption = False,
    track: TrackOption = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enter what another program trained as a version, after the checks that every version passes."""
    os.umask(permissions.UMASK)
    place, settings = load(home, config, overrides)
    registry, base_folder = find_track(place, settings, track)
    registry.check_free(version)
    performance = _metrics(metric or [])
    _check_description(description)
    import_version.check_source(source)
    made_for = bases.read_fingerprint(named_base(place, base)) if base else import_version.made_for(source)
    fingerprint = bases.verify_base(base_folder)
    is_other = made_for is not None and made_for != fingerprint
    if is_other and not different:
        raise ConfigError(
            f"{source} was made for another base model than {base_folder.name}; if that is meant: --allow-different-base",
            code="wrong_base",
        )
    loaded = bases.load_base(base_folder, torch.float32)
    found = import_version.read(source, loaded, settings.training.max_rank)
    task = find(settings.tracks[track].task)
    with open_database(place) as database, registry.adopting() as candidate:
        usable, _ = encode(
            task, loaded.tokenizer, Memory(database).all(track, registry.lineage(registry.latest))
        )
        examples, rows = [example for example, _ in usable], [encoded for _, encoded in usable]
        papers = {"source": str(source.resolve()), "made_for": made_for, "other_base": is_other}
        deck = import_version.write(found, candidate, base_folder, loaded, rows[:2], papers)
        notes = [*found.notes]
        if found.kind == "model":
            whole = bases.load_base(base_folder, torch.float32).model
            distance = import_version.compare(source, deck, whole)
            notes.append(f"the adapter is {distance:.2g} nats a token from the model that it was made of")
        console.print(f"testing it on {len(rows)} examples of memory …") if rows and not as_json else None
        right = import_version.evaluate(deck, examples, rows, candidate, notes)
        birth = PromotionRecord(
            job=None,
            parent=registry.latest,
            base=fingerprint,
            description=description
            or f"brought from {source.name}" + (" (another base's)" if is_other else ""),
            performance=performance,
            serve=False,
        )
        registry.promote(candidate, birth, time.time(), version)
        if set_latest:
            _serve(place, settings, registry, track, version)
            Memory(database).record_recall(track, version, right)
    told = "" if set_latest else f"; serve it with: lorad rollback --to {version}"
    say(
        {
            "version": version,
            "kind": found.kind,
            "rank": found.adapter.rank,
            "notes": notes,
            "recalled": sum(right.values()),
            "examples": len(right),
            "latest": set_latest,
        },
        as_json,
        f"{version} is in, rank {found.adapter.rank}, and recalls {sum(right.values())} of {len(right)} examples"
        f"{told}",
        notes,
    )


def _metrics(given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        figure = math.nan
        with contextlib.suppress(ValueError):
            figure = float(value)
        if not METRIC.fullmatch(name) or not math.isfinite(figure):
            raise ConfigError(f"{text!r} is no figure; write it like accuracy=0.90", code="bad_metric")
        found[name] = figure
    return found


def _check_description(text: str) -> None:
    if len(text) > LONGEST_DESCRIPTION or not all(map(str.isprintable, text.splitlines())):
        raise ConfigError(
            f"--description takes {LONGEST_DESCRIPTION} printable characters at most", code="bad_description"
        )


def _serve(place: Home, settings: Settings, registry: Registry, track: str, version: str) -> None:
    """Make a version latest: through the daemon where one runs, so that it answers from it at once."""
    client = Client(place.socket(settings.server.socket))
    try:
        client.call("POST", "/api/rollback", {"track": track, "to": version})
    except LoradError as error:
        if error.code != "not_running":
            raise
        registry.rollback(version)
