"""Bounds on connections: idle ones make room, half-open ones are cut off, the log stays quiet. The server is real."""

import contextlib
import json
import queue
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_app import HELLO, FakeDaemon
from structlog.testing import capture_logs

from lorad.config import ServerSettings
from lorad.errors import LoradError, ProtocolError
from lorad.serving.answers import VersionPapers
from lorad.serving.client import Client, UnixConnection
from lorad.serving.http import connections
from lorad.serving.http.connections import Gate, Tally
from lorad.serving.http.server import build
from lorad.serving.http.unix_socket import bind
from lorad.serving.requests import Chunk


@contextlib.contextmanager
def serving(folder, daemon=None, **settings):
    """Run a real server within these bounds; give its socket."""
    path = folder / "run" / "lorad.sock"
    chosen = ServerSettings(**settings)
    listener = bind(path)
    http = connections.serve(build(daemon or FakeDaemon(), chosen), chosen)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]})
    thread.start()
    while not http.started:
        time.sleep(0.01)
    try:
        yield path
    finally:
        http.should_exit = http.force_exit = True
        thread.join()
        listener.close()
        path.unlink()


def connect(path, said=b""):
    """Open a connection and begin to say something."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(path))
    client.sendall(said)
    return client


def is_alive(path):
    return Client(path).call("GET", "/healthz") == {"alive": True}


def has_begun(path):
    with contextlib.suppress(LoradError):
        return is_alive(path)
    return False


def is_cut_off(client):
    """Wait until the other side has closed, without reading anything."""
    poller = select.poll()
    poller.register(client, 0)
    return bool(poller.poll(20_000))


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a19_idle_and_half_open_connections_keep_nobody_out_and_the_log_quiet(tmp_path, said):
    with capture_logs() as logs, serving(tmp_path, max_connections=16) as path:
        opened = [connect(path, said) for _ in range(300)]

        assert all(is_alive(path) for _ in range(20))

        # those that came first have made room
        assert all(is_cut_off(client) for client in opened[:250])
        for client in opened:
            client.close()
    assert [line["event"] for line in logs] == ["connections_full"]
    assert logs[0]["limit"] == 16


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        (b"", "header_seconds"),
        (b"GET /healthz HTTP/1.1\r\n", "header_seconds"),
        (b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP", "header_seconds"),
        (b"POST /lorad/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", "transfer_seconds"),
        (
            b"POST /lorad/rollback HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            "transfer_seconds",
        ),
        # refused at once, and still sending
        (
            b"POST /lorad/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{",
            "transfer_seconds",
        ),
    ],
)
def test_a19_who_stops_in_the_middle_of_a_request_is_cut_off(tmp_path, said, setting):
    with serving(tmp_path, **{setting: 0.2}) as path:
        client = connect(path, said)

        assert is_cut_off(client)

        assert is_alive(path)
        client.close()


def test_a19_who_does_not_read_the_answer_is_cut_off(tmp_path):
    daemon = FakeDaemon()
    daemon.version = lambda _, version: VersionPapers(version=version, description="x" * 5_000_000)
    with serving(tmp_path, daemon, transfer_seconds=0.3) as path:
        silent = [
            connect(path, b"GET /lorad/versions/v0.1 HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
            for more in (b"", b"Connection: close\r\n")
        ]

        assert all(map(is_cut_off, silent))

        assert len(Client(path).version("chat", "v0.1").description) == 5_000_000  # who reads gets all
        for client in silent:
            client.close()


def test_a19_a_request_that_is_being_answered_makes_no_room_and_one_too_many_is_told(tmp_path):
    daemon = FakeDaemon()
    accepted = queue.Queue()
    ask, daemon.chunks = daemon.ask, []
    daemon.ask = lambda *given, **how: accepted.put(made := ask(*given, **how)) or made
    with serving(tmp_path, daemon, max_connections=3) as path:
        body = json.dumps({"messages": HELLO})
        asked = [UnixConnection(path, 20) for _ in range(3)]
        for connection in asked:
            connection.request("POST", "/v1/chat/completions", body)
        waiting = [accepted.get(timeout=20)[0] for _ in asked]

        with pytest.raises(ProtocolError, match="too many connections are open") as full:
            Client(path).status()

        assert (full.value.status, full.value.code) == (503, "busy")
        for request in waiting:
            request.chunks.put(Chunk("", "stop"))
        for connection in asked:
            assert connection.getresponse().status == 200
            connection.close()
        assert is_alive(path)


def test_one_connection_may_ask_again_and_again(tmp_path):
    with serving(tmp_path) as path:
        connection = UnixConnection(path, 20)
        for _ in range(3):
            connection.request("GET", "/healthz")
            assert json.loads(connection.getresponse().read()) == {"alive": True}
        connection.close()


def test_what_is_not_http_is_refused_without_a_line_of_log(tmp_path, caplog):
    with capture_logs() as logs, serving(tmp_path) as path:
        for said in (
            b"\x16\x03\x01\n\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ):
            client = connect(path, said + b"x" * 70_000)
            assert client.recv(12) == b"HTTP/1.1 400" or is_cut_off(client)
            client.close()
    assert not logs
    assert not [record for record in caplog.records if record.levelname != "INFO"]


# Without descriptors

STARVED = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
from lorad.serving.http import connections
from lorad.config import ServerSettings
from lorad.serving.http.server import build
from lorad.serving.http.unix_socket import bind
from lorad.serving.requests import Chunk
from fake_app import FakeDaemon
held = [open("/dev/null") for _ in range(int(sys.argv[3]))]
listener = bind(Path(sys.argv[1]))
connections.serve(build(FakeDaemon()), ServerSettings()).run(sockets=[listener])
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("held", [0, 60])
def test_a19_without_descriptors_the_log_is_quiet_and_status_answers(tmp_path, held):
    # Given a server that may open few files, of which the rest of the daemon holds some
    path, told = tmp_path / "s", tmp_path / "log"
    with told.open("wb") as log:
        command = [
            sys.executable,
            "-c",
            STARVED,
            str(path),
            str(Path(__file__).parents[1] / "support"),
            str(held),
        ]
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        while not (path.exists() and has_begun(path)):
            assert process.poll() is None, told.read_text()
            time.sleep(0.05)
        with contextlib.ExitStack() as opened:
            for _ in range(200):
                opened.enter_context(connect(path))
            assert all(is_alive(path) for _ in range(5))
            assert told.stat().st_size < 2000
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_connections_take_no_more_than_half_of_the_descriptors():
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert connections.limit(5) == 5
    assert connections.limit(descriptors * 4) == descriptors // 2


class FakeLoop:
    """A clock, and what was said that nobody expected."""

    def __init__(self):
        self.now = 0.0
        self.unexpected = []

    def time(self):
        return self.now

    def default_exception_handler(self, context):
        self.unexpected.append(context)


def test_a19_what_happens_often_is_told_once_a_minute_with_how_often():
    loop = FakeLoop()
    tally = Tally("too_much", loop.time, limit=3)
    with capture_logs() as logs:
        for _ in range(1000):
            tally.add()
        loop.now = 59.0
        tally.add()
        loop.now = 61.0
        tally.add()

    assert [(line["event"], line["count"], line["limit"]) for line in logs] == [
        ("too_much", 1, 3),
        ("too_much", 1001, 3),
    ]


def test_a19_an_accept_that_fails_is_told_once_and_other_trouble_as_ever():
    loop = FakeLoop()
    gate = Gate(ServerSettings(), loop)
    full = {"message": "socket.accept() out of system resource", "exception": OSError(24, "too many")}
    other = {"message": "Task exception was never retrieved", "exception": ValueError("no")}
    with capture_logs() as logs:
        for context in [full] * 500 + [other]:
            gate.complain(loop, context)

    assert [line["event"] for line in logs] == ["descriptors_full"]
    assert loop.unexpected == [other]
