"""Make ``home.tar.gz`` with the lorad of commit c18db25; see ``README.md`` beside this file.

It runs with the sources and tests of that commit alone, none of today's.
"""

# ruff: noqa: I001 - the modules are those of that commit
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import psutil
import tiny
import yaml
from lorad import files, weights
from lorad.app import App
from lorad.client import Client
from lorad.config import Settings
from lorad.database import Database
from lorad.home import Home
from lorad.inbox import Inbox
from lorad.ledger import Ledger

SETTINGS = {
    "tracks": {"chat": {"task": "chat", "base": "tiny"}},
    "inbox": {"settle_seconds": 0.2, "max_waiting": 900},
    "planner": {
        "table": [{"rank": 4, "alpha": 8, "epochs": 20, "batch": 2, "accumulation": 4, "max_length": 128}],
        "learning_rates": [{"learning_rate": 0.01}],
        "until": {"recall": 1.0, "max_epochs": 120, "patience": 120},
    },
    "rehearsal": {"refresh": 1.0, "general_share": 0.0, "general_share_most": 0.4},
    "training": {"threads": 1, "dtype": "float32", "device": "cpu", "merge_adapters_on_save": False},
    "judge": {
        "max_drop_examples": 3,
        "max_drop_share": 0.03,
        "max_perplexity_rise": 100.0,
        "max_kl": 100.0,
        "max_degenerate_share": 1.0,
    },
    "engine": {"max_waiting": 31, "resident_versions": 4, "strict": False, "device": "cpu"},
}
"""Every setting that has another name today is in it."""
ENDED = {"promoted", "rejected", "failed", "cancelled"}


def settings(**changes):
    """Return the settings with other values for the planner."""
    tree = SETTINGS | {"planner": SETTINGS["planner"] | changes}
    return Settings.model_validate(tree)


def wait_for(condition, seconds=240.0):
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class Running:
    """The real daemon in this process, and its client."""

    def __init__(self, home, chosen):
        self.app, self.home = App(home, chosen), home
        self.app.start()
        self.client = Client(home.socket(chosen.server.socket))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.app.stop()

    def put(self, name, text):
        """Rename a file into the inbox."""
        hidden = self.home.inbox / f".{name}.part"
        hidden.write_text(text)
        hidden.rename(self.home.inbox / name)

    def jobs(self):
        """Return the jobs, newest first."""
        return self.client.call("GET", "/api/jobs")["jobs"]

    def drop(self, name, text):
        """Drop a file that makes no job and wait for its end."""
        self.put(name, text)
        drops = self.app.cycle.ledger.drops
        return wait_for(lambda: next((d for d in drops() if d.name == name and d.ended_at), None))

    def learn(self, name, examples):
        """Drop a file and wait for its job's end."""
        count = len(self.jobs())
        self.put(f"{name}.json", as_file(examples))
        wait_for(lambda: len(self.jobs()) > count)
        return self.ended(self.jobs()[0]["id"])

    def ended(self, job):
        """Wait for a job's end; return it."""
        return wait_for(
            lambda: next((j for j in self.jobs() if j["id"] == job and j["state"] in ENDED), None)
        )


def as_file(examples):
    """Return examples as an inbox file holds them."""
    return files.json.dumps(tiny.rows(examples))


def live(home):
    """Let the daemon live a few days: versions, a failed file, a duplicate, a refused candidate, a damaged version."""
    gates = tiny.facts(4, "gates", subject="gate")
    with Running(home, settings()) as lorad:
        assert lorad.learn("doors", tiny.facts(4, "doors"))["version"] == "v0.1"
        assert lorad.learn("gates", gates)["version"] == "v0.2"
        assert lorad.drop("broken.json", '[{"instruction": "What is this?", "resp').state == "failed"
        assert lorad.drop("gates-again.json", as_file(gates)).state == "repeated"
    hasty = {"until": {"recall": 1.0, "max_epochs": 1, "patience": 9}}
    with Running(home, settings(**hasty, learning_rates=[{"learning_rate": 1e-5}])) as lorad:
        boats = lorad.learn("boats", tiny.facts(6, "boats", subject="boat"))
        assert boats["state"] == "rejected", boats
        lorad.app.retry(boats["id"], force=True, settings={})
        assert lorad.ended(boats["id"])["version"] == "v0.3"
        hats = lorad.learn("hats", tiny.facts(5, "hats", subject="hat"))
        lorad.app.retry(hats["id"], force=False, settings={"max_epochs": 2})
        wait_for(lambda: lorad.jobs()[0]["state"] not in ENDED)
        assert lorad.ended(hats["id"])["state"] == "rejected"
        lorad.app.rollback("chat", "v0.2")
    with Running(home, settings()) as lorad:
        assert lorad.learn("coats", tiny.facts(3, "coats", subject="coat"))["version"] == "v0.4"
        registry = lorad.app.registries["chat"]
        registry.pin("v0.1", pinned=True)
        registry.tag("v0.2", "good")
        weights_of = registry.path("v0.3") / "adapter_model.safetensors"
        weights_of.write_bytes(weights_of.read_bytes()[:-1] + b"\x7f")
        assert list(registry.scrub()) == ["v0.3"]


def cut_off(home):
    """Start the daemon as a process, and end it and its session at once when the session has two checkpoints."""
    slow = ["--set", "planner.learning_rates=[{learning_rate: 0.000001}]"]
    command = [sys.executable, "-m", "lorad.cli", "--home", str(home.root), "run", *slow]
    (home.inbox / "lamps.json").write_text(as_file(tiny.facts(12, "lamps", subject="lamp")))
    daemon = psutil.Process(subprocess.Popen(command).pid)
    try:
        wait_for(
            lambda: list(home.track("chat").glob("candidates/job-*/checkpoints/round-0002/manifest.json"))
        )
    finally:
        family = [daemon, *daemon.children(recursive=True)]
        for process in family:
            process.suspend()
        for process in family:
            process.kill()


def take(home):
    """Take a file from the inbox as a daemon does that is ended at once."""
    (home.inbox / "socks.json").write_text(as_file(tiny.facts(2, "socks", subject="sock")))
    database = Database(home.database)
    inbox = Inbox(home.inbox, settings().inbox, ("chat",), home.drops)
    inbox.recover()
    (waiting,) = inbox.waiting()
    drop = Ledger(database).take(waiting.name, "chat", time.time())
    inbox.take(waiting, drop.id)
    database.close()


def pack(root, target):
    """Write the home without what a start makes anew."""
    shutil.rmtree(root / "run", ignore_errors=True)
    (
        root / "models" / "base" / "tiny.chat.general.safetensors"
    ).unlink()  # what the base says, five megabytes

    def plain(member):
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return None if Path(member.name).suffix == ".sock" else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root, "home", filter=plain)
    target.write_bytes(buffer.getvalue())


def main():
    """Make the home and pack it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "home"
        for name in ("configs", "inbox", "models"):
            (root / name).mkdir(parents=True)
        weights.store_base(tiny.save(Path(folder) / "source"), root / "models" / "base" / "tiny")
        (root / "configs" / "default.yaml").write_text(yaml.safe_dump(SETTINGS))
        home = Home(root)
        live(home)
        cut_off(home)
        take(home)
        pack(root, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
