"""Reading in a process of its own: the same readings, and whatever a file or that process does, the daemon goes on."""

import gzip
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lorad.apps.daemon.reading_process import ReadingProcess
from lorad.config import InboxSettings
from lorad.datasets import other_wordings, sidecar
from lorad.datasets import reader as samples
from lorad.datasets.formats.conversations import Content
from lorad.datasets.isolated import messages as exchange
from lorad.datasets.isolated import reader_process
from lorad.errors import SampleError, TransientError
from lorad.records import Example
from lorad.storage import source

DATA = Path(__file__).parents[1] / "data"
LIMITS = InboxSettings()
SMALL = InboxSettings(reader_bytes=128 << 20, max_row_bytes=1_000_000_000)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks what only Linux tells")

#: A regular expression that does not come to an end, and does not let Python do anything meanwhile.
ENDLESS = "import re; re.match('(a*)*b', 'a' * 60)"


class Clock:
    """A steady clock that goes on at each look, by nothing at first."""

    now = pace = 0.0

    def __call__(self):
        self.now += self.pace
        return self.now


class FakeChild:
    """A process that said everything in advance, and heard nothing."""

    def __init__(self, *messages, gone=False, status=-signal.SIGKILL, memory=0):
        self.connection, self.theirs = socket.socketpair()
        self.status, self.memory, self.is_ended = status, memory, False
        for message in messages:
            self.theirs.sendall(message if isinstance(message, bytes) else exchange.framed(message))
        if gone:
            self.theirs.close()

    def end(self):
        self.is_ended = True
        self.connection.close()
        self.theirs.close()
        return self.status


class Home:
    """A reader, its clock, and the processes that it started."""

    def __init__(self, limits=LIMITS, start=ReadingProcess):
        self.clock = Clock()
        self.started = []
        self.is_stopping = False
        self._start = start
        self.reader = reader_process.Reader(
            limits, start=self._begin, clock=self.clock, is_stopping=lambda: self.is_stopping
        )

    def _begin(self):
        self.started.append(self._start())
        return self.started[-1]

    def read(self, path, limits=None, **more):
        with source.opened(path) as opened:
            return self.reader.read(opened, limits or self.reader._limits, **more)

    def refusal(self, path, limits=None, **more):
        with pytest.raises((SampleError, TransientError)) as caught:
            self.read(path, limits, **more)
        return caught.value

    @property
    def process(self):
        return psutil.Process(self.started[-1]._process.pid)


@pytest.fixture
def home():
    made = []

    def make(*arguments, **named):
        made.append(Home(*arguments, **named))
        return made[-1]

    yield make
    for each in made:
        each.reader.close()


@pytest.fixture(scope="module")
def warm():
    """A reader whose process lives for many files."""
    made = Home()
    yield made
    made.reader.close()


@pytest.fixture
def small(tmp_path):
    return written(tmp_path / "small.jsonl", 3)


@pytest.fixture
def large(tmp_path):
    """More than a process can say while nobody listens."""
    return written(tmp_path / "large.jsonl", 8_000)


def written(path, count):
    rows = ({"instruction": f"What is thing {n}?", "response": f"thing {n}"} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(act):
    """Return what a reading says, or why there is none."""
    try:
        found = act()
    except SampleError as error:
        return error.as_dict()
    plain = {
        name: getattr(found, name) for name in samples.Reading.__dataclass_fields__ if name != "examples"
    }
    return plain | {"examples": list(found.examples)}


# the same readings


@pytest.mark.parametrize("path", sorted(DATA.glob("*.*")), ids=lambda path: path.name)
def test_a_file_says_what_it_says_in_this_process(warm, path):
    assert told(lambda: warm.read(path)) == told(lambda: samples.read(path, LIMITS))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.csv", "Frage,Antwort\nwo?,hier\nwann?,jetzt\n"),
        ("fields.jsonl", '{"frage": "wo?", "antwort": "hier", "id": 3}\n' * 3),
        ("half.jsonl", '{"instruction": "a", "response": "b"}\n{"instruction": "a"}\n'),
        ("deep.json", "[" * 200),
        ("empty.jsonl", ""),
        (
            "surrogate.jsonl",
            '{"instruction": "a \\ud800", "response": "é😀"}\n{"instruction": "a", "response": "b"}\n',
        ),
        ("text.txt", "Nothing that can be learned."),
        ("cut.jsonl.gz", gzip.compress(b'{"instruction": "a", "response": "b"}\n', mtime=0)[:-9]),
    ],
)
def test_a_refusal_is_told_and_helped_as_in_this_process(warm, tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    assert told(lambda: warm.read(path)) == told(lambda: samples.read(path, LIMITS))


def test_a_rows_check_is_asked_here(warm, small):
    def check(example):
        if example.target == "thing 1":
            raise SampleError("the base would answer otherwise", code="not_served")
        return example

    found = told(lambda: warm.read(small, check=check))

    assert found["code"] == "bad_rows"
    assert found == told(lambda: samples.read(small, LIMITS, check=check))


def test_a_sidecar_is_read_there_too(warm, tmp_path):
    path = written(tmp_path / "a.jsonl", 1)
    sidecar.path_of(path).write_text("fields: {question: Frage}\nlabels: [é, b]\n")

    with source.opened(sidecar.path_of(path)) as opened:
        assert warm.reader.sidecar(opened) == sidecar.beside(path)


def test_wordings_are_read_there_too(warm, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"question": f"What is {n}?", "answer": str(n), "also_asked": [f"{n}?", f"{n} is?"]} for n in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    beside = sidecar.path_of(path, sidecar.WORDINGS)
    beside.write_text(json.dumps({"What is 1?": ["Say 1", "1"], "What is 2?": ["Say 2"]}))

    with source.opened(beside) as opened:
        held_out = warm.reader.wordings(opened)
    found = warm.read(path, held_out=held_out)

    assert held_out == other_wordings.beside(path)
    assert list(found.examples) == list(samples.read(path, LIMITS, held_out=held_out).examples)
    assert found.examples[1].held_out == ("1 is?", "Say 1", "1")


def test_wrong_wordings_are_told_from_there(warm, tmp_path):
    beside = tmp_path / "a.json.wordings.json"
    beside.write_text("[5]")

    with source.opened(beside) as opened, pytest.raises(SampleError, match="row 1") as caught:
        warm.reader.wordings(opened)

    assert caught.value.code == "wordings"


def test_many_files_are_read_by_one_process_that_keeps_nothing_of_them(home, small):
    at = home()
    at.read(small)
    before = at.process.num_fds()

    for _ in range(50):
        at.read(small)

    assert len(at.started) == 1
    assert at.process.num_fds() == before


def test_a_process_without_work_is_ended(home, small):
    at = home()
    at.read(small)

    at.clock.now += reader_process.IDLE_SECONDS - 1
    at.reader.rest()
    assert at.process.is_running()
    at.clock.now += 1
    at.reader.rest()

    assert at.started[0]._process.returncode == -signal.SIGKILL
    assert at.read(small).rows == 3


# a10: what files do


class Unwatched(ReadingProcess):
    """A process at whose memory nobody looks; it has a limit of its own."""

    memory = 0


@pytest.mark.parametrize("start", [ReadingProcess, pytest.param(Unwatched, marks=LINUX)])
def test_a10_a_file_that_needs_more_memory_than_reading_may_have_fails_alone(home, tmp_path, small, start):
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b'{"instruction": "' + b"a" * (140 << 20) + b'", "response": "b"}', 1))
    at = home(SMALL, start)

    error = at.refusal(bomb)

    assert error.code == "too_much_memory"
    assert "inbox.reader_bytes" in error.message
    assert at.read(small).rows == 3


def test_a10_a_parquet_file_of_a_few_bytes_fails_alone(home, tmp_path, small):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    many = 10_000_000
    words = pa.ListArray.from_arrays([0, many], pa.repeat(pa.scalar(7, pa.int8()), many))
    pq.write_table(pa.table({"instruction": words, "response": words}), tmp_path / "bomb.parquet")
    at = home(SMALL)

    # arrow may give up by itself, or end with its process
    errors = (at.refusal(tmp_path / "bomb.parquet") for _ in range(reader_process.DEATHS))

    assert any(isinstance(error, SampleError) for error in errors)
    assert at.read(small).rows == 3


def test_a10_a_sidecar_whose_aliases_are_endless_fails_alone(home, tmp_path, small):
    path = written(tmp_path / "a.jsonl", 1)
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 12) if n else '1'}]" for n in range(12)]
    sidecar.path_of(path).write_text("\n".join([*rows, "? *a11\n: 1"]))
    at = home(SMALL.model_copy(update={"reader_silent_seconds": 20.0}))
    at.read(small)
    at.clock.pace = 0.5

    with source.opened(sidecar.path_of(path)) as opened, pytest.raises(SampleError):
        at.reader.sidecar(opened)

    at.clock.pace = 0.0
    assert at.read(small).rows == 3


def test_a10_a_row_that_becomes_too_much_is_a_bad_row():
    example = Example(task="chat", input=[{"role": "user", "content": "a"}], target="b" * 200)
    said = Content(format="chat", examples=[example])

    assert "becomes examples of more than 100 bytes" in exchange.row(1, said, 100)
    assert exchange.rows([json.loads(exchange.row(1, said, 1000))], "chat") == [(1, said)]


def test_a_file_of_which_the_process_needs_too_much_memory_by_the_daemons_own_look(home, small):
    child = FakeChild(exchange.ready())
    at = home(start=lambda: child)
    at.reader._child = at.reader._begun()
    child.memory = LIMITS.reader_bytes + 1

    assert at.refusal(small).code == "too_much_memory"
    assert child.is_ended


# what happens to the process


def test_a_process_that_dies_is_started_anew_and_the_third_time_the_file_fails(home, large, small):
    at = home()

    def kill(example):
        if example.target == "thing 0":
            at.process.kill()
        return example

    codes = [at.refusal(large, check=kill).code for _ in range(reader_process.DEATHS)]

    assert codes == ["reader_died", "reader_died", "ended_the_reader"]
    assert at.read(small).rows == 3
    assert at.refusal(large, check=kill).code == "reader_died"  # counted anew


def test_a_file_that_was_read_after_all_has_no_deaths(home, large):
    at = home()

    def kill(example):
        if example.target == "thing 0":
            at.process.kill()
        return example

    for _ in range(reader_process.DEATHS - 1):
        assert at.refusal(large, check=kill).code == "reader_died"
    assert at.read(large).rows == 8_000
    assert at.refusal(large, check=kill).code == "reader_died"


def test_a_process_that_is_stopped_is_ended_and_the_file_fails(home, large, small):
    at = home()

    def stop(example):
        if not at.clock.pace:
            at.process.suspend()
            at.clock.pace = 10.0
        return example

    error = at.refusal(large, check=stop)

    assert error.code == "too_slow"
    assert "inbox.reader_silent_seconds (60 s)" in error.message
    at.clock.pace = 0.0
    assert at.read(small).rows == 3


def test_a_process_that_was_killed_between_two_files_costs_nothing(home, small):
    at = home()
    at.read(small)
    at.process.kill()
    at.started[0]._process.wait()

    assert at.read(small).rows == 3


def test_what_fails_here_in_the_middle_of_a_file_is_no_fault_of_the_next(home, large, small):
    at = home()

    def fill(example):
        del example
        raise TransientError("a file's examples do not fit into the temporary folder", code="disk")

    assert at.refusal(large, check=fill).code == "disk"
    assert at.read(small).rows == 3


def test_a_daemon_that_stops_does_not_wait_for_a_file(home, large):
    at = home()

    def stop(example):
        at.is_stopping = True
        return example

    assert at.refusal(large, check=stop).code == "stopping"
    assert at.started[0]._process.returncode == -signal.SIGKILL


def test_a_process_that_cannot_be_started_is_nobodys_fault(home, small):
    def fail():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    at = home(start=fail)

    for _ in range(reader_process.DEATHS + 1):
        error = at.refusal(small)
        assert isinstance(error, TransientError)
        assert error.code == "reader_not_started"


@pytest.mark.parametrize("said", [(), (b"\x00\x00",), (b"\x00\x00\x00\x02{}",), (b"\xff\xff\xff\xff",)])
def test_a_process_that_does_not_begin_as_it_should_is_nobodys_fault(home, small, said):
    at = home(start=lambda: FakeChild(*said, gone=True, status=1))

    for _ in range(reader_process.DEATHS + 1):
        assert at.refusal(small).code == "reader_not_started"
    assert all(child.is_ended for child in at.started)


# a process that became somebody else's


HOSTILE = {
    "too large": (b"\xff\xff\xff\xff", "too_large"),
    "no json": ("[[1, ", "unreadable"),
    "no ascii": (b"\x00\x00\x00\x02\xff\xff", "unreadable"),
    "deep": ("[" * 100_000, "unreadable"),
    "no row": ("[1]", "unreadable"),
    "a number": ("7", "unreadable"),
    "a short row": ("[[1]]", "unreadable"),
    "a line beyond all": (f'[[{1 << 70},"chat",{{}},[]]]', "unreadable"),
    "a line before the first": ('[[-1,"","no"]]', "unreadable"),
    "a question that is a number": ('[[1,"chat",{},[[7,"a"]]]]', "unreadable"),
    "a message without content": ('[[1,"chat",{},[[[{"role":"user"}],"a"]]]]', "unreadable"),
    "an answer that is a list": ('[[1,"chat",{},[[[{"role":"user","content":"q"}],[]]]]]', "unreadable"),
    "wordings that are numbers": (
        '[[1,"chat",{},[[[{"role":"user","content":"q"}],"a",[7],[]]]]]',
        "unreadable",
    ),
    "wordings of no question": (
        '[[1,"chat",{},[[[{"role":"tool","content":"q"}],"a",["b"],[]]]]]',
        "unreadable",
    ),
    "too many wordings": (
        f'[[1,"chat",{{}},[[[{{"role":"user","content":"q"}}],"a",{json.dumps(["b"] * 65)},[]]]]]',
        "unreadable",
    ),
    "counts that are words": ('[[1,"chat",{"a":"b"},[]]]', "unreadable"),
    "an end of no kind": ('{"error":{"kind":"strange"}}', "unreadable"),
    "suggestions that are a number": ('{"suggested":1}', "unreadable"),
    "suggested numbers": ('{"suggested":[{"question":1}]}', "unreadable"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_process_that_answers_anything_ends_alone(home, small, case):
    said, code = HOSTILE[case]
    child = FakeChild(exchange.ready())
    at = home(start=lambda: child)
    at.reader._child = at.reader._begun()
    _answer(child, said)

    error = at.refusal(small)

    assert error.code == code
    assert child.is_ended


def _answer(child, said):
    """Have a process answer as soon as it is asked: what it says unasked makes another take its place."""
    send = child.connection

    class Asked:
        def __getattr__(self, name):
            return getattr(send, name)

        def sendmsg(self, *arguments):
            sent = send.sendmsg(*arguments)
            child.theirs.sendall(said if isinstance(said, bytes) else exchange.framed(said))
            return sent

    child.connection = Asked()


def test_a_sidecar_of_another_form_ends_alone(home, small):
    child = FakeChild(exchange.ready())
    at = home(start=lambda: child)
    at.reader._child = at.reader._begun()
    _answer(child, '{"sidecar":{"labels":7}}')

    with source.opened(small) as opened, pytest.raises(SampleError, match="sent an unexpected message"):
        at.reader.sidecar(opened)


HOSTILE_WORDINGS = {
    "a number": "[7]",
    "a wording that is a number": '[[1,[7],"q",null]]',
    "one that names nothing": '[[1,["a"],null,null]]',
    "one that names question and answer": '[[1,["a"],"q","b"]]',
    "one before the first": '[[-1,["a"],"q",null]]',
}


@pytest.mark.parametrize("case", HOSTILE_WORDINGS)
def test_wordings_of_another_form_end_alone(home, small, case):
    child = FakeChild(exchange.ready())
    at = home(start=lambda: child)
    at.reader._child = at.reader._begun()
    _answer(child, HOSTILE_WORDINGS[case])

    with source.opened(small) as opened, pytest.raises(SampleError, match="sent an unexpected message"):
        at.reader.wordings(opened)
    assert child.is_ended


def test_one_byte_now_and_then_is_no_word(home, small):
    child = FakeChild(exchange.ready())
    at = home(start=lambda: child)
    at.reader._child = at.reader._begun()
    _answer(child, b"\x00\x00")
    at.clock.pace = 10.0

    assert at.refusal(small).code == "too_slow"
    assert child.is_ended


def test_all_waiting_together_has_an_end(home, small):
    child = FakeChild(exchange.ready())
    at = home(InboxSettings(reader_silent_seconds=60, reader_seconds=200), start=lambda: child)
    at.reader._child = at.reader._begun()
    _answer(child, b"".join(exchange.framed("[]") for _ in range(100)))
    at.clock.pace = 5.0

    error = at.refusal(small)

    assert (error.code, "inbox.reader_seconds" in error.message) == ("too_slow", True)


def test_what_was_said_unasked_makes_another_process_take_over(home, small):
    at = home()
    at.reader._child = FakeChild('[[1,"chat",{},[]]]')

    assert at.read(small).rows == 3


def test_a_process_that_its_own_clock_ended_was_too_slow(home, small):
    at = home(start=lambda: FakeChild(exchange.ready(), gone=False, status=-signal.SIGALRM))
    at.reader._child = at.reader._begun()
    at.started[0].theirs.shutdown(socket.SHUT_WR)
    at.reader._ready = lambda: at.reader._child

    assert at.refusal(small).code == "too_slow"


# its rights


@LINUX
def test_it_has_no_rights_that_it_does_not_need(home, small, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret")
    at = home()
    at.read(small)

    limits = {
        name: at.process.rlimit(getattr(psutil, f"RLIMIT_{name}"))
        for name in ("CORE", "FSIZE", "NOFILE", "DATA")
    }
    assert limits == {
        "CORE": (0, 0),
        "FSIZE": (0, 0),
        "NOFILE": (64, 64),
        "DATA": (LIMITS.reader_bytes, LIMITS.reader_bytes),
    }
    assert "HF_TOKEN" not in at.process.environ()
    assert at.process.num_fds() == 4  # nothing, nothing, the daemon's life and its words
    assert at.process.nice() > psutil.Process().nice() - 1


def python(program, **more):
    return subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more
    )


@LINUX
def test_it_ends_with_the_daemon_even_inside_of_an_endless_expression():
    with python(
        f"from lorad.datasets.isolated import worker; worker.lower_rights(); print(1, flush=True); {ENDLESS}"
    ) as process:
        process.stdout.readline()
        process.stdin.close()

        assert process.wait(timeout=50) == -signal.SIGIO


def test_it_ends_by_its_own_clock_where_nobody_watches():
    program = (
        "from lorad.datasets.isolated import worker; from lorad.config import InboxSettings; worker.GRACE_SECONDS = 0.01; "
        f"worker.Sender(None).begin(InboxSettings(reader_silent_seconds=0.01)); {ENDLESS}"
    )
    with python(program) as process:
        assert process.wait(timeout=50) == -signal.SIGALRM


@LINUX
def test_a_daemon_that_is_killed_while_a_file_is_read_leaves_no_orphan(large):
    program = f"""
import os, signal, sys
from pathlib import Path
from lorad.datasets.isolated import reader_process
from lorad.apps.daemon.reading_process import ReadingProcess
from lorad.config import InboxSettings

limits = InboxSettings()
from lorad.storage.source import opened
here = reader_process.Reader(limits, start=ReadingProcess, clock=lambda: 0.0, is_stopping=lambda: False)

def check(example):
    print(here._child._process.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)

with opened(Path({str(large)!r})) as source:
    here.read(source, limits, check=check)
"""
    with python(program) as daemon:
        orphan = os.pidfd_open(int(daemon.stdout.readline()))
        daemon.stdin.write(b"\n")
        daemon.stdin.flush()
        assert daemon.wait(timeout=50) == -signal.SIGKILL
        poll = select.poll()
        poll.register(orphan)
        assert poll.poll(50_000)
        os.close(orphan)
