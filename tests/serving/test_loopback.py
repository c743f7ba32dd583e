"""The loopback port: off by default, and nobody gets in without the token."""

import http.client
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from fake_app import HELLO, FakeDaemon, served

from lorad.config import ServerSettings
from lorad.errors import ConfigError
from lorad.serving.client import Client
from lorad.serving.http import loopback

TOKEN = "t" * 43


@pytest.fixture(scope="module")
def daemon():
    return FakeDaemon()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("home") / "run" / "lorad.sock"


@pytest.fixture(scope="module")
def port(daemon, path):
    """A daemon that listens on both."""
    listener = loopback.bind(0)
    with served(daemon, path, token=TOKEN, more=[listener]):
        yield listener.getsockname()[1]


def ask(port, method, route, body=None, **headers):
    connection = http.client.HTTPConnection(loopback.ADDRESS, port, timeout=10)
    connection.request(method, route, body and json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, response.headers, json.loads(response.read())
    connection.close()
    return answer


def test_who_shows_the_token_is_answered(port):
    status, _, answer = ask(
        port, "POST", "/v1/chat/completions", {"messages": HELLO}, Authorization=f"Bearer {TOKEN}"
    )

    assert (status, answer["model"]) == (200, "chat@v0.1")
    assert ask(port, "GET", "/healthz", authorization=f"bearer  {TOKEN} ")[0] == 200


@pytest.mark.parametrize(
    "shown", ["", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer", "Bearer é"]
)
@pytest.mark.parametrize("route", ["/v1/models", "/healthz", "/lorad/status", "/openapi.json", "/nowhere"])
def test_who_does_not_is_refused_whatever_is_asked(port, daemon, shown, route):
    daemon.asked.clear()

    status, headers, answer = ask(port, "GET", route, **({"Authorization": shown.encode()} if shown else {}))

    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert answer["error"]["code"] == "unauthorized"
    assert daemon.asked == []


def test_two_tokens_are_none(port):
    connection = http.client.HTTPConnection(loopback.ADDRESS, port, timeout=10)
    connection.putrequest("GET", "/healthz")
    for shown in ("x", TOKEN):
        connection.putheader("Authorization", f"Bearer {shown}")
    connection.endheaders()

    assert connection.getresponse().status == 401
    connection.close()


def test_ollamas_clients_are_refused_in_their_own_form(port):
    assert ask(port, "GET", "/api/tags")[2].keys() == {"error"}
    assert "token" in ask(port, "GET", "/api/tags")[2]["error"]


@pytest.mark.usefixtures("port")
def test_the_unix_socket_needs_no_token(path):
    assert Client(path).call("GET", "/healthz") == {"alive": True}


def test_without_a_token_nobody_gets_in_by_the_port(tmp_path, daemon):
    listener = loopback.bind(0)
    with served(daemon, tmp_path / "lorad.sock", more=[listener]):
        for shown in ("Bearer ", "Bearer None", "bearer"):
            assert ask(listener.getsockname()[1], "GET", "/healthz", Authorization=shown)[0] == 401


def test_the_port_is_off_by_default_and_on_the_loopback_address_alone():
    assert ServerSettings().tcp_port is None
    listener = loopback.bind(0)
    assert listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConfigError, match="cannot be used"):
        loopback.bind(listener.getsockname()[1])
    listener.close()


def test_the_token_is_made_once_and_for_the_owner_alone(tmp_path):
    made = loopback.token(tmp_path / "lorad.sock")
    file = tmp_path / "lorad.token"

    assert len(made) >= 32
    assert file.read_text() == f"{made}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert loopback.token(tmp_path / "lorad.sock") == made
    file.unlink()
    assert loopback.token(tmp_path / "lorad.sock") != made


def written(file: Path, text: bytes, mode: int = 0o600) -> None:
    file.write_bytes(text)
    file.chmod(mode)


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (TOKEN.encode(), 0o640, "read or changed by others"),
        (TOKEN.encode(), 0o604, "read or changed by others"),
        (b"", 0o600, "holds no token"),
        (b"short", 0o600, "holds no token"),
        ("é".encode() * 40, 0o600, "holds no token"),
        (b"a\x00" * 40, 0o600, "holds no token"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path, text, mode, told):
    written(tmp_path / "lorad.token", text, mode)

    with pytest.raises(ConfigError, match=told) as caught:
        loopback.token(tmp_path / "lorad.sock")
    assert caught.value.code == "bad_token_file"


def test_a_link_is_not_followed(tmp_path):
    written(tmp_path / "elsewhere", TOKEN.encode())
    (tmp_path / "lorad.token").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="cannot be read"):
        loopback.token(tmp_path / "lorad.sock")


def test_a_token_that_somebody_wrote_is_taken(tmp_path):
    written(tmp_path / "lorad.token", f"{TOKEN}\n".encode())

    assert loopback.token(tmp_path / "lorad.sock") == TOKEN


def test_without_a_port_nothing_is_opened_and_no_token_made(tmp_path):
    assert loopback.listen(None, tmp_path / "lorad.sock") == ([], None)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_set_is_opened_with_a_token(tmp_path):
    free = loopback.bind(0)
    port = free.getsockname()[1]
    free.close()

    [listener], token = loopback.listen(port, tmp_path / "lorad.sock")

    assert listener.getsockname() == ("127.0.0.1", port)
    assert token == loopback.token(tmp_path / "lorad.sock")
    listener.close()


PAGE = (Path(__file__).parent.parent.parent / "docs" / "http.md").read_text(encoding="utf-8")
LINES = re.findall(r"^curl .*$", PAGE, re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("line", LINES)
def test_every_curl_line_of_the_page_is_answered(path, port, line):
    (path.parent / "lorad.token").write_text(f"{TOKEN}\n")
    command = line.replace("11434", str(port)).replace("curl ", "curl --silent --fail ", 1)

    ran = subprocess.run(["/bin/sh", "-c", command], cwd=path.parent.parent, capture_output=True, check=True)

    assert json.loads(ran.stdout)


def test_the_page_has_a_curl_line_for_each_way_in():
    assert len(LINES) == 4
