"""A track with versions on disk, whose adapters are a few bytes."""

import json
from pathlib import Path

from lorad.config import RegistrySettings
from lorad.versions.promotion import PromotionRecord
from lorad.versions.tracker import TRACKER

BASE = "fingerprint of the base"


RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - every step is an fsync; in memory they cost nothing


NOON = 1_790_000_000.0  # 2026-09-21 in UTC


def a_candidate(registry, job):
    """Write what a session leaves: an adapter, its evaluation, a tokenizer in a folder of its own."""
    folder = registry.candidates / f"job-{job}" / "candidate"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights of job %d" % job)
    (folder / "evaluation.json").write_text(json.dumps({"evaluation": {"dataset": f"d{job}"}, "right": {}}))
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 1}')
    return folder


def promote(registry, count=1):
    """Promote candidates, each a child of the version before; return the last one's name."""
    for _ in range(count):
        job = len(registry.tracker.read()["checkpoints"]) + 1
        birth = PromotionRecord(
            job=job,
            parent=registry.latest,
            base=BASE,
            description=f"learned d{job}",
            performance={"recall": 1.0},
        )
        registry.promote(a_candidate(registry, job), birth, NOON)
    return registry.latest


def prune(registry, keep, needed=()):
    """Prune by number alone; return what went."""
    return list(registry.prune(RegistrySettings(keep=keep), NOON, needed))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights(registry, version):
    return registry.folders.folder / version / "adapter_model.safetensors"


def states(registry):
    return {entry["version"]: entry["state"] for entry in registry.tracker.read()["checkpoints"]}


def on_disk(registry):
    return sorted(path.name for path in registry.folders.folder.glob("*"))


def links(registry):
    """Return where the links lead that people and other tools follow."""
    found = {}
    for name in ("latest", "previous"):
        link = registry.folder / name
        found[name] = link.readlink().name if link.is_symlink() else None
    return found


def pointers(registry):
    """Return everything that points at versions, to put it back as it was before a power cut."""
    path = registry.folder / TRACKER
    return path.read_bytes() if path.exists() else None, links(registry)


def assert_consistent(registry):
    """Assert what must hold whenever nobody is in the middle of something."""
    tracker = registry.tracker.read()
    names = [entry["version"] for entry in tracker["checkpoints"]]
    assert len(set(names)) == len(names)
    assert links(registry) == {"latest": tracker["latest"], "previous": tracker["previous"]}
    assert all(
        (registry.folders.folder / name).is_dir() for name, s in states(registry).items() if s == "intact"
    )
    assert not any(
        (registry.folders.folder / name).exists() for name, s in states(registry).items() if s == "pruned"
    )
    if tracker["latest"] is None:
        assert names == []
    elif "intact" in states(registry).values():
        assert states(registry)[tracker["latest"]] == "intact"
        assert registry.verify(tracker["latest"], BASE)
    assert tracker["previous"] != tracker["latest"] or tracker["latest"] is None
