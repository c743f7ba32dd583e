"""The real daemon in a temporary home: drop a file, wait, ask. The only test that waits for real time."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import tiny
import torch
from peft import PeftModel
from running import SETTINGS, ask, learn, wait_for

from lorad.apps.daemon import nightly
from lorad.apps.daemon.app import App
from lorad.config import Settings
from lorad.errors import ConfigError, ProtocolError
from lorad.home import Home
from lorad.models import adapters, bases, packing, peft_io, scoring
from lorad.serving.client import Client
from lorad.serving.requests import Sampling
from lorad.storage import locks, permissions
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.tasks import find


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir()
    bases.store_base(tiny.save(root / "source"), root / "models" / "base" / "tiny")
    return Home(root)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_drops_are_learned_in_turn_and_all_three_are_what_is_served(home):
    drops = {
        "doors": tiny.facts(4, "doors"),
        "gates": tiny.facts(4, "gates", subject="gate"),
        "hats": tiny.facts(4, "hats", subject="hat"),
    }
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        assert client.status().ready
        assert ask(client, drops["doors"][0])[1] == "chat@base"

        for name, examples in drops.items():
            job = learn(client, home, f"{name}.json", examples)
            assert job["state"] == "promoted", job["reason"]
        assert app.reader.is_running  # no file was read in the daemon itself

        for examples in drops.values():
            assert [ask(client, example)[0] for example in examples] == [
                example.target for example in examples
            ]
        assert ask(client, drops["doors"][0])[1] == "chat@v0.3"
        _check_socket(home)
        _check_plain_peft(app, home, drops)
        _check_routes(client)
        _check_bad_file(client, home)
        _check_rollback(client, drops)
        before = threading.active_count()
    finally:
        app.stop()

    assert threading.active_count() < before
    assert not home.socket(SETTINGS.server.socket).exists()
    _check_modes(home)
    _check_restart(home, drops)


def _check_modes(home):
    """A15: what others could read before the start was closed, told once, and nothing was opened since."""
    assert permissions.close_below(home.models, os.geteuid()) == ([], [])
    assert stat.S_IMODE(home.database.stat().st_mode) == 0o600
    told = [row["name"] for row in Ledger(Database(home.database)).events(limit=2000)]
    assert told.count("closed_to_others") == 1


def _check_socket(home):
    path = home.socket(SETTINGS.server.socket)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def _check_plain_peft(app, home, drops):
    """Plain PEFT on the untouched base gives the engine's logits, and the merged sum of all three drops is in it."""
    base = bases.load_base(home.base("tiny"), torch.float32)
    rows = [
        find("chat").encode(base.tokenizer, example) for examples in drops.values() for example in examples
    ]
    packed = packing.pack(rows)
    name, held = app.engine._find("chat").name("v0.3"), app.engine._backend._tracks["chat"]
    with torch.inference_mode():
        engine = scoring.answer_logits(held.stack.model(name), packed)
        served = scoring.answer_logits(held.model(name), packed)
    assert held.merged.name == name
    assert torch.allclose(served, engine, atol=1e-3)
    latest = home.track("chat") / "latest"
    plain = PeftModel.from_pretrained(
        bases.load_base(home.base("tiny"), torch.float32).model, str(latest)
    ).eval()
    with torch.inference_mode():
        assert torch.allclose(scoring.answer_logits(plain, packed), engine, atol=1e-5)

    several = [
        peft_io.read_adapter(home.track("chat") / "versions" / name) for name in ("v0.1", "v0.2", "v0.3")
    ]
    ranks = [0, *(adapter.rank for adapter in several)]
    for older, begin, end in zip(range(3), ranks, ranks[1:], strict=False):
        alone = adapters.Adapter(
            {n: (a[begin:end], b[:, begin:end]) for n, (a, b) in several[2].factors.items()}
        )
        own = {n: (a[begin:], b[:, begin:]) for n, (a, b) in several[older].factors.items()}
        assert (
            adapters.difference(alone, adapters.Adapter(own)) == 0
        )  # what each drop added is there, bit for bit
        adapters.merge(base.model, alone)
    with torch.inference_mode():
        assert torch.allclose(scoring.answer_logits(base.model, packed), engine, atol=1e-3)


def _check_routes(client):
    models = [entry["id"] for entry in client.call("GET", "/v1/models")["data"]]
    assert models == ["chat", "chat@base", "chat@v0.1", "chat@v0.2", "chat@v0.3"]
    assert "".join(client.stream_chat(tiny.facts(1)[0].input, "chat")) == tiny.facts(1)[0].target
    retention = client.call("GET", "/lorad/retention")
    assert retention["datasets"] == ["doors", "gates", "hats"]
    assert retention["matrix"] == [[1.0, None, None], [1.0, 1.0, None], [1.0, 1.0, 1.0]]
    assert (retention["acc"], retention["bwt"]) == (1.0, 0.0)
    assert client.call("GET", "/lorad/versions/v0.2/explain")["promote"]
    assert client.call("GET", "/lorad/diff?a=v0.1&b=v0.3")["changed"] == []


def _check_bad_file(client, home):
    (home.inbox / "bad.json").write_text('[{"question": "a"}]')
    wait_for((home.inbox / "failed" / "bad.json.reason.json").exists)
    assert client.status().ready


def _check_rollback(client, drops):
    assert client.call("POST", "/lorad/rollback", {})["latest"] == "v0.2"
    assert ask(client, drops["doors"][0]) == (drops["doors"][0].target, "chat@v0.2")
    assert ask(client, drops["doors"][0], "chat@previous")[1] == "chat@v0.3"
    assert client.call("POST", "/lorad/rollback", {})["latest"] == "v0.3"
    assert client.call("POST", "/lorad/rollback", {"to": "base"})["serving"] is None
    assert ask(client, drops["doors"][0])[1] == "chat@base"
    assert client.call("POST", "/lorad/rollback", {})["latest"] == "v0.3"


def _check_restart(home, drops):
    """A damaged latest is noticed at the next start, and the newest sound version serves."""
    path = home.track("chat") / "versions" / "v0.3" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        assert ask(client, drops["gates"][0]) == (drops["gates"][0].target, "chat@v0.2")
        assert client.call("GET", "/lorad/versions")["latest"] == "v0.2"
    finally:
        app.stop()


@pytest.fixture
def place(monkeypatch):
    """Return how to be in another zone, and what the system's files say of it if that is something else."""

    def go(zone, named=None):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setattr("tzlocal.unix._cache_tz", named)
        time.tzset()

    yield go
    monkeypatch.undo()
    time.tzset()


def offsets(zone):
    return [datetime(2026, month, 1, tzinfo=zone).utcoffset() / timedelta(hours=1) for month in (1, 7)]


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("Europe/Berlin", [1, 2]), ("UTC", [0, 0]), (":/etc/localtime", None), ("XYZ-5:30", [5.5, 5.5])],
)
def test_nightly_work_keeps_its_hour_when_the_clocks_change_where_the_zone_is_known(place, zone, hours):
    place(zone)

    found = nightly.scheduler().timezone

    assert offsets(found) == (hours or offsets(found))
    assert datetime.now(found).utcoffset() == datetime.now().astimezone().utcoffset()


def test_a_zone_that_the_clock_does_not_keep_is_not_believed(place):
    # Given a container whose files name another zone than its clock has
    place("Asia/Kolkata", named=ZoneInfo("UTC"))

    assert offsets(nightly.scheduler().timezone) == [5.5, 5.5]


def test_a_second_daemon_in_the_same_home_is_refused(home):
    app = App(home, SETTINGS)
    app.start()
    try:
        with pytest.raises(ConfigError, match="another lorad runs"):
            App(home, SETTINGS).start()
        assert Client(home.socket(SETTINGS.server.socket)).status().ready
    finally:
        app.stop()


def test_a_home_without_its_base_model_says_how_to_get_it(tmp_path):
    for name in ("configs", "inbox", "models"):
        (tmp_path / name).mkdir()

    with pytest.raises(ConfigError, match="lorad base add smollm2"):
        App(Home(tmp_path), Settings()).start()


def test_a_dead_socket_is_replaced_and_another_file_is_not(home):
    path = home.socket(SETTINGS.server.socket)
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    app = App(home, SETTINGS)
    app.start()
    app.stop()

    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        App(home, SETTINGS).start()
    assert path.read_text() == "precious"
    path.unlink()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_daemon_as_a_process_stops_on_sigterm(home):
    config = home.configs / "test.yaml"
    config.write_text(json.dumps(SETTINGS.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, "-m", "lorad.apps.daemon.app", "--home", str(home.root), "--config", "test"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    client = Client(home.socket(SETTINGS.server.socket))

    def ready():
        try:
            return client.status().ready
        except ConfigError:
            assert process.poll() is None
            return False

    wait_for(ready)
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=30) == 0
    assert not home.socket(SETTINGS.server.socket).exists()


def test_case_10_a_model_with_nothing_behind_its_at_is_not_there(home):
    app = App(home, SETTINGS)
    try:
        app._wire()
        with pytest.raises(ProtocolError, match="there is no model 'chat@'") as missing:
            app.api.ask("chat@", [], Sampling(), retrieve=True)
    finally:
        app.stop()

    assert (missing.value.status, missing.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("gone", [[".daemon.lock"], [".daemon.lock", ".daemon.json"]])
def test_a20_a_second_daemon_disturbs_nothing_when_the_lock_was_removed(home, gone):
    # Given a daemon whose lock file, and perhaps all that tells of it, somebody has removed
    app = App(home, SETTINGS)
    app.start()
    try:
        for name in gone:
            (home.models / name).unlink()
        before = app.ledger.events(limit=1000)

        with pytest.raises(ConfigError, match="another lorad") as caught:
            App(home, SETTINGS).start()

        assert caught.value.code == "already_running"
        assert app.ledger.events(limit=1000) == before
        assert Client(home.socket(SETTINGS.server.socket)).status().ready
    finally:
        app.stop()


def test_a20_a_daemon_that_answers_nowhere_yet_is_found_by_its_folder(home):
    app = App(home, SETTINGS)
    app._claim()
    try:
        (home.models / ".daemon.lock").unlink()
        with pytest.raises(ConfigError, match="another lorad runs"):
            App(home, SETTINGS)._claim()
    finally:
        app.stop()


def _lock_all(home, writing):
    """Lock, as a member of the group, whatever can be opened, and wait to be killed."""
    try:
        os.setgroups([])
        os.setgid(62000)
        os.setuid(62002)
        tops = (home.root, home.models, home.track("chat"))
        for path in (*tops, *(path for top in tops for path in top.iterdir())):
            with contextlib.suppress(OSError):
                fcntl.flock(os.open(path, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(writing, b"locked")
        signal.pause()
    finally:
        os._exit(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a20_whoever_may_only_read_a_home_cannot_lock_it(home):
    # Given a member of the daemon's group who locks whatever of a stopped daemon's home he can open
    first = App(home, SETTINGS)
    first.start()
    first.stop()
    for each in (home.root, home.models, home.track("chat"), home.models / ".daemon.lock"):
        os.chown(each, -1, 62000)
    home.root.chmod(0o750)
    for above in list(home.root.parents)[:-2]:
        above.chmod(above.stat().st_mode | 0o011)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _lock_all(home, writing)
    os.close(writing)
    assert os.read(reading, 6) == b"locked"
    again = App(home, SETTINGS)
    try:
        # When it starts anew, and its registry is locked for a change, then nothing keeps it
        again.start()
        with locks.locked(home.track("chat") / ".lock", wait=False):
            pass
    finally:
        again.stop()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


@pytest.fixture
def asked_to_stop(home):
    """Return what a signal does to a daemon, without starting one."""
    kept = {name: signal.getsignal(name) for name in signal.Signals if name.name in SIGNALS}
    app = App(home, SETTINGS)
    app.start = lambda: None  # its start is not what is tested

    def send(*names):
        def wait(**_):
            for name in names:
                os.kill(os.getpid(), getattr(signal, name))
            return True

        app.stopping.wait = wait
        app.run()
        return app.stopping.is_set()

    yield send
    for name, handler in kept.items():
        signal.signal(name, handler)


SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")


@pytest.mark.parametrize("names", [[name] for name in SIGNALS] + [["SIGHUP", "SIGHUP", "SIGTERM", "SIGHUP"]])
def test_a20_a_closed_terminal_stops_the_daemon_as_sigterm_does_and_never_forces(asked_to_stop, names):
    assert asked_to_stop(*names)


def test_a20_what_nohup_has_ignored_stays_ignored(asked_to_stop):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert asked_to_stop()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
