"""Questions and answers: ``ask`` and ``chat``, and texts to be tagged: ``tag``."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorad.apps.cli import texts
from lorad.apps.cli.context import connect
from lorad.apps.cli.options import Json
from lorad.apps.screens import state_text, tagged_text, terminal
from lorad.errors import ConfigError, LoradError
from lorad.serving.client import Client

if TYPE_CHECKING:
    from lorad.serving.completions import Completion, Origin

app = typer.Typer()

CUT = "length"
"""The finish reason of an answer that was cut off."""

Model = Annotated[
    str, typer.Option(metavar="NAME", help="A track, or track@previous, track@v0.1, track@TAG, track@base.")
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")]
Question = Annotated[
    str | None, typer.Argument(help="Without it, or with -, read standard input.", show_default=False)
]
TextToTag = Annotated[
    str | None,
    typer.Argument(help="Without it, or with -, read standard input, one text a line.", show_default=False),
]
Tagger = Annotated[
    str, typer.Option("--model", metavar="NAME", help="A track, or track@previous, track@v0.1.")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of tokens; default: the rest of the context.")
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy decoding.")]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Print the answer once it is complete.")]
NoRetrieve = Annotated[
    bool, typer.Option("--no-retrieve", help="Ask the model alone; look for no taught example.")
]
Docs = Annotated[
    str | None, typer.Option("--docs", metavar="NAME", help="Answer from this track of documents.")
]


@app.command()
def ask(
    ctx: typer.Context,
    question: Question = None,
    *,
    model: Model = "chat",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    no_retrieve: NoRetrieve = False,
    docs: Docs = None,
    no_stream: NoStream = False,
    as_json: Json = False,
) -> None:
    """Ask one question and print only the answer; exit code 1 if it was cut off without --max-tokens."""
    messages = [*_opening(system), {"role": "user", "content": _asked(question)}]
    client = connect(ctx)
    lorad = _lorad(docs, no_retrieve=no_retrieve)
    options = {"max_tokens": max_tokens, "temperature": temperature, "lorad": lorad}
    if as_json or no_stream:
        answer = client.chat(messages, model, **options)
        finish, tokens = _print_whole(answer, as_json=as_json)
        origin = None if as_json else answer.lorad  # the JSON has it
    else:
        stream = client.stream_chat(messages, model, **options)
        _type_out(stream)
        origin, finish, tokens = stream.origin, stream.finish_reason, stream.tokens
    if sys.stdout.isatty() and not as_json:  # a pipe gets exactly what was generated
        terminal.say("")
    _name_origin(origin)
    if finish == CUT:
        terminal.say(state_text.cut(tokens), err=True)
        raise typer.Exit(0 if max_tokens else 1)


@app.command()
def tag(ctx: typer.Context, text: TextToTag = None, *, model: Tagger = "ner", as_json: Json = False) -> None:
    """Print a text with its spans marked (names, for example), each with its label and confidence."""
    asked = texts.given([] if text is None else [text], "lorad tag TEXT")
    client = connect(ctx)
    answers = texts.asked_in_parts(lambda name, some: client.tag_texts(some, name), model, asked)
    found = tuple(each for answer in answers for each in answer.texts)
    if as_json:
        terminal.write_json(replace(answers[0], texts=found))
        return
    from lorad.apps.screens.screen import Screen  # noqa: PLC0415 - see lorad.apps.cli

    marked = tagged_text.marked(asked, [each.spans for each in found])
    Screen().print(marked, soft_wrap=True)  # a text of one line stays one


def _print_whole(answer: "Completion", *, as_json: bool) -> tuple[str | None, int | None]:
    """Print an answer; return its finish reason and its number of tokens."""
    choice = answer.choices[0]
    if as_json:
        terminal.write_json(answer)
    else:
        terminal.write(choice.message.content or "")
    return choice.finish_reason, answer.usage.completion_tokens


def _lorad(docs: str | None, *, no_retrieve: bool) -> dict[str, bool | str] | None:
    """Return what a request says besides OpenAI's fields; the daemon's defaults are left unsaid."""
    if docs and no_retrieve:
        raise ConfigError(
            "--docs looks something up, and --no-retrieve nothing; leave one out", code="contradiction"
        )
    return {"retrieve": docs} if docs else {"retrieve": False} if no_retrieve else None


def _name_origin(origin: "Origin | None") -> None:
    """Say below an answer where it comes from."""
    if origin and (told := state_text.origin(origin)):
        for line in told.splitlines():  # a footnote each; what is in one is of one line
            terminal.remark(line)


def _asked(question: str | None) -> str:
    """Return the question from the command line or from standard input."""
    if question in (None, "-"):
        question = "" if sys.stdin.isatty() else texts.piped("lorad ask QUESTION", "no_question")
    if not question or question.isspace():
        raise ConfigError("no question given; use: lorad ask QUESTION, or pipe it in", code="no_question")
    texts.check_typed(question)
    return question


def _opening(system: str | None) -> list[dict[str, str]]:
    texts.check_typed(system or "")
    return [{"role": "system", "content": system}] if system else []


def _type_out(pieces: Iterator[str]) -> str:
    written = []
    for piece in pieces:
        terminal.write(piece)
        written.append(piece)
    return "".join(written)


@app.command()
def chat(
    ctx: typer.Context,
    model: Model = "chat",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    no_retrieve: NoRetrieve = False,
    docs: Docs = None,
) -> None:
    """Start a conversation; /model NAME changes the model, /quit ends."""
    client, messages = connect(ctx), _opening(system)
    lorad = _lorad(docs, no_retrieve=no_retrieve)
    options = {"max_tokens": max_tokens, "temperature": temperature, "lorad": lorad}
    if sys.stdin.isatty():
        import readline  # noqa: F401, PLC0415 - gives input() its line editing
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/model":
            model = rest.strip() or model
            terminal.say(f"now talking to {model}")
        elif command[:1] == "/" and "/" not in command[1:]:  # a question may begin with /etc/hosts
            terminal.say(f"unknown command {command}; /model NAME changes the model, /quit ends", err=True)
        elif line:
            messages.append({"role": "user", "content": line})
            messages = _turn(client, messages, model, **options)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").removeprefix(texts.BYTE_ORDER_MARK).strip()
        except EOFError:
            terminal.say("")
            return
        if line == "/quit":
            return
        yield line


def _turn(client: Client, messages: list[dict[str, str]], model: str, **options: Any) -> list[dict[str, str]]:
    """Answer once; return the conversation so far, without a question that got no answer."""
    try:
        texts.check_typed(messages[-1]["content"])
        stream = client.stream_chat(messages, model, **options)
        answer = _type_out(stream)
    except LoradError as error:
        terminal.complain(error.message)
        return messages[:-1]
    terminal.say("")
    _name_origin(stream.origin)
    if stream.finish_reason == CUT:
        terminal.say(state_text.cut(stream.tokens), err=True)
    return [*messages, {"role": "assistant", "content": answer}]
