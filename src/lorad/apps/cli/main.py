"""The ``lorad`` command.

What lives here: commands and their options, reading what people type, exit statuses. What never does:
tables (``tables``), sentences about states (``state_text``), HTTP (``client``), models. The commands that need
models hand over to another program by ``execv``: ``run`` to ``lorad.apps.daemon.app``; those in ``FORWARDED`` to
``lorad.apps.cli.model_commands``.

``lorad status`` must feel instant. So what only some commands need is imported inside them (rich 60 ms,
pydantic and YAML for the settings 80 ms), and torch, FastAPI and httpx never are.
"""

import contextlib
import difflib
import json
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from lorad import __version__
from lorad.apps.cli.job_wait import wait_for
from lorad.apps.screens import state_text, tables, terminal
from lorad.errors import ConfigError, LoradError, RegistryError, TransientError
from lorad.home import Home, find_home
from lorad.serving.client import Client
from lorad.storage import strict_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lorad.config import Settings
    from lorad.serving.queries import Archive
    from lorad.storage.directories import Folder

SIDECAR, REASON = ".meta.yaml", ".reason.json"
"""What may lie beside a file; spelled here because their own modules load more than a command line should."""

LOOKED_BACK = 500
"""Events before the first look in which a file may have failed that was dropped with those to wait for."""

CUT = "length"
"""The finish reason of an answer that would have gone on."""

MARK = "\ufeff"
"""A mark of byte order."""

LONGEST_REST = 86_400.0
"""Seconds between two looks; a clock takes no infinite number of them."""

LONGEST_STEM = 200
"""Bytes; a file's name has 255 at most, and what is added to it on its way through the inbox must fit too."""

LONGEST_NUMBER = 19
"""Digits of a job's number; a file may have a name of more."""

GLOBAL_OPTIONS = ("--home", "--config", "--set")
FORWARDED = ("base", "plan", "check", "doctor", "export", "verify", "reproduce", "calibrate")
GROUPS = ("base",)
"""Commands of commands: those below them take a home, and no settings."""
AS_TYPED = {
    "add_help_option": False,
    "context_settings": {
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    },
}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Track = Annotated[str, typer.Option(metavar="NAME", help="The line of learning.")]
Interval = Annotated[
    float, typer.Option(min=0.0, max=LONGEST_REST, metavar="S", help="Seconds between two looks.")
]
Model = Annotated[
    str, typer.Option(metavar="NAME", help="A track, or track@previous, track@v0.1, track@TAG, track@base.")
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")]
Question = Annotated[str | None, typer.Argument(help="- or none reads standard input.", show_default=False)]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of an answer; else what the context leaves.")
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 gives the likeliest answer.")]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is complete.")]
Once = Annotated[bool, typer.Option("--once", help="Print one picture.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens next.")]
Timeout = Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Give up after so many seconds.")]
OneJob = Annotated[int | None, typer.Option(min=1, metavar="N", help="Wait for this job alone.")]
Force = Annotated[bool, typer.Option("--force", help="Promote it whatever the judge says.")]
Changes = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change its plan, repeatable.")]
ResumedJob = Annotated[int | None, typer.Argument(metavar="[JOB]", help="Else sessions in general.")]
FromCheckpoint = Annotated[
    str | None, typer.Option("--from", metavar="CHECKPOINT", help="Like round-0003; later ones are removed.")
]
PlotFile = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it into a picture.")]
Target = Annotated[
    str | None, typer.Option(metavar="V", help="A version or a tag, or base for none; else the previous one.")
]
OneVersion = Annotated[
    str, typer.Argument(metavar="V", help="A version, or a tag, latest or previous.", show_default=False)
]
Tag = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits, dots, dashes.")]
Keep = Annotated[int | None, typer.Option(min=1, metavar="N", help="Most versions; else the settings'.")]
OlderThan = Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Remove what is older.")]
MaxBytes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Most bytes of all together.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing.")]
ExportFile = Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Where to; - is standard output.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")]
Dataset = Annotated[str | None, typer.Option(metavar="NAME", help="Only this dataset.")]
Refit = Annotated[bool, typer.Option("--refit", help="Learn all of memory anew from the base model.")]
Selector = Annotated[str, typer.Argument(help="A dataset's name, else a text that the examples hold.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
HomeFolder = Annotated[str | None, typer.Option(metavar="FOLDER", help="Else LORAD_HOME, else this folder.")]
ConfigFile = Annotated[str | None, typer.Option(metavar="FILE", help="Settings on top of default.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, repeatable.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CliContext:
    """Which home is meant, and with which settings."""

    home: str | None
    config: str | None
    overrides: tuple[str, ...]

    def find(self) -> tuple[Home, "Settings"]:
        """Return the home and its settings."""
        from lorad.config import load_settings  # noqa: PLC0415 - 80 ms that `lorad status` need not spend

        home = find_home(self.home)
        return home, load_settings(home, self.config, self.overrides)

    def arguments(self, *, with_settings: bool = True) -> list[str]:
        """Return the options that say the same to another program."""
        settings = [("--config", self.config), *(("--set", override) for override in self.overrides)]
        given = [("--home", self.home), *(settings if with_settings else [])]
        return [word for name, value in given if value is not None for word in (name, value)]


class Commands(terminal.Commands):
    """All commands: takes global options anywhere, and turns errors into one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move global options to the front, where typer looks for them."""
        ctx.meta["lorad.json"] = "--json" in args
        return super().parse_args(ctx, _hoist(args))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what can go wrong ends in a sentence on standard error and status 1."""
        try:
            return super().invoke(ctx)
        except LoradError as error:
            if ctx.meta["lorad.json"]:
                terminal.write_json({"error": error.as_dict()}, indent=None)
            else:
                terminal.complain(error.message)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _hoist(args: Sequence[str]) -> list[str]:
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--" or (word in FORWARDED and not rest):
            return [*front, *rest, word, *words]
        if word in GLOBAL_OPTIONS and (value := next(words, None)) is not None:
            front += [word, value]
        elif word.partition("=")[0] in GLOBAL_OPTIONS and "=" in word:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keeps a local language model learning, and proves that it forgets nothing.",
)


def main() -> None:
    """Run the command line; the entry point of the ``lorad`` script."""
    terminal.prepare()
    try:
        app(prog_name="lorad")
    except OSError as error:
        sys.exit(terminal.fail(error))


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"lorad {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _globals(
    ctx: typer.Context,
    home: HomeFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    _version: Version = False,
) -> None:
    ctx.obj = CliContext(home=home, config=config, overrides=tuple(overrides or ()))


def _client(ctx: typer.Context) -> Client:
    home = find_home(ctx.obj.home)
    running = home.running_socket()
    if running is None:  # never started, or stopped well: the settings say where it would answer
        running = home.socket(ctx.obj.find()[1].server.socket)
    return Client(running, home.root)


def _records(ctx: typer.Context) -> "Client | Archive":
    """Return the daemon, or where none runs what its home has recorded: that is when people ask why."""
    client = _client(ctx)
    if client.is_running():
        return client
    from lorad.serving import queries  # noqa: PLC0415 - see the module's docstring

    terminal.say("lorad is not running; this is what its home has recorded", err=True)
    return ctx.with_resource(queries.read(*ctx.obj.find()))


def _print(answer: Any, as_json: bool, shape: "Callable[[Any], RenderableType]") -> None:
    if as_json:
        terminal.write_json(answer)
        return
    from lorad.apps.screens.screen import Screen  # noqa: PLC0415 - see the module's docstring

    Screen().print(shape(answer))


# Homes and daemons


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Made if it is missing; what is there stays.")]) -> None:
    """Make a home: configs/, inbox/ and models/."""
    from lorad.storage.files import make_folder, write_bytes  # noqa: PLC0415 - see the module's docstring

    texts = {f"{name}/README.md": text for name, text in state_text.README.items()}
    for name, text in (texts | {"configs/default.yaml": _settings_to_change()}).items():
        file = folder / name
        try:
            make_folder(file.parent)
            if not file.exists():
                write_bytes(file, text.encode())
        except OSError as error:
            raise ConfigError(f"{file.parent} cannot be made: {error.strerror}", code="no_home") from None
    terminal.say(
        f"{folder} is a lorad home. Next:",
        f"  lorad --home {folder} base --help",
        f"  lorad --home {folder} run",
    )


def _settings_to_change() -> str:
    """Return the shipped settings, all of them commented out: what nobody changed follows later defaults."""
    from importlib import resources  # noqa: PLC0415 - see the module's docstring

    shipped = resources.files("lorad").joinpath("default.yaml").read_text(encoding="utf-8")
    lines = (f"#{line}" if line and not line.startswith("#") else line for line in shipped.splitlines())
    return "\n".join([state_text.COMMENTED_OUT, "", *lines, ""])


@app.command()
def run(ctx: typer.Context) -> None:
    """Run the daemon in the foreground."""
    _become("lorad.apps.daemon.app", ctx.obj.arguments())


@app.command(**AS_TYPED)  # type: ignore[arg-type]  # one dict holds differently typed options
def base(ctx: typer.Context) -> None:
    """Add base models and look at them; see: lorad base --help."""
    _hand_over(ctx, "base")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def plan(ctx: typer.Context) -> None:
    """Show how a file would be learned; see: lorad plan --help."""
    _hand_over(ctx, "plan")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def check(ctx: typer.Context) -> None:
    """Read a file as the inbox would, and report; see: lorad check --help."""
    _hand_over(ctx, "check")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def doctor(ctx: typer.Context) -> None:
    """Say what is wrong with this machine and this home, and the remedy; see: lorad doctor --help."""
    from lorad.apps.cli.doctor import packages  # noqa: PLC0415 - 20 ms that `lorad status` need not spend

    # the other program could not even start without some of them
    missing = [found for found in packages() if found.status == "fail"]
    if missing:
        told = "; ".join(f"{found.name} {found.detail}: {found.remedy}" for found in missing)
        raise ConfigError(told, code="no_package")
    _hand_over(ctx, "doctor")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def export(ctx: typer.Context) -> None:
    """Write a version for another program: an adapter, a merged model, GGUF; see: lorad export --help."""
    _hand_over(ctx, "export")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def verify(ctx: typer.Context) -> None:
    """Load versions with every check and their probes; see: lorad verify --help."""
    _hand_over(ctx, "verify")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def reproduce(ctx: typer.Context) -> None:
    """Make a version once more and compare; see: lorad reproduce --help."""
    _hand_over(ctx, "reproduce")


@app.command(**AS_TYPED)  # type: ignore[arg-type]
def calibrate(ctx: typer.Context) -> None:
    """Measure whether a version is as right as it is sure, or has drifted; see: lorad calibrate --help."""
    _hand_over(ctx, "calibrate")


def _hand_over(ctx: typer.Context, command: str) -> NoReturn:
    """Pass on what was typed as it was typed, and what stood before the command after it."""
    cut = ctx.args.index("--") if "--" in ctx.args else len(ctx.args)
    is_group = command in GROUPS
    has_command = not is_group or (ctx.args and not ctx.args[0].startswith("-"))  # else it is of no home
    known = ctx.obj.arguments(with_settings=not is_group) if has_command else []
    _become("lorad.apps.cli.model_commands", [command, *ctx.args[:cut], *known, *ctx.args[cut:]])


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Turn into another program: signals, exit status and terminal are its own from here on."""
    sys.stdout.flush()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a bar of the libraries would fill a log
    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: a torch.py here is not torch
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what lorad serves and does."""
    snapshot = _client(ctx).status()
    if as_json:
        terminal.write_json(snapshot)
    else:
        terminal.say(*state_text.summary(snapshot).split("\n"))


@app.command()
def monitor(ctx: typer.Context, once: Once = False, interval: Interval = 1.0) -> None:
    """Watch lorad at work; Ctrl-C ends it."""
    from lorad.apps.screens.monitor import watch  # noqa: PLC0415 - see the module's docstring
    from lorad.apps.screens.screen import Screen  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        watch(_client(ctx).status, console=Screen(), sleep=time.sleep, once=once, interval=interval)


@app.command()
def events(
    ctx: typer.Context, follow: Follow = False, interval: Interval = 1.0, as_json: Json = False
) -> None:
    """Show what happened."""
    client = _client(ctx) if follow else _records(ctx)
    after: int | None = None
    if as_json and not follow:
        terminal.write_json(client.events())
        return
    while True:
        for event in client.events(after)["events"]:
            if as_json:
                terminal.write_json(event, indent=None)
            else:
                terminal.say(tables.event(event))
            after = event["id"]
        if not follow:
            return
        time.sleep(interval)


# Asking


@app.command()
def ask(
    ctx: typer.Context,
    question: Question = None,
    *,
    model: Model = "chat",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    no_stream: NoStream = False,
    as_json: Json = False,
) -> None:
    """Ask one question, and print the answer exactly; status 1 if it was cut and no --max-tokens asked for that."""
    messages = [*_opening(system), {"role": "user", "content": _asked(question)}]
    client = _client(ctx)
    options = {"max_tokens": max_tokens, "temperature": temperature}
    if as_json or no_stream:
        finish, tokens = _print_whole(client.chat(messages, model, **options), as_json=as_json)
    else:
        stream = client.stream_chat(messages, model, **options)
        _type_out(stream)
        finish, tokens = stream.finish_reason, stream.tokens
    if sys.stdout.isatty() and not as_json:  # a pipe gets what was generated and not a byte more
        terminal.say("")
    if finish == CUT:
        terminal.say(state_text.cut(tokens), err=True)
        raise typer.Exit(0 if max_tokens else 1)


def _print_whole(answer: dict[str, Any], *, as_json: bool) -> tuple[str | None, int | None]:
    """Print an answer; return why it ended and how many tokens it has."""
    choice = answer["choices"][0]
    if as_json:
        terminal.write_json(answer)
    else:
        terminal.write(choice["message"]["content"])
    return choice.get("finish_reason"), answer.get("usage", {}).get("completion_tokens")


def _asked(question: str | None) -> str:
    """Return the question that was typed, or that standard input holds."""
    if question in (None, "-"):
        question = "" if sys.stdin.isatty() else _piped()
    if not question or question.isspace():
        raise ConfigError(
            "there is no question; write one: lorad ask QUESTION, or pipe it in", code="no_question"
        )
    _check_typed(question)
    return question


def _piped() -> str:
    """Return what standard input holds, without the mark of byte order that some programs write in front."""
    try:
        return sys.stdin.read().removeprefix(MARK).rstrip("\n")
    except OSError as error:
        told = (
            f"standard input cannot be read: {error.strerror or error}; name the question: lorad ask QUESTION"
        )
        raise ConfigError(told, code="no_question") from None


def _check_typed(question: str) -> None:
    """Raise ``ConfigError`` when the terminal has given bytes that are no text."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "what was typed is not text in this terminal's encoding; set one that fits, such as LC_ALL=C.UTF-8",
            code="bad_text",
        ) from None


def _opening(system: str | None) -> list[dict[str, str]]:
    _check_typed(system or "")
    return [{"role": "system", "content": system}] if system else []


def _type_out(pieces: Iterator[str]) -> str:
    told = []
    for piece in pieces:
        terminal.write(piece)
        told.append(piece)
    return "".join(told)


@app.command()
def chat(
    ctx: typer.Context,
    model: Model = "chat",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
) -> None:
    """Talk; /model NAME changes who answers, /quit ends."""
    client, messages = _client(ctx), _opening(system)
    if sys.stdin.isatty():
        import readline  # noqa: F401, PLC0415 - gives input() its line editing
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/model":
            model = rest.strip() or model
            terminal.say(f"{model} answers")
        elif command[:1] == "/" and "/" not in command[1:]:  # /etc/hosts may be asked about
            terminal.say(f"there is no {command}; /model NAME changes who answers, /quit ends", err=True)
        elif line:
            messages.append({"role": "user", "content": line})
            messages = _turn(client, messages, model, max_tokens=max_tokens, temperature=temperature)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").removeprefix(MARK).strip()
        except EOFError:
            terminal.say("")
            return
        if line == "/quit":
            return
        yield line


def _turn(client: Client, messages: list[dict[str, str]], model: str, **options: Any) -> list[dict[str, str]]:
    """Answer once; return the conversation to go on with, without a question that got no answer."""
    try:
        _check_typed(messages[-1]["content"])
        stream = client.stream_chat(messages, model, **options)
        answer = _type_out(stream)
    except LoradError as error:
        terminal.complain(error.message)
        return messages[:-1]
    terminal.say("")
    if stream.finish_reason == CUT:
        terminal.say(state_text.cut(stream.tokens), err=True)
    return [*messages, {"role": "assistant", "content": answer}]


# Learning


@app.command()
def drop(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    track: Annotated[str | None, typer.Option(metavar="NAME", help="Learn it on this track.")] = None,
) -> None:
    """Copy files into the inbox, safely."""
    from lorad.datasets.inbox.inbox import passed_by  # noqa: PLC0415 - 130 ms that `lorad status` need not spend

    home, settings = ctx.obj.find()
    if track is not None:
        settings.track(track)
    inbox = home.inbox / (track or "")
    for source in files:
        if not source.is_file():
            raise ConfigError(f"{source} is not a file", code="no_such_file", path=str(source))
        if pattern := passed_by(source.name):
            raise ConfigError(f"the inbox passes by files named {pattern}; rename {source}", code="passed_by")
        if source.name.endswith(SIDECAR) and source.with_name(source.name.removesuffix(SIDECAR)) not in files:
            raise ConfigError(
                f"{source.name} goes along with its file; drop {source.name.removesuffix(SIDECAR)} alone",
                code="lone_sidecar",
            )
    for source in (file for file in files if not file.name.endswith(SIDECAR)):
        _copy_all(_with_sidecar(source), home.inbox, track)
        terminal.say(f"dropped {source.name} into {inbox}; wait for it with: lorad wait")


def _with_sidecar(file: Path) -> list[Path]:
    """Return a file's sidecar, if it has one, and then the file: the inbox takes a file without waiting for more."""
    beside = file.with_name(f"{file.name}{SIDECAR}")
    with contextlib.suppress(OSError):  # no file's name can be that long
        return [beside, file] if beside.is_file() else [file]
    return [file]


def _copy_all(parts: Sequence[Path], inbox: Path, track: str | None) -> None:
    """Copy files into the inbox, or into a track's folder in it; raise ``ConfigError`` where that cannot be."""
    try:
        with _opened(inbox, track) as folder:
            for part in parts:
                _copy_in(part, folder)
    except (OSError, TransientError) as error:
        why = getattr(error, "strerror", None) or error
        told = f"{parts[-1]} could not be copied into {inbox / (track or '')}: {why}"
        raise ConfigError(told, code="not_copied") from None


@contextlib.contextmanager
def _opened(inbox: Path, track: str | None) -> "Iterator[Folder]":
    """Open the inbox, or a track's folder in it, made if it must be: where others may write, no link leads elsewhere."""
    from lorad.storage.directories import Folder  # noqa: PLC0415 - as above

    if not inbox.is_dir():
        inbox.mkdir(exist_ok=True)
        inbox.chmod(
            stat.S_IMODE(inbox.parent.stat().st_mode)
        )  # whatever the umask: the daemon must be able to empty it
    with Folder.open(inbox) as folder:
        if track is None:
            yield folder
            return
        with folder.make(track, stat.S_IMODE(folder.state().st_mode)) as inner:
            yield inner


def _copy_in(source: Path, folder: "Folder") -> None:
    """Copy under a hidden name that nobody knows before, and rename: the inbox sees the whole file or none."""
    if folder.holds(source.name):
        raise ConfigError(
            f"{folder.path / source.name} still waits to be taken; drop it again once it is",
            code="already_waiting",
        )
    hidden, where = f".{secrets.token_hex(8)}.part", folder.descriptor
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with (
            source.open("rb") as reading,
            os.fdopen(os.open(hidden, flags, 0o666, dir_fd=where), "wb") as writing,
        ):
            shutil.copyfileobj(reading, writing)
            if folder.state().st_mode & stat.S_IWGRP:  # a group shares the inbox, and the daemon is of it
                mode = stat.S_IMODE(os.fstat(writing.fileno()).st_mode)
                os.fchmod(writing.fileno(), mode | stat.S_IRGRP)
        os.rename(hidden, source.name, src_dir_fd=where, dst_dir_fd=where)
    finally:
        with contextlib.suppress(OSError):  # renamed already when all went well
            os.unlink(hidden, dir_fd=where)


@app.command()
def wait(
    ctx: typer.Context,
    timeout: Timeout = None,
    job: OneJob = None,
    interval: Interval = 0.5,
    as_json: Json = False,
) -> None:
    """Wait until all is learned; status 0 if it was promoted."""
    client = _client(ctx)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with _progress(interval) as rest:
        ends = wait_for(
            _looking_back(client),
            job=None if job is None else lambda: client.job(job),
            is_late=lambda: time.monotonic() >= deadline,
            rest=rest,
        )
    has_succeeded = all(end.is_good for end in ends)
    if as_json:
        terminal.write_json({"ok": has_succeeded, "ended": [end.record for end in ends]})
    for end in [] if as_json else ends:
        line = state_text.job_result(end.record) if end.is_job else state_text.event_line(end.record)
        terminal.say(line, err=not end.is_good)
    raise typer.Exit(0 if has_succeeded else 1)


def _looking_back(client: Client) -> Callable[[], Any]:
    """Return a way to take snapshots with all events since the last one: a snapshot's own are only the newest."""
    seen: int | None = None

    def look() -> Any:
        nonlocal seen
        snapshot = client.status()
        if seen is None:
            newest = max((event["id"] for event in snapshot["events"]), default=0)
            seen = max(0, newest - LOOKED_BACK)
        events = client.events(seen)["events"]
        seen = max([seen, *(event["id"] for event in events)])
        return snapshot | {"events": events}

    return look


@contextlib.contextmanager
def _progress(interval: float) -> Iterator[Callable[[Any], None]]:
    """Rest between two looks, with one line of standard error up to date while somebody watches."""
    is_watched = sys.stderr.isatty()

    def rest(snapshot: Any) -> None:
        if is_watched:
            line = state_text.progress(snapshot)[: shutil.get_terminal_size().columns - 1]
            terminal.redraw(line)
        time.sleep(interval)

    try:
        yield rest
    finally:
        if is_watched:
            terminal.redraw("")


@app.command()
def jobs(
    ctx: typer.Context,
    job: Annotated[int | None, typer.Argument(metavar="[JOB]", help="Show this one in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the jobs, newest first, or show one: what its file held, what was bad, what it replaced."""
    if job is None:
        _print(_records(ctx).jobs(), as_json, tables.jobs)
    else:
        _print(_records(ctx).job(job), as_json, tables.job)


@app.command()
def retry(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="JOB|NAME", help="A job's number, or a file in inbox/failed.")
    ],
    force: Force = False,
    settings: Changes = None,
) -> None:
    """Queue a rejected, failed or cancelled job again, or put a failed file back into the inbox."""
    if not what.isdecimal() or len(what) > LONGEST_NUMBER:
        _put_back(find_home(ctx.obj.home), what)
        return
    changed = dict(_setting(text) for text in settings or ())
    _client(ctx).retry(int(what), force=force, settings=changed)
    terminal.say(f"job {what} is queued again")


def _put_back(home: Home, name: str) -> None:
    """Move a failed file to where it was dropped, its sidecar first, and its reason away."""
    from lorad.storage.directories import Folder  # noqa: PLC0415 - as above

    inbox, failed = home.inbox, home.dropped("failed")
    known = {path.name for path in failed.iterdir()} if failed.is_dir() else set()
    data = sorted(known - {other for other in known if other.endswith((SIDECAR, REASON))})
    if name not in data:
        near = difflib.get_close_matches(name, data, n=1)
        told = f"did you mean {near[0]}?" if near else f"there is: {', '.join(data[:10]) or 'nothing'}"
        raise ConfigError(f"no file {name} in {failed}; {told}", code="no_such_file")
    reason = failed / f"{name}{REASON}"
    try:
        track = str(json.loads(reason.read_text(encoding="utf-8"))["track"])
    except (OSError, ValueError, KeyError, TypeError):
        track = ""
    is_there = track and (inbox / track).is_dir() and not (inbox / track).is_symlink()
    target = inbox / track if is_there else inbox
    try:
        with Folder.open(failed) as source, _opened(inbox, track if is_there else None) as folder:
            if folder.holds(name):
                raise ConfigError(
                    f"{target / name} still waits to be taken; try again later", code="already_waiting"
                )
            for part in (f"{name}{SIDECAR}", name):
                if part in known:
                    source.rename(part, folder, part)
            source.remove(reason.name)
    except PermissionError:  # of the group that drops files: it reads what failed and changes nothing there
        told = f"you may not move {failed / name}; drop it again: lorad drop {failed / name}"
        raise ConfigError(told, code="not_moved") from None
    except (OSError, TransientError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} could not be moved: {why}", code="not_moved") from None
    terminal.say(f"{name} is in {target} again; wait for it with: lorad wait")


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--settings {text}: write it as key=value, for example --settings rank=16")
    with contextlib.suppress(ValueError, RecursionError):
        return key, json.loads(value)
    return key, value


@app.command()
def cancel(ctx: typer.Context, job: int) -> None:
    """Take a job out of the queue, or end its session."""
    _client(ctx).cancel(job)
    terminal.say(f"job {job} is cancelled; again: lorad retry {job}")


@app.command()
def pause(ctx: typer.Context) -> None:
    """Start no more sessions; questions are answered as before."""
    _client(ctx).pause()
    terminal.say("paused: no session starts until: lorad resume")


@app.command()
def resume(ctx: typer.Context, job: ResumedJob = None, checkpoint: FromCheckpoint = None) -> None:
    """Start sessions again after a pause; with JOB, let a failed job go on where it stood."""
    if job is None:
        if checkpoint is not None:
            raise ConfigError("--from needs a job: lorad resume JOB --from CHECKPOINT", code="no_job")
        _client(ctx).resume()
        terminal.say("learning again")
        return
    behind = _client(ctx).resume_job(job, checkpoint)["checkpoint"]
    where = (
        f"go on behind {behind}, if what it learns is still the same"
        if behind
        else "begin anew: it has no complete checkpoint"
    )
    terminal.say(f"job {job} is queued, to {where}")


# Versions and memory


def _refuse_options_in_front(ctx: typer.Context) -> None:
    """Refuse what would be ignored: the subcommand has options of the same names."""
    for name, parameter in (("track", "--track"), ("as_json", "--json")):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"put {parameter} behind {ctx.invoked_subcommand}: lorad {ctx.info_name} {ctx.invoked_subcommand} … {parameter}",
                code="bad_option",
            )


versions = typer.Typer(invoke_without_command=True)
app.add_typer(versions, name="versions")


@versions.callback()
def _versions(ctx: typer.Context, track: Track = "chat", as_json: Json = False) -> None:
    """List the versions, and which of them serve."""
    if ctx.invoked_subcommand is None:
        _print(_records(ctx).versions(track), as_json, tables.versions)
    else:
        _refuse_options_in_front(ctx)


@versions.command("latest")
def versions_latest(ctx: typer.Context, track: Track = "chat") -> None:
    """Print the name of the latest version."""
    latest = _records(ctx).versions(track)["latest"]
    if latest is None:
        raise RegistryError(
            f"no version of {track} is the latest: the base alone serves; drop a file, or go back to a version with: "
            "lorad rollback",
            code="no_version",
        )
    terminal.say(latest)


@versions.command("show")
def versions_show(
    ctx: typer.Context, version: OneVersion, track: Track = "chat", as_json: Json = False
) -> None:
    """Show what a version is made of."""
    _print(_records(ctx).version(track, version), as_json, tables.version)


@versions.command("add", **AS_TYPED)  # type: ignore[arg-type]
def versions_add(ctx: typer.Context) -> None:
    """Enter what another program trained: VERSION PATH; see: lorad versions add --help."""
    _hand_over(ctx, "adopt")


@versions.command("pin")
def versions_pin(ctx: typer.Context, version: OneVersion, track: Track = "chat") -> None:
    """Keep a version whatever the limits say."""
    pinned = _client(ctx).pin(track, version, pinned=True)["version"]
    terminal.say(f"{pinned} is never pruned until: lorad versions unpin {pinned}")


@versions.command("unpin")
def versions_unpin(ctx: typer.Context, version: OneVersion, track: Track = "chat") -> None:
    """Let the limits decide about a version again."""
    unpinned = _client(ctx).pin(track, version, pinned=False)["version"]
    terminal.say(f"{unpinned} is no longer pinned")


@versions.command("tag")
def versions_tag(ctx: typer.Context, version: OneVersion, name: Tag, track: Track = "chat") -> None:
    """Give a version a name of its own; one that had it loses it."""
    tagged = _client(ctx).tag(track, version, name)["version"]
    terminal.say(f"{tagged} is now called {name}; ask it with: lorad ask --model {track}@{name} QUESTION")


@versions.command("untag")
def versions_untag(ctx: typer.Context, version: OneVersion, name: Tag, track: Track = "chat") -> None:
    """Take a name away from a version."""
    untagged = _client(ctx).tag(track, version, name, remove=True)["version"]
    terminal.say(f"{untagged} is no longer called {name}")


@versions.command("prune")
def versions_prune(
    ctx: typer.Context,
    *,
    track: Track = "chat",
    keep: Keep = None,
    older_than: OlderThan = None,
    max_bytes: MaxBytes = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove versions beyond the limits: the settings', or those given."""
    limits = {"keep": keep, "max_age_days": older_than, "max_bytes": max_bytes}
    answer = _client(ctx).prune(track, dry_run=dry_run, **limits)
    if as_json:
        terminal.write_json(answer)
        return
    for version, why in answer["pruned"].items():
        terminal.say(f"{'would remove' if dry_run else 'removed'} {version}: {why}")
    if not answer["pruned"]:
        terminal.say("nothing is beyond the limits; latest, previous, pinned and tagged versions stay anyway")


@app.command()
def explain(ctx: typer.Context, version: str, track: Track = "chat", as_json: Json = False) -> None:
    """Say why a version was promoted, or a job (job-N) not."""
    _print(_records(ctx).explain(track, version), as_json, tables.explanation)


@app.command()
def diff(ctx: typer.Context, a: str, b: str, track: Track = "chat", as_json: Json = False) -> None:
    """Show what one version answers right and the other does not."""
    _print(_records(ctx).diff(track, a, b), as_json, tables.difference)


@app.command()
def retention(
    ctx: typer.Context, track: Track = "chat", plot: PlotFile = None, as_json: Json = False
) -> None:
    """Show recall of every dataset at every version."""
    answer = _records(ctx).retention(track)
    if plot:
        tables.plot(answer, plot)
    _print(answer, as_json, tables.retention)


@app.command()
def rollback(ctx: typer.Context, to: Target = None, track: Track = "chat") -> None:
    """Serve an earlier version again, or the base alone."""
    now = _client(ctx).rollback(track, to)
    latest, previous = now["latest"] or "none", now["previous"] or "none"
    terminal.say(f"{now['serving'] or 'the base'} serves; latest is {latest}, previous is {previous}")


memory = typer.Typer(invoke_without_command=True)
app.add_typer(memory, name="memory")


@memory.callback()
def _memory(ctx: typer.Context, track: Track = "chat", as_json: Json = False) -> None:
    """List the datasets in memory, and how much of each is recalled."""
    if ctx.invoked_subcommand is None:
        _print(_records(ctx).memory(track), as_json, tables.memory)
    else:
        _refuse_options_in_front(ctx)


@memory.command("export")
def memory_export(
    ctx: typer.Context,
    file: ExportFile,
    track: Track = "chat",
    dataset: Dataset = None,
    force: Replace = False,
) -> None:
    """Write the examples as JSONL, which the inbox and import read; - is standard output."""
    from lorad.storage.files import check_replaceable, writing  # noqa: PLC0415 - see the module's docstring

    if str(file) != "-":
        check_replaceable(file, replace=force)
    rows = _records(ctx).examples(track, dataset)
    if str(file) == "-":
        for row in _readable(rows):
            terminal.write_json(row, indent=None)
        return
    count = 0
    try:
        with writing(file, replace=force) as stream:
            for count, row in enumerate(_readable(rows), 1):  # noqa: B007 - the last number is the count
                stream.write(f"{strict_json.encoded(row).decode()}\n")
    except OSError as error:
        raise ConfigError(f"{file} could not be written: {error.strerror}", code="not_written") from None
    terminal.say(f"wrote {state_text.plural(count, 'example')} to {file}")


def _readable(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows that can be read, and say which cannot."""
    for row in rows:
        if "unreadable" in row:
            place = f"example {row['provenance']['row']} of {row['dataset']!a}"
            terminal.complain(f"{place} cannot be read and is left out: {row['unreadable']!a}")
        else:
            yield row


@memory.command("import")
def memory_import(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that export wrote.")],
    track: Track = "chat",
) -> None:
    """Drop an exported memory into the inbox, each dataset under its own name."""
    home, settings = ctx.obj.find()
    settings.track(track)
    inbox = home.inbox / track
    with tempfile.TemporaryDirectory() as folder:
        sources = _split_by_dataset(file, Path(folder))
        _copy_all(sources, home.inbox, track)
    names = ", ".join(source.stem for source in sources)
    terminal.say(f"dropped {state_text.plural(len(sources), 'dataset')} into {inbox}: {names}")


def _split_by_dataset(file: Path, folder: Path) -> list[Path]:
    """Write one JSONL file per dataset, named after it."""
    paths: dict[str, Path] = {}
    for number, line in enumerate(_lines_of(file), 1):
        try:
            name = json.loads(line)["dataset"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = None
        if not isinstance(name, str):
            raise ConfigError(
                f"{file}, line {number}: this is not a row that lorad memory export wrote; drop other "
                f"datasets with: lorad drop {file}",
                code="not_exported",
            )
        if name not in paths:
            paths[name] = _file_named(name, folder)
        with paths[name].open("a", encoding="utf-8") as stream:  # each in its turn: there may be thousands
            stream.write(line.rstrip("\n") + "\n")
    return sorted(paths.values())


def _file_named(dataset: str, folder: Path) -> Path:
    """Return a new file named after a dataset, as far as a file can be; two datasets never share one."""
    from lorad.storage.files import free_name  # noqa: PLC0415 - see the module's docstring

    safe = "".join(sign if sign.isalnum() or sign in "._- " else "_" for sign in dataset).lstrip(".")
    short = safe.encode()[:LONGEST_STEM].decode(errors="ignore")
    path = free_name(folder / f"{short or 'dataset'}.jsonl")
    path.touch()
    return path


def _lines_of(file: Path) -> Iterator[str]:
    if file.exists() and not file.is_file():  # a pipe may never say anything, a device never end
        raise ConfigError(f"{file} is no plain file; write what it holds into one", code="unreadable")
    try:
        with file.open(encoding="utf-8") as stream:
            yield from (line for line in stream if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", code="unreadable") from None


@app.command()
def forget(
    ctx: typer.Context, selector: Selector, track: Track = "chat", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Remove examples from memory on purpose: a dataset by name, else whatever holds a text."""
    client = _client(ctx)
    if dry_run or not yes:
        meant = client.forget(track, selector, dry_run=True)
        for example in meant["examples"]:
            terminal.say(f"  {example['question']}  →  {example['answer']}")
        more = meant["forgotten"] - len(meant["examples"])
        if more:
            terminal.say(f"  … and {more} more")
        count = state_text.plural(meant["forgotten"], "example")
        told = f"; {meant['told']}" if meant["forgotten"] and "told" in meant else ""
        if dry_run or not meant["forgotten"]:
            terminal.say(f"{selector!r} means {count}; nothing was forgotten{told}")
            return
        if not typer.confirm(f"Forget {count}?"):
            raise typer.Exit(1)
    done = client.forget(track, selector)
    terminal.say(
        f"forgot {state_text.plural(done['forgotten'], 'example')}; {done.get('told', '')}".rstrip("; ")
    )


@app.command()
def consolidate(ctx: typer.Context, track: Track = "chat", refit: Refit = False) -> None:
    """Make one small adapter of all that was learned."""
    job = _client(ctx).consolidate(track, refit=refit)
    terminal.say(f"queued job {job['id']}; wait for it with: lorad wait --job {job['id']}")


if __name__ == "__main__":
    main()
