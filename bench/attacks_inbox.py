"""Attacks through the inbox: links and swaps by a member, sidecars, bombs, growing files, names, floods."""

import contextlib
import gzip
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from attacks_world import DAEMON, GROUP, IS_ROOT, MEMBER, SECRET, World, facts, lines, require, wait

Act = Callable[[World], None]
Case = tuple[str, str, Act]
"""A row of the table, what is done, and how."""


def _tries(world: World, *acts: Callable[[], object]) -> None:
    """Do as a member what may well be refused: that a thing is impossible is the best outcome."""
    for act in acts:
        world.member(act)


def _replace(path: Path, target: Path) -> Callable[[], None]:
    """Return how a member puts a link in the place of something, whatever lies there."""

    def act() -> None:
        if os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}.gone"))
        path.symlink_to(target)

    return act


def _put_back(world: World, *names: str) -> None:
    """Take a member's links away again, as the owner does it; the daemon makes its own anew."""
    for name in names:
        path, gone = world.inbox / name, world.inbox / f"{name}.gone"
        if path.is_symlink() and path.lstat().st_uid == MEMBER:
            path.unlink()
        if os.path.lexists(gone) and not os.path.lexists(path):
            gone.rename(path)


# own folders


def link_in_processing(world: World) -> None:
    places = (world.inbox / "processing", world.root / "models" / "drops" / "processing")
    for place in places:
        _tries(
            world,
            lambda place=place: (place / "chat").mkdir(parents=True, exist_ok=True),
            lambda place=place: (place / "chat" / "999").symlink_to(world.root / "models"),
        )
    world.good()
    time.sleep(2)
    world.stop()
    world.start()
    require((world.root / "models" / "lorad.sqlite3").exists(), "the database is gone")


def link_as(name: str) -> Act:
    def act(world: World) -> None:
        _tries(world, _replace(world.inbox / name, world.own / "packages"))
        world.put("evil.pth", b"import os\n")
        world.put("bad.json", b'[{"instruction": "half"}]')
        world.good()
        time.sleep(3)
        require(not list((world.own / "packages").iterdir()), f"a file went through inbox/{name}")
        _put_back(world, name)
        for each in ("evil.pth", "bad.json"):
            if (world.inbox / each).exists():
                world.member((world.inbox / each).unlink)

    return act


def link_as_done_with_days(world: World) -> None:
    _tries(world, _replace(world.inbox / "done", world.own))
    world.good()
    time.sleep(2)
    world.stop()
    world.start()
    time.sleep(2)
    require((world.own / "2020-01-01" / "keep.txt").exists(), "a folder named like a day was removed")
    _put_back(world, "done")


def link_as_track(world: World) -> None:
    secret = world.own / "secret.jsonl"
    _tries(
        world,
        lambda: (world.inbox / "chat").rename(world.inbox / "chat.gone"),
        lambda: (world.inbox / "chat").symlink_to(world.own),
    )
    time.sleep(3)
    require(secret.exists(), "the link's folder was emptied")
    _put_back(world, "chat")


def file_as_done(world: World) -> None:
    _tries(
        world,
        lambda: (world.inbox / "failed").rename(world.inbox / "failed.gone"),
        lambda: (world.inbox / "failed").write_text("mine"),
    )
    world.put("bad.json", b'[{"instruction": "half"}]')
    time.sleep(2)
    for name in ("failed", "failed.gone"):
        if (world.inbox / name).is_file():
            (world.inbox / name).unlink()
    _put_back(world, "failed")


def drops_folder_made_first(world: World) -> None:
    world.stop()
    _tries(
        world,
        (world.inbox / ".drops").mkdir,
        lambda: (world.inbox / ".drops" / "failed").symlink_to(world.own / "packages"),
        (world.inbox / "processing").mkdir,
        lambda: (world.inbox / "processing" / "chat").symlink_to(world.root / "models"),
    )
    world.start()
    world.put("bad.json", b'[{"instruction": "half"}]')
    time.sleep(2)
    require(not list((world.own / "packages").iterdir()), "a file went where a member's link leads")


def hard_link(world: World) -> None:
    _tries(world, lambda: os.link(world.own / "secret.jsonl", world.inbox / "linked.jsonl"))
    if not (world.inbox / "linked.jsonl").exists():  # protected_hardlinks; as it would be without
        os.link(world.own / "secret.jsonl", world.inbox / "linked.jsonl")
    wait(lambda: not (world.inbox / "linked.jsonl").exists(), 10)
    require(not any(SECRET in answer for answer in world.answers()), "the secret was learned")


def _swap(world: World, name: str, swap: Callable[[Path], object]) -> None:
    """Drop many files and swap each for something else as soon as it can be."""
    stop = threading.Event()

    def act() -> None:
        for number in range(30):
            (world.inbox / f"{name}-{number}.jsonl").write_bytes(lines(facts(f"{name}-{number}")))
        deadline = time.monotonic() + 6
        done: set[int] = set()
        while time.monotonic() < deadline and len(done) < 30 and not stop.is_set():
            for number in set(range(30)) - done:
                for path in (
                    world.inbox / f"{name}-{number}.jsonl",
                    *(world.inbox / "processing" / "chat").glob(f"*/{name}-{number}.jsonl"),
                ):
                    try:
                        path.rename(path.with_name(f".{path.name}.away"))
                        swap(path)
                        done.add(number)
                    except OSError:
                        continue
            time.sleep(0.001)

    world.member(act)
    time.sleep(1)


def swap_for_link(world: World) -> None:
    _swap(world, "linked", lambda path: path.symlink_to(world.own / "secret.jsonl"))
    time.sleep(2)
    require(not any(SECRET in answer for answer in world.answers()), "the secret was learned")


def swap_for_pipe(world: World) -> None:
    _swap(world, "piped", os.mkfifo)
    began = time.monotonic()
    world.stop()
    require(time.monotonic() - began < 20, "a named pipe kept the daemon from stopping")
    world.start()


def swap_for_folder(world: World) -> None:
    _swap(world, "folder", os.mkdir)


def unreadable_in_processing(world: World) -> None:
    place = world.root / "models" / "drops" / "processing" / "chat"
    place.mkdir(parents=True, exist_ok=True)
    for name in ("zz", "9" * 23, "0", "-1"):
        (place / name).mkdir(exist_ok=True)
        if IS_ROOT:
            os.chown(place / name, DAEMON, GROUP)
        (place / name / "x.jsonl").write_bytes(lines(facts(f"odd {name}")))
    (place / "zz").chmod(0)
    world.good()
    time.sleep(3)
    require(world.status_of("GET", "/lorad/status") == 200, "status is not answered")
    world.stop()
    world.start()
    (place / "zz").chmod(0o700)


def odd_folders_of_a_member(world: World) -> None:
    deep = "/".join(["d"] * 400)
    _tries(
        world,
        lambda: (world.inbox / "shut").mkdir(mode=0),
        (world.inbox / ("9" * 23)).mkdir,
        lambda: (world.inbox / deep).mkdir(parents=True),
        lambda: os.mkfifo(world.inbox / "pipe.jsonl"),
        lambda: (world.inbox / "loop.jsonl").symlink_to("loop.jsonl"),
        lambda: [(world.inbox / "many" / str(n)).mkdir(parents=True) for n in range(5000)],
        lambda: os.mkfifo(world.inbox / "ok.jsonl.meta.yaml"),
    )
    world.put("ok.jsonl", lines(facts("ok.jsonl")))
    time.sleep(3)
    world.good()
    world.member(lambda: __import__("shutil").rmtree(world.inbox / "d"))
    world.member(lambda: __import__("shutil").rmtree(world.inbox / "many"))


# sidecars and rows


SIDECARS = {
    "!!int": b'track: !!int ""',
    "!!float": b'track: !!float ""',
    "!!bool": b"track: !!bool maybe",
    "!!set": b"track: !!set [1]",
    "!!timestamp": b"description: !!timestamp x",
    "!!python": b"track: !!python/object/apply:os.system ['touch /tmp/owned']",
    "keys of keys": b"? [a, b]\n: 1",
    "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
    "merge": b"a: &a {x: 1}\n"
    + b"".join(
        b"%c: &%c {<<: [%s]}\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
    ),
    "deep": b"description: " + b"[" * 20_000,
    "number": b"description: " + b"9" * 60_000,
    "escapes": b'description: "\\e]0;owned\\a\\e[31m"\n"\\e[2Jtrack": x',
    "surrogate": b'description: "\\ud800"',
    "not utf-8": b"track: \xff\xfe",
}


def sidecar(name: str) -> Act:
    def act(world: World) -> None:
        file = f"sided {name.replace('!', '')}.jsonl"
        world.put(f"{file}.meta.yaml", SIDECARS[name])
        world.put(file, lines(facts(file)))
        require(
            wait(
                lambda: (world.inbox / "failed" / f"{file}.reason.json").exists() or world.is_accepted(file),
                30,
            ),
            f"{file} has no end",
        )
        require(not Path("/tmp/owned").exists(), "a sidecar's command was run")  # noqa: S108

    return act


def _parquet_bomb() -> bytes:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    text = pa.array(["x" * 1_000_000] * 3000 + ["y"]).dictionary_encode()
    out = io.BytesIO()
    parquet.write_table(
        pa.table({"instruction": text, "response": text}), out, compression="zstd", use_dictionary=True
    )
    return out.getvalue()


def _parquet_lists() -> bytes:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    out = io.BytesIO()
    offsets = pa.array([0, 60_000_000], type=pa.int32())
    table = pa.table({"instruction": pa.ListArray.from_arrays(offsets, pa.nulls(60_000_000, pa.int8()))})
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def _chat(turns: int) -> bytes:
    said = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n} " + "word " * 30}
        for n in range(turns)
    ]
    return json.dumps({"messages": said}).encode() + b"\n"


def _call(arguments: str) -> bytes:
    call = {"function": {"name": "f", "arguments": arguments}}
    said = [
        {"role": "user", "content": "call"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    return json.dumps({"messages": said}).encode() + b"\n"


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "parquet dictionary": ("b.parquet", _parquet_bomb),
    "parquet lists": ("l.parquet", _parquet_lists),
    "chat of 2,000 turns": ("long.jsonl", lambda: _chat(2000)),
    "chat of 20,000 turns": ("longer.jsonl", lambda: _chat(20_000)),
    "table of 30,000 columns": (
        "wide.csv",
        (
            "instruction,response,"
            + ",".join(f"c{n}" for n in range(30_000))
            + "\n"
            + ("a,b," + ",".join("x" * 30_000) + "\n") * 20
        ).encode,
    ),
    "object of 200,000 keys": (
        "keys.jsonl",
        lambda: json.dumps({f"k{n}": n for n in range(70_000)}).encode() + b"\n",
    ),
    "gzip": ("bomb.jsonl.gz", lambda: gzip.compress(b"\0" * 1_500_000_000, 9)),
    "line without an end": ("line.jsonl", lambda: b'{"instruction": "' + b"x" * 50_000_000),
    "JSON nested in arguments": ("nested.jsonl", lambda: _call("[" * 300 + "]" * 300)),
    "JSON nested deeper": ("nested2.jsonl", lambda: _call('{"a":' * 100_000 + "1" + "}" * 100_000)),
    "surrogate as a key": ("key.jsonl", lambda: _call('{"\\ud800": 1}')),
    "surrogate as a value": (
        "value.jsonl",
        lambda: b'{"instruction": "\\ud800 what", "response": "\\udfff"}\n',
    ),
    "1e400": ("big.jsonl", lambda: _call('{"a": 1e400}') + b'{"instruction": 1e400, "response": "x"}\n'),
    "number of 100,000 digits": (
        "digits.jsonl",
        lambda: b'{"instruction": ' + b"9" * 100_000 + b', "response": "x"}\n' + _call("9" * 100_000),
    ),
    "nested 100,000 deep": ("deep.json", lambda: b"[" * 100_000),
    "quotes in a table": ("quotes.csv", lambda: b"instruction,response\n" + b'"' * 3_000_000),
    "blank lines": ("blank.csv", lambda: b"\n" * 20_000_000 + b"instruction,response\na,b\n"),
}


def bomb(name: str) -> Act:
    def act(world: World) -> None:
        file, content = BOMBS[name]
        world.put(file, content())

        def has_ended() -> bool:
            return (
                (world.inbox / "failed" / f"{file}.reason.json").exists()
                or bool(list((world.inbox / "done").glob(f"*/{file}")))
            ) and not (world.inbox / file).exists()

        require(wait(has_ended, 60), f"{file} has no end")
        # and what memory holds now can be exported
        require(wait(lambda: world.answers() is not None, 30), "memory cannot be exported")

    return act


# growth


def slow_writer(world: World) -> None:
    name = "slow.jsonl"
    rows = facts(name, 5)

    def act() -> None:
        with (world.inbox / name).open("wb", buffering=0) as file:
            file.write(lines(rows[:1]))
            time.sleep(2.5)
            file.write(lines(rows[1:]))

    world.member(act)
    require(wait(lambda: world.is_accepted(name, 5), 30), "rows that were written later are lost")


def cut_cell(world: World) -> None:
    name = "cut.csv"

    def act() -> None:
        with (world.inbox / name).open("wb", buffering=0) as file:
            file.write(
                b"instruction,response\nWhat does the first say?,cut.csv 0\nWhat does the second say?,cut.c"
            )
            time.sleep(2.5)
            file.write(b"sv 1\nWhat does the third say?,cut.csv 2\n")

    world.member(act)
    require(wait(lambda: world.is_accepted(name), 40), "what was written later is lost")
    require("cut.c" not in world.answers(), "half a cell was learned")


def two_writers(world: World) -> None:
    """Append again and again to a file that was read, long after it ended."""
    name = "again.jsonl"
    rows = facts(name, 3)
    with (world.inbox / name).open("wb", buffering=0) as file:
        file.write(lines(rows[:1]))
        wait(lambda: world.answers()[f"{name} 0"], 20)
        for row in rows[1:]:
            time.sleep(1)
            file.write(lines([row]))
    require(wait(lambda: world.is_accepted(name), 30), "rows that were appended later are lost")


def shrinks(world: World) -> None:
    name = "shrinks.jsonl"

    def act() -> None:
        path = world.inbox / name
        path.write_bytes(lines(facts(name, 2000)))
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                with path.open("r+b") as file:
                    file.truncate(50)
                    file.write(lines(facts(name, 2000)))
            except OSError:
                break

    world.member(act)
    time.sleep(2)


# names and floods


def long_names(world: World) -> None:
    name = "n" * 249 + ".jsonl"
    for _ in range(2):
        world.put(name, lines(facts("long name")))
        require(wait(lambda: not (world.inbox / name).exists(), 20), "a name of 255 bytes is not taken")
        time.sleep(1)
    other = "b" * 250 + ".json"
    world.put(other, b'[{"instruction": "half"}]')
    require(wait(lambda: not (world.inbox / other).exists(), 20), "a bad file of 255 bytes is not taken")
    time.sleep(1)
    stuck = [path for path in (world.root / "models" / "drops" / "processing").rglob("*") if path.is_file()]
    require(not stuck, f"{len(stuck)} files are stuck in processing/")


def control_names(world: World) -> None:
    names = [
        os.fsdecode(bytes([27, 93, 7]) * 80) + ".jsonl",
        "\x1b[31mred\x1b[0m.jsonl",
        "a\nb.jsonl",
        os.fsdecode(b"\xff\xfe") + ".jsonl",
        "\u202egnp.jsonl",
        "\x01" * 250,
        "-rf.jsonl",
        "%s%n{0}[red].jsonl",
    ]
    for name in names:
        world.put(name, lines(facts("odd name")))
    require(
        wait(lambda: not any((world.inbox / name).exists() for name in names), 30), "odd names are not taken"
    )
    time.sleep(1)
    require("\x1b[31m" not in world.said(), "an escape reached the log")


def flood(world: World) -> None:
    """Twenty thousand files at once: the daemon goes on answering; they are taken away again."""

    def act() -> None:
        for number in range(20_000):
            (world.inbox / f"flood-{number}.json").write_bytes(b"[]")

    world.member(act)
    for _ in range(5):
        require(
            world.status_of("GET", "/lorad/status", timeout=20) == 200, "status is not answered in a flood"
        )
        time.sleep(1)

    def remove() -> None:
        for path in world.inbox.glob("flood-*"):
            path.unlink(missing_ok=True)

    world.member(remove)
    require(wait(world.is_ready, 60), "the flood is not over")


def database_lock(world: World) -> None:
    """Somebody of the daemon's user holds the database's lock for some seconds."""
    import sqlite3  # noqa: PLC0415

    held = sqlite3.connect(world.root / "models" / "lorad.sqlite3", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    name = world.good()
    time.sleep(5)
    require(world.status_of("GET", "/healthz", timeout=5) == 200, "health is not answered")
    require(world.status_of("GET", "/lorad/status", timeout=35) in {200, 503}, "status is not answered")
    held.execute("ROLLBACK")
    held.close()
    require(wait(lambda: world.is_accepted(name)), "what was dropped meanwhile is not accepted")


def ends_the_daemon(world: World) -> None:
    """Kill the daemon three times while it reads one file, as a file does that its reading cannot bear."""
    name = "killer.jsonl"
    world.put(name, lines(facts(name, 100_000)))
    for _ in range(3):
        require(wait(lambda: _is_being_read(world, name), 60), "it is not read again")
        world.stop(9)
        world.start()
    require(wait((world.inbox / "failed" / f"{name}.reason.json").exists, 60), "it is read for ever")


def _is_being_read(world: World, name: str) -> bool:
    """Tell whether the process that reads was given the file."""
    assert world.daemon is not None
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(world.daemon.pid).children():
            if "lorad.datasets.isolated.worker" in child.cmdline() and any(
                name in file.path for file in child.open_files()
            ):
                return True
    return False


def cases() -> Iterator[Case]:
    yield "A1", "a link to models/ in processing/", link_in_processing
    yield "A2", "failed/ is a link to the daemon's packages", link_as("failed")
    yield "A2", "done/ is a link to the daemon's packages", link_as("done")
    yield "A2", "processing/ is a link to the daemon's packages", link_as("processing")
    yield "A3", "done/ is a link, and days are removed", link_as_done_with_days
    yield "A1", "a track's folder is a link", link_as_track
    yield "A2", "failed is a file of a member", file_as_done
    yield "A1", "a member makes the daemon's folders first", drops_folder_made_first
    yield "A4", "a hard link to a file of the daemon's user", hard_link
    yield "A4", "taken files are swapped for links", swap_for_link
    yield "A4", "taken files are swapped for named pipes", swap_for_pipe
    yield "A4", "taken files are swapped for folders", swap_for_folder
    yield "A6", "odd folders in processing/", unreadable_in_processing
    yield "A7", "odd folders, pipes and loops in the inbox", odd_folders_of_a_member
    for name in SIDECARS:
        yield ("A10" if name in {"aliases", "merge"} else "A5"), f"a sidecar with {name}", sidecar(name)
    for name in BOMBS:
        row = "A11" if name.startswith(("JSON", "surrogate", "1e400", "number")) else "A10"
        yield row, name, bomb(name)
    yield "A8", "a writer that pauses longer than settle_seconds", slow_writer
    yield "A8", "a cell that is cut in the middle", cut_cell
    yield "A8", "a writer that goes on long after", two_writers
    yield "A8", "a file that shrinks and grows while it is read", shrinks
    yield "A18", "names of 255 bytes, twice", long_names
    yield "A17", "names of control bytes", control_names
    yield "held", "20,000 files at once", flood
    yield "held", "somebody holds the database's lock", database_lock
    yield "A10", "a file that ends the daemon three times", ends_the_daemon
