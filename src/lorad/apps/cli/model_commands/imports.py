"""``lorad versions add``: import an externally trained adapter or model as a version."""

import contextlib
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

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
from lorad.apps.cli.model_commands.output import console, say
from lorad.config import Settings
from lorad.errors import ConfigError, LoradError
from lorad.home import Home
from lorad.models import bases
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Encoded, Example
from lorad.serving.client import Client
from lorad.storage import permissions
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.tasks import Generating, encode, find
from lorad.versions import import_version
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

app = typer.Typer()
versions_app = typer.Typer(help="Import versions.")
app.add_typer(versions_app, name="versions", hidden=True)
METRIC = re.compile(r"[A-Za-z0-9][\w .@/%-]{0,99}")
MAX_DESCRIPTION = 1000


@versions_app.command("add")
def versions_add(
    version: Annotated[str, typer.Argument(help="The name of the new version, such as v0.3.")],
    source: Annotated[Path, typer.Argument(help="A PEFT adapter, a whole model, or a file of tensors.")],
    description: Annotated[str, typer.Option("--description", help="A description for people.")] = "",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME=VALUE", help="A metric of it; repeatable.")
    ] = None,
    set_latest: Annotated[bool, typer.Option("--set-latest", help="Serve it at once.")] = False,
    base: BaseOption = None,
    different: DifferentOption = False,
    track: TrackOption = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import an externally trained adapter or model as a version, after the checks that every version passes."""
    os.umask(permissions.UMASK)
    home, settings = load(home_path, config, overrides)
    registry, base_folder = find_track(home, settings, track)
    task = find(settings.tracks[track].task)
    if not isinstance(task, Generating):
        raise ConfigError(
            f"{track} answers with data ({task.name}); only versions that answer in text can be imported",
            code="other_task",
        )
    registry.check_free(version)
    performance = _metrics(metric or [])
    _check_description(description)
    import_version.check_source(source)
    made_for = bases.read_fingerprint(named_base(home, base)) if base else import_version.made_for(source)
    fingerprint = bases.verify_base(base_folder)
    is_other = made_for is not None and made_for != fingerprint
    if is_other and not different:
        raise ConfigError(
            f"{source} was made for another base model than {base_folder.name}; to import it anyway: --allow-different-base",
            code="wrong_base",
        )
    origin = {"source": str(source.resolve()), "made_for": made_for, "other_base": is_other}
    loaded = bases.load_base(base_folder, torch.float32)
    found = import_version.read(source, loaded, settings.training.max_rank)
    with contextlib.closing(Database(home.database)) as database, registry.workspace.adopting() as candidate:
        examples = Memory(database, track).all(registry.lineage(registry.latest))
        usable, _ = encode(task, loaded.tokenizer, examples)
        stack = import_version.write(
            found, candidate, base_folder, loaded, [rows for _, rows in usable[:2]], origin
        )
        notes = [*found.notes, *(_distance(source, stack, base_folder) if found.kind == "model" else [])]
        right = _evaluate(stack, usable, candidate, notes, quiet=as_json)
        record = PromotionRecord(
            job=None,
            parent=registry.latest,
            base=fingerprint,
            description=description or _default_description(source, is_other=is_other),
            performance=performance,
            serve=False,
        )
        registry.promote(candidate, record, time.time(), version)
        if set_latest:
            _serve(home, settings, registry, track, version)
            Memory(database, track).record_recall(version, right)
    recalled = sum(right.values())
    say(
        {
            "version": version,
            "kind": found.kind,
            "rank": found.adapter.rank,
            "notes": notes,
            "recalled": recalled,
            "examples": len(right),
            "latest": set_latest,
        },
        as_json,
        f"imported {version}: rank {found.adapter.rank}, recalls {recalled} of {len(right)} examples"
        + ("" if set_latest else f"; serve it with: lorad rollback --to {version}"),
        notes,
    )


def _distance(source: Path, stack: AdapterStack, base_folder: Path) -> list[str]:
    """Return a note on how far the adapter made from a whole model is from that model."""
    distance = import_version.compare(source, stack, bases.load_base(base_folder, torch.float32).model)
    return [f"the adapter is {distance:.2g} nats per token from the model that it was made from"]


def _evaluate(
    stack: AdapterStack,
    usable: Sequence[tuple[Example, Encoded]],
    candidate: Path,
    notes: list[str],
    *,
    quiet: bool,
) -> dict[str, bool]:
    """Test an adapter on memory and keep the result in the candidate; return what it recalls by example."""
    if usable and not quiet:
        console.print(f"testing it on {len(usable)} examples of memory …")
    examples, rows = [example for example, _ in usable], [encoded for _, encoded in usable]
    return import_version.evaluate(stack, examples, rows, candidate, notes)


def _default_description(source: Path, *, is_other: bool) -> str:
    return f"imported from {source.name}" + (" (made for another base)" if is_other else "")


def _metrics(given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        figure = math.nan
        with contextlib.suppress(ValueError):
            figure = float(value)
        if not METRIC.fullmatch(name) or not math.isfinite(figure):
            raise ConfigError(f"invalid metric {text!r}; use the form accuracy=0.90", code="bad_metric")
        found[name] = figure
    return found


def _check_description(text: str) -> None:
    if len(text) > MAX_DESCRIPTION or not all(map(str.isprintable, text.splitlines())):
        raise ConfigError(
            f"--description must be at most {MAX_DESCRIPTION} printable characters", code="bad_description"
        )


def _serve(home: Home, settings: Settings, registry: Registry, track: str, version: str) -> None:
    """Make a version latest; a running daemon does it, so that it serves it at once."""
    client = Client(home.socket(settings.server.socket))
    try:
        client.call("POST", "/lorad/rollback", {"track": track, "to": version})
    except LoradError as error:
        if error.code != "not_running":
            raise
        registry.rollback(version)
