"""Damage a home in every way that we could think of, start lorad on it, and see what is found and what is served.

    python bench/faults.py [--seed 1] [--flips 8] [--only CLASS]

Three versions, as the daemon makes them, on the tests' tiny model. Each case is a copy of that home with one fault: a
flipped bit, a truncated, emptied or deleted file, a file or folder of another version in its place, an edited alpha, rank or base (with the
manifest left alone, and with the manifest written anew by the one who edits), a tracker or link that lies. Then the daemon
starts in it (without socket and inbox), every version is asked for by name, and whatever answers is compared with what the
same version answered before. Some cases damage a version while the daemon runs and does not hold it in memory.

detected: something was said: a version marked as damaged or refused, a named error at start, a sentence of the recovery.
served: a damaged version answered, or anything answered otherwise than the version that it claims to be.
answering: the daemon answered from the newest sound version (v0.3; the next one when that is the damaged one). Where the
base model itself is damaged there is nothing that could answer: refusing to start with a named error counts.
"""

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from structlog.testing import capture_logs

import report

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
sys.path.insert(0, str(TESTS))

import tiny  # noqa: E402 - the tests' own model
from running import SETTINGS, learn  # noqa: E402

from lorad import records  # noqa: E402
from lorad.apps.daemon.app import App  # noqa: E402
from lorad.errors import LoradError  # noqa: E402
from lorad.home import Home  # noqa: E402
from lorad.models import adapters, bases, hardware, packing, peft_io, scoring  # noqa: E402
from lorad.serving.client import Client  # noqa: E402
from lorad.storage import files  # noqa: E402
from lorad.tasks import find  # noqa: E402
from lorad.versions.manifests import MANIFEST  # noqa: E402
from lorad.versions.tracker import TRACKER  # noqa: E402

VERSIONS = ("v0.1", "v0.2", "v0.3")
SAME = 1e-4
"""Logits; loading the same weights twice gives the same on one machine."""
TOLD = {"registry_recovered", "version_refused", "version_damaged", "damaged"}
"""Events of the log that say that something was found."""

Act = Callable[[Path], None]


class Case(NamedTuple):
    """One fault: its class, what it does to the track's folder, and which version must not be served after it."""

    kind: str
    name: str
    act: Act
    harmed: str | None
    while_running: bool = False


# -- faults


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(bytes(content))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    files.write_json(path, content)


def reseal(folder: Path) -> None:
    """Write a manifest anew around files that were edited, as a careful meddler would."""

    def change(manifest: dict[str, Any]) -> None:
        for name, entry in manifest["files"].items():
            entry |= {"sha256": files.file_digest(folder / name), "bytes": (folder / name).stat().st_size}
        manifest.pop("sha256")
        manifest["sha256"] = records.digest(manifest)

    edit(folder / MANIFEST, change)


def positions(path: Path, region: str, count: int, chance: random.Random) -> list[int]:
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return [chance.randrange(size) for _ in range(count)]
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    span = range(header) if region == "header" else range(header, size)
    return [chance.choice(span) for _ in range(count)]


def file_cases(
    kind: str, path: str, harmed: str | None, home: Path, flips: int, chance: random.Random
) -> Iterator[Case]:
    """Yield flips, cuts, deletion and, where there is another version's file, an exchange."""
    regions = ("header", "tensor") if path.endswith(".safetensors") else ("",)
    for region in regions:
        name = f"{kind} {region}".strip()
        for position in positions(home / path, region, flips, chance):
            yield Case(name, f"{path}: bit flipped in byte {position}", _on(path, flip, position), harmed)
    for share in (0.0, 0.5, 0.99):  # more than a JSON file's last line break, which says nothing
        yield Case(kind, f"{path}: cut to {share:.0%}", _on(path, cut, share), harmed)
    yield Case(kind, f"{path}: deleted", lambda root: (root / path).unlink(), harmed)
    if harmed:
        other = path.replace(harmed, "v0.2" if harmed != "v0.2" else "v0.1")
        if (home / other).read_bytes() != (home / path).read_bytes():
            yield Case(kind, f"{path}: that of another version", _copy(other, path), harmed)


def _on(path: str, act: Callable[..., None], *arguments: Any) -> Act:
    return lambda root: act(root / path, *arguments)


def _copy(source: str, target: str) -> Act:
    def act(root: Path) -> None:
        files.remove(root / target)
        copy = shutil.copytree if (root / source).is_dir() else shutil.copyfile
        copy(root / source, root / target)

    return act


def edited(version: str, file: str, change: Callable[[Any], None], *, sealed: bool) -> Act:
    def act(root: Path) -> None:
        folder = root / version_folder(version)
        edit(folder / file, change)
        if sealed:
            reseal(folder)

    return act


def louder(version: str) -> Act:
    """Scale the weights and write the manifest anew: only the probes can tell."""

    def act(root: Path) -> None:
        folder = root / version_folder(version)
        adapter = peft_io.read_adapter(folder)
        scaled = adapters.Adapter({name: (a, 2 * b) for name, (a, b) in adapter.factors.items()})
        peft_io.write_adapter(scaled, folder, "tiny")
        reseal(folder)

    return act


def version_folder(version: str) -> str:
    return f"models/chat/versions/{version}"


def edits() -> Iterator[Case]:
    changes: dict[str, tuple[str, Callable[[Any], None]]] = {
        "alpha": ("adapter_config.json", lambda c: c.update(lora_alpha=2 * c["lora_alpha"])),
        "rank": ("adapter_config.json", lambda c: c.update(r=c["r"] + 1)),
        "rank and alpha": (
            "adapter_config.json",
            lambda c: c.update(r=c["r"] + 1, lora_alpha=c["lora_alpha"] + 1),
        ),
        "targets": ("adapter_config.json", lambda c: c["target_modules"].pop()),
        "scaling": ("adapter_config.json", lambda c: c.update(use_rslora=True)),
        "vocabulary": ("tokenizer.json", lambda c: c["model"]["merges"].reverse()),
    }
    for version in VERSIONS:
        for what, (file, change) in changes.items():
            for sealed in (False, True):
                told = "manifest rewritten" if sealed else "manifest left alone"
                act = edited(version, file, change, sealed=sealed)
                yield Case(f"edited {what}", f"{version}: {told}", act, version)
        yield Case("edited weights", f"{version}: doubled, manifest rewritten", louder(version), version)
        for sealed in (False, True):
            act = edited_manifest(version, sealed=sealed, base="0" * 64)
            yield Case("edited base", f"{version}: {'resealed' if sealed else 'left alone'}", act, version)
        other = "v0.2" if version != "v0.2" else "v0.1"
        swap = _copy(version_folder(other), version_folder(version))
        yield Case("swapped version", f"{version}: the whole of {other}", swap, version)


def edited_manifest(version: str, *, sealed: bool, **changes: Any) -> Act:
    def act(root: Path) -> None:
        folder = root / version_folder(version)
        edit(folder / MANIFEST, lambda manifest: manifest.update(changes))
        if sealed:
            reseal(folder)

    return act


def links() -> Iterator[Case]:
    track = "models/chat"
    for name in ("latest", "previous"):
        target = f"{track}/{name}"
        faults: dict[str, Act] = {
            "deleted": lambda root, t=target: (root / t).unlink(),
            "to v0.1": lambda root, t=target: relink(root / t, "versions/v0.1"),
            "to nothing": lambda root, t=target: relink(root / t, "versions/v9.9"),
            "out of the home": lambda root, t=target: relink(root / t, "/etc"),
            "a file": lambda root, t=target: ((root / t).unlink(), (root / t).write_text("v0.3")),
            "a folder": lambda root, t=target: ((root / t).unlink(), (root / t).mkdir()),
        }
        for told, act in faults.items():
            yield Case("symlink", f"{name}: {told}", act, None)


def relink(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


def cases(home: Path, flips: int, chance: random.Random) -> Iterator[Case]:
    for version in ("v0.3", "v0.1"):
        folder = version_folder(version)
        for path in sorted((home / folder).iterdir()):
            kind = {".safetensors": "adapter", ".jinja": "tokenizer"}.get(path.suffix, path.stem)
            kind = "tokenizer" if kind.startswith(("tokenizer", "special")) else kind
            yield from file_cases(kind, f"{folder}/{path.name}", version, home, flips, chance)
    yield from file_cases("tracker", f"models/chat/{TRACKER}", None, home, 8 * flips, chance)
    yield from links()
    yield from edits()
    for path in sorted((home / "models/base/tiny").iterdir()):
        yield from file_cases("base", f"models/base/tiny/{path.name}", None, home, flips, chance)
    for name in ("adapter_model.safetensors", "adapter_config.json", MANIFEST, "probes.json"):
        for case in file_cases(
            "while running", f"{version_folder('v0.2')}/{name}", "v0.2", home, flips, chance
        ):
            yield case._replace(kind="while running", while_running=True)


# -- the home, and asking it


def make_home(root: Path) -> None:
    """Let the daemon learn three drops."""
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir(parents=True)
    bases.store_base(tiny.save(root / "source"), root / "models" / "base" / "tiny")
    home = Home(root)
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        for subject in ("door", "gate", "hat"):
            job = learn(client, home, f"{subject}s.json", tiny.facts(4, f"{subject}s", subject=subject))
            assert job["state"] == "promoted", job["reason"]
    finally:
        app.stop()


def rows() -> list[Any]:
    tokenizer = tiny.tokenizer()
    subjects = ("door", "gate", "hat")
    return [find("chat").encode(tokenizer, e) for s in subjects for e in tiny.facts(4, subject=s)]


def logits(app: App, version: str) -> torch.Tensor:
    """Return what answers for a version, merged or not; ``base`` for the base alone."""
    name = app.engine._find("chat").name(version)
    with torch.inference_mode():
        model = app.engine._backend._find(name).model(name)
        return scoring.answer_logits(model, packing.pack(rows()))


@contextlib.contextmanager
def started(root: Path) -> Iterator[App]:
    """Start what matters here: locks, recovery, models, serving; no socket, no inbox."""
    app = App(Home(root), SETTINGS)
    try:
        for begin in (app._claim, app._wire, app._answer):
            begin()
        yield app
    finally:
        app.stop()


def examine(root: Path, case: Case, before: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Do harm to a home, start lorad in it, and tell what it found, served and answered."""
    found: list[str] = []
    served: list[str] = []
    answering: str | None = None
    with capture_logs() as events:
        try:
            if not case.while_running:
                case.act(root)
            with started(root) as app:
                if case.while_running:
                    case.act(root)
                for version in VERSIONS:
                    try:
                        app.models.ensure_loaded(app.tracks["chat"], version)
                    except LoradError as error:
                        found.append(f"{version}: {error.code}")
                        continue
                    differs = float((logits(app, version) - before[version]).abs().max())
                    if version == case.harmed or not differs <= SAME:
                        served.append(version)
                answering = app.engine.serving("chat")
                if not float((logits(app, answering) - before[answering]).abs().max()) <= SAME:
                    served.append(f"as {answering}")
                found += [
                    f"{entry['version']}: {entry['state']}"
                    for entry in app.tracks["chat"].registry.tracker.read()["checkpoints"]
                    if entry["state"] != "intact"
                ]
        except LoradError as error:
            found.append(f"start: {error.code}")
    found += [str(e.get("what") or e.get("message")) for e in events if e["event"] in TOLD]
    newest = "v0.2" if case.harmed == "v0.3" else "v0.3"
    return {
        "detected": bool(found),
        "served": served,
        "answering": answering == newest
        or any(text.startswith(("start: base", "start: no_base")) for text in found),
        "found": found,
        "answers": answering,
    }


def plot(by_kind: dict[str, list[dict[str, Any]]]) -> None:
    plt = report.pyplot()

    kinds = sorted(by_kind, key=lambda kind: len(by_kind[kind]))
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(kinds) + 1.2), layout="constrained")
    axes.barh(kinds, [len(by_kind[k]) for k in kinds], color="#cfd8dc", label="cases")
    axes.barh(
        kinds, [sum(c["detected"] for c in by_kind[k]) for k in kinds], 0.4, color="#2e7d32", label="detected"
    )
    axes.barh(
        kinds,
        [sum(bool(c["served"]) for c in by_kind[k]) for k in kinds],
        0.4,
        color="#c62828",
        label="served",
    )
    axes.set_xlabel("cases")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "faults.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flips", type=int, default=8, help="flipped bits a file and region")
    parser.add_argument("--only", default="", help="classes whose name begins so; nothing is saved")
    options = parser.parse_args()
    hardware.quieten()
    torch.set_num_threads(1)
    room = Path(tempfile.mkdtemp(prefix="faults-"))
    sound = room / "sound"
    make_home(sound)
    with started(sound) as app:
        for version in VERSIONS:
            app.models.ensure_loaded(app.tracks["chat"], version)
        before = {version: logits(app, version) for version in VERSIONS}
        before["base"] = logits(app, "base")
    chance = random.Random(options.seed)
    wanted = [c for c in cases(sound, options.flips, chance) if c.kind.startswith(options.only)]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    began = time.perf_counter()
    for number, case in enumerate(wanted):
        root = room / "case"
        shutil.copytree(sound, root, symlinks=True)
        outcome = examine(root, case, before)
        files.remove(root)
        by_kind.setdefault(case.kind, []).append(outcome)
        if not (outcome["detected"] and outcome["answering"]) or outcome["served"]:
            print(f"{case.kind}: {case.name}: {outcome}", flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(wanted)}, {time.perf_counter() - began:.0f} s", flush=True)
    shutil.rmtree(room)
    everything = [outcome for outcomes in by_kind.values() for outcome in outcomes]
    figures = {
        "cases": len(everything),
        "detected": sum(outcome["detected"] for outcome in everything),
        "served": sum(bool(outcome["served"]) for outcome in everything),
        "answering": sum(outcome["answering"] for outcome in everything),
    }
    table = ["| class | cases | detected | served | answering |", "|---|---|---|---|---|"]
    for kind, outcomes in sorted(by_kind.items()):
        counts = (
            len(outcomes),
            sum(o["detected"] for o in outcomes),
            sum(bool(o["served"]) for o in outcomes),
            sum(o["answering"] for o in outcomes),
        )
        table.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    print(json.dumps(figures, indent=2), *table, sep="\n")
    if not options.only:
        plot(by_kind)
        report.save("faults", figures, (__doc__ or "").splitlines(), tables=table)


if __name__ == "__main__":
    main()
