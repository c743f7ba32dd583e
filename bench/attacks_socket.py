"""Attacks through the socket: values, floods, bodies, half-open connections."""

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from urllib.parse import quote

import psutil

from attacks_inbox import Act, Case
from attacks_world import World, facts, lines, require, wait
from lorad.errors import LoradError

HUGE = "9" * 23
NASTY: tuple[str, ...] = (
    "",
    " ",
    "\0",
    "\ud800",
    "\x1b]0;x\x07",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "%s%n",
    "' OR 1=1 --",
    "[/red]",
    "NaN",
    "1e400",
    HUGE,
    "-1",
    "\u202e",
    "\r\nX: y",
)
VALUES: tuple[str, ...] = (
    *(json.dumps(text) for text in NASTY),
    *("NaN", "Infinity", "-Infinity", "1e400", HUGE, "-" + HUGE, "1" + "0" * 5000, "true", "null", "0", "-1"),
    *("[" * 5000, "{}", "[]", '{"a": ' * 2000, '"\\ud800"'),
)
POSTS = (
    "/v1/chat/completions",
    "/lorad/jobs/1/retry",
    "/lorad/jobs/1/resume",
    "/lorad/jobs/1/cancel",
    "/lorad/versions/v0.1/pin",
    "/lorad/versions/v0.1/tags",
    "/lorad/versions/prune",
    "/lorad/rollback",
    "/lorad/forget",
    "/lorad/consolidate",
)
KEYS = (
    "track",
    "selector",
    "model",
    "messages",
    "settings",
    "checkpoint",
    "tag",
    "to",
    "version",
    "stop",
    "limits",
)
KEYS += (
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "force",
    "dry_run",
    "pinned",
    "refit",
    "stream",
    "keep",
)
PATHS = (
    "/v1/models/{}",
    "/lorad/jobs/{}",
    "/lorad/jobs/{}/retry",
    "/lorad/versions/{}",
    "/lorad/versions/{}/explain",
    "/lorad/versions?track={}",
    "/lorad/memory?track={}",
    "/lorad/memory/examples?after={}",
    "/lorad/memory/examples?limit={}",
    "/lorad/memory/examples?dataset={}",
    "/lorad/events?after={}",
    "/lorad/diff?a={}&b=v0.1",
    "/lorad/retention?track={}",
)


def _require_no_500(world: World, tries: Iterator[tuple[str, str, bytes | None]]) -> None:
    for method, path, body in tries:
        status, answer = world.raw(method, path, body)
        require(
            status < 500 or status in {503, 507},
            f"{method} {path[:80]} {(body or b'')[:80]!r}: {status} {answer[:200]!r}",
        )
    require(world.status_of("GET", "/lorad/status") == 200, "status does not answer afterwards")


def values_in_bodies(world: World) -> None:
    def tries() -> Iterator[tuple[str, str, bytes | None]]:
        for path in POSTS:
            if path == "/lorad/rollback":
                continue  # a value of `to` that is right would change what serves
            for value in VALUES:
                yield "POST", path, value.encode("utf-8", "surrogatepass")
                beside = '"dry_run": true, ' if path == "/lorad/forget" else ""  # a text may well be meant
                for key in KEYS:
                    yield "POST", path, f'{{{beside}"{key}": {value}}}'.encode("utf-8", "surrogatepass")

    _require_no_500(world, tries())


def values_in_paths(world: World) -> None:
    def tries() -> Iterator[tuple[str, str, bytes | None]]:
        for path in PATHS:
            for text in NASTY:
                named = quote(text.encode("utf-8", "surrogatepass"), safe="")
                yield ("POST" if path.endswith("retry") else "GET"), path.format(named), b"{}"

    _require_no_500(world, tries())


def retry_settings(world: World) -> None:
    world.call("POST", "/lorad/resume")
    name = "retried.jsonl"
    world.put(name, lines(facts(name)))
    world.expected.update(row["response"] for row in facts(name))
    jobs = wait(lambda: world.call("GET", "/lorad/jobs")["jobs"], 30)
    world.call("POST", "/lorad/pause")
    job = jobs[0]["id"]
    for order in ("cancel",):
        with contextlib.suppress(LoradError):
            world.call("POST", f"/lorad/jobs/{job}/{order}")
    names = (
        "rank",
        "alpha",
        "epochs",
        "batch",
        "learning_rate",
        "max_length",
        "threads",
        "drop",
        "nothing",
        "\ud800",
    )
    bodies = [f'{{"settings": {{{json.dumps(name)}: {value}}}}}' for name in names for value in VALUES]
    _require_no_500(
        world,
        (("POST", f"/lorad/jobs/{job}/retry", body.encode("utf-8", "surrogatepass")) for body in bodies),
    )
    for path in ("/lorad/jobs", f"/lorad/jobs/{job}", "/lorad/status", "/lorad/events?after=0"):
        require(world.status_of("GET", path) == 200, f"{path} does not answer afterwards")


def large_question(world: World) -> None:
    before = world.memory_mib()
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "a " * 9_000_000}]}).encode()
    began = time.monotonic()
    status = world.status_of("POST", "/v1/chat/completions", body)
    require(status in {0, 400, 413}, f"18 MB were answered {status}")
    require(time.monotonic() - began < 10, "it took more than ten seconds")
    require(world.memory_mib() - before < 400, f"{world.memory_mib() - before:.0f} MiB are kept")


def many_large_bodies(world: World) -> None:
    """Send the beginnings of 60 bodies that say that they are large, and one without a length in pieces."""
    before = world.memory_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stream = stack.enter_context(world.connection(5))
            with contextlib.suppress(OSError):
                stream.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nContent-Length: 1000000000\r\n\r\n"
                    + b"[" * 900_000
                )
        chunked = stack.enter_context(world.connection(5))
        with contextlib.suppress(OSError):
            chunked.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(300):
                chunked.sendall(b"40000\r\n" + b"[" * 0x40000 + b"\r\n")
        require(world.status_of("GET", "/lorad/status") == 200, "status does not answer beside them")
        require(world.memory_mib() - before < 300, f"{world.memory_mib() - before:.0f} MiB are held")


def stops(world: World) -> None:
    question = [{"role": "user", "content": "What?"}]
    for given in (["x" * 20 + str(n) for n in range(5000)], ["x" * 1_000_000], "y" * 5_000_000):
        body = json.dumps({"model": "chat", "messages": question, "stop": given, "max_tokens": 5}).encode()
        status = world.status_of("POST", "/v1/chat/completions", body)
        require(status in {400, 413, 422}, f"stop texts were answered {status}")


def half_open(world: World) -> None:
    """Three hundred connections that begin a request and never end it."""
    with contextlib.ExitStack() as stack:
        for number in range(300):
            with contextlib.suppress(OSError):
                stream = stack.enter_context(world.connection(5))
                stream.sendall(b"GET /lorad/status HT" if number % 2 else b"")
        require(wait(lambda: _answers(world), 30), "nobody is answered beside 300 half-open connections")


def _answers(world: World) -> bool:
    with contextlib.suppress(OSError):
        return world.status_of("GET", "/lorad/status", timeout=5) == 200
    return False


def idle_to_the_limit(world: World) -> None:
    """Open connections as long as that goes, hold them, and see that the log stays quiet and answers come."""
    assert world.daemon is not None
    before = world.log.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    held: list[socket.socket] = []
    try:
        for _ in range(3000):
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(0.2)
            held.append(stream)
            try:
                stream.connect(str(world.address))
            except OSError:
                continue
        time.sleep(5)
        grown = world.log.stat().st_size - before
        require(grown < 100_000, f"the log grew by {grown} bytes in a few seconds")
        require(psutil.Process(world.daemon.pid).num_fds() < 4096, "it holds thousands of descriptors")
    finally:
        for stream in held:
            stream.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    require(wait(lambda: _answers(world), 30), "nobody is answered afterwards")


def slow_header(world: World) -> None:
    """A byte every half second is no request."""
    with world.connection(60) as stream:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for sign in b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"a" * 400:
                stream.sendall(bytes([sign]))
                time.sleep(0.25)
                if time.monotonic() - began > 50:
                    break
            else:
                began -= 60
        require(time.monotonic() - began < 50, "a header may take for ever")


def garbage(world: World) -> None:
    for sent in (
        b"\x16\x03\x01" + b"\0" * 500,
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nContent-Length: " + HUGE.encode() + b"\r\n\r\n",
        b"GET /lorad/status HTTP/9.9\r\nHost: l\r\n\r\n",
        b"\r\n" * 100_000,
    ):
        with world.connection(10) as stream, contextlib.suppress(OSError):
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1 << 16)
    require(world.status_of("GET", "/healthz") == 200, "health is not answered")


def questions_at_once(world: World) -> None:
    """Two hundred at once; those beyond what may wait are told so."""
    import concurrent.futures  # noqa: PLC0415

    body = json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 2}
    ).encode()

    def ask(_: int) -> int:
        with contextlib.suppress(OSError):
            return world.status_of("POST", "/v1/chat/completions", body, timeout=120)
        return 0

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, range(200)))
    odd = set(found) - {200, 429, 503, 0}
    require(not odd and found.count(200) > 10, f"answered with {sorted(set(found))}, {found.count(200)} well")


def unread_streams(world: World) -> None:
    """Streams that nobody reads hold no memory without bound and nobody else up."""
    body = json.dumps(
        {
            "model": "chat",
            "messages": [{"role": "user", "content": "What?"}],
            "stream": True,
            "max_tokens": 200,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(world.connection(10)).sendall(head + body)
        require(world.status_of("GET", "/lorad/status") == 200, "status does not answer beside them")


def log_is_without_prompts(world: World) -> None:
    word = "quincunx"
    body = json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": word}], "max_tokens": 2}
    ).encode()
    world.status_of("POST", "/v1/chat/completions", body, timeout=60)
    require(word not in world.said(), "a question stands in the log")


def escapes(world: World) -> None:
    """What was dropped with escapes in it reaches nobody's terminal."""
    import os  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    bad = "\x1b]0;owned\x07\x1b[31m\x9b2J[/red]"
    world.put("esc.jsonl.meta.yaml", json.dumps({"description": bad, bad: "x"}).encode())
    world.put("esc.jsonl", lines([{"instruction": bad, "response": bad}]))
    world.put("esc2.jsonl", lines([{"instruction": bad + "?", "response": bad}]))
    wait(lambda: any("\x9b" in answer or "owned" in answer for answer in world.answers()), 20)
    for words in (
        ["events"],
        ["jobs"],
        ["status"],
        ["monitor", "--once"],
        ["memory"],
        ["forget", "--dry-run", "owned"],
        ["ask", "--max-tokens", "3", bad],
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "lorad.apps.cli.main", "--home", str(world.root), *words],
            capture_output=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        )
        told = (done.stdout + done.stderr).decode(errors="replace")
        require("Traceback" not in told, f"{words[0]}: {told[-300:]}")
        seen = [sign for sign in ("\x1b]", "\x1b[31m", "\x07", "\x9b") if sign in told]
        require(not seen, f"{words[0]} prints {seen}")


def cases() -> Iterator[Case]:
    acts: tuple[tuple[str, str, Act], ...] = (
        ("A12", "retry with every kind of value", retry_settings),
        ("A12", "every kind of value in every body", values_in_bodies),
        ("A7", "every kind of text in every path and query", values_in_paths),
        ("A19", "a question of 18 MB", large_question),
        ("A19", "sixty bodies of a gigabyte, begun", many_large_bodies),
        ("A19", "5,000 stop texts", stops),
        ("held", "300 half-open connections", half_open),
        ("A19", "3,000 idle connections", idle_to_the_limit),
        ("A19", "a header of one byte at a time", slow_header),
        ("A19", "what is no HTTP", garbage),
        ("held", "200 questions at once", questions_at_once),
        ("A19", "streams that nobody reads", unread_streams),
        ("held", "questions stand in no log", log_is_without_prompts),
        ("A17", "escapes in what was dropped", escapes),
    )
    yield from acts
