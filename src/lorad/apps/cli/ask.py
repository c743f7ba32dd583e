"""Questions and answers: ``ask`` and ``chat``."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from lorad.apps.cli.context import connect
from lorad.apps.cli.options import Json
from lorad.apps.screens import state_text, terminal
from lorad.errors import ConfigError, LoradError
from lorad.serving.client import Client
from lorad.serving.completions import Completion

app = typer.Typer()


CUT = "length"
"""The finish reason of an answer that would have gone on."""


MARK = "\ufeff"
"""A mark of byte order."""


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
    client = connect(ctx)
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


def _print_whole(answer: Completion, *, as_json: bool) -> tuple[str | None, int | None]:
    """Print an answer; return why it ended and how many tokens it has."""
    choice = answer.choices[0]
    if as_json:
        terminal.write_json(answer)
    else:
        terminal.write(choice.message.content)
    return choice.finish_reason, answer.usage.completion_tokens


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
    client, messages = connect(ctx), _opening(system)
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
