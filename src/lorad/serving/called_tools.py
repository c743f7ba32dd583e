"""Calls of tools in what a model wrote, whatever its family's form for them.

What lives here: the forms that chat templates teach, and reading them as they come. What never does: templates, HTTP, calling.

| family | form |
|---|---|
| Hermes, Qwen, SmolLM | ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, several, or a list in one |
| Mistral | ``[TOOL_CALLS] [{"name": …, "arguments": {…}}]``, or ``[TOOL_CALLS]name[ARGS]{…}`` |
| Llama 3 | the whole answer is ``{"name": …, "parameters": {…}}``, several with ``;``, perhaps behind ``<|python_tag|>`` |

Only what the request declared is a call: what else looks like one stays text, and nobody is asked to run it.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from lorad.serving import marks

HERMES, HERMES_END = "<tool_call>", "</tool_call>"
MISTRAL, MISTRAL_ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
LLAMA, OBJECT = "<|python_tag|>", "{"
OPENERS = (HERMES, MISTRAL, LLAMA)


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model wants called."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, and what it calls."""

    text: str
    calls: tuple[Call, ...] = ()


class NotACallError(ValueError):
    """What looked like a call is none."""


def read(answer: str, declared: Collection[str]) -> Said:
    """Return a whole answer's text and calls; where something in it is no call, all of it is text."""
    before, form, inside = _divided(answer)
    if not form:
        return Said(answer)
    try:
        calls = tuple(_checked(each, declared) for each in _READERS[form](inside))
    except (ValueError, RecursionError):
        return Said(answer)
    return Said(before.rstrip(), calls) if calls else Said(answer)


class Reader:
    """Reads an answer as it comes: hands on what is surely text, and holds the rest until it is whole."""

    def __init__(self, declared: Collection[str]) -> None:
        self._declared = declared
        self._held: list[str] = []
        self._has_begun = False
        """Whether text was handed on: a call without a tag is a whole answer."""
        self._may_call = False
        """Whether a call may have begun: all that follows is held."""

    def add(self, text: str) -> str:
        """Take the next piece; return what of the answer can be handed on."""
        self._held.append(text)
        if self._may_call:
            return ""
        held = "".join(self._held)
        told = held[: self._surely_text(held)]
        self._has_begun = self._has_begun or bool(told)
        self._held = [held[len(told) :]]
        return told

    def end(self) -> Said:
        """Return what was held: the rest of the text, and the calls."""
        return read("".join(self._held), self._declared)

    def _surely_text(self, held: str) -> int:
        """Count the characters that no call begins in, and may not begin in whatever follows."""
        if not self._has_begun and (not held.strip() or held.lstrip().startswith(OBJECT)):
            self._may_call = bool(held.strip())
            return 0
        found = [at for opener in OPENERS if (at := held.find(opener)) >= 0]
        self._may_call = bool(found)
        end = min(found, default=len(held) - marks.begun(held, OPENERS))
        return len(held[:end].rstrip())  # blanks before a call are not said


def _divided(answer: str) -> tuple[str, str, str]:
    """Return what stands before the first call, what opens it, and what stands behind that."""
    if answer.lstrip().startswith(OBJECT):
        return "", OBJECT, answer
    found = [(at, opener) for opener in OPENERS if (at := answer.find(opener)) >= 0]
    if not found:
        return answer, "", ""
    at, opener = min(found)
    return answer[:at], opener, answer[at + len(opener) :]


def _hermes(inside: str) -> Iterator[Any]:
    for part in inside.split(HERMES):
        written, _, behind = part.partition(HERMES_END)
        if behind.strip():
            raise NotACallError("text stands behind a call")
        value = _parsed(written)
        yield from value if isinstance(value, list) else [value]


def _mistral(inside: str) -> Iterator[Any]:
    for part in inside.split(MISTRAL):
        name, arguments, written = part.partition(MISTRAL_ARGUMENTS)
        if arguments:
            yield {"name": name.strip(), "arguments": _parsed(written)}
        else:
            value = _parsed(part)
            yield from value if isinstance(value, list) else [value]


def _llama(inside: str) -> Iterator[Any]:
    decoder, at, text = json.JSONDecoder(parse_constant=_no_number), 0, inside.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value
        while at < len(text) and text[at] in "; \n":
            at += 1


_READERS = {HERMES: _hermes, MISTRAL: _mistral, LLAMA: _llama, OBJECT: _llama}


def _parsed(written: str) -> Any:
    return json.loads(written, parse_constant=_no_number)


def _no_number(word: str) -> float:
    raise NotACallError(f"{word} is no JSON")


def _checked(value: Any, declared: Collection[str]) -> Call:
    """Return one call; raise ``NotACallError`` for what is none of what was declared."""
    if not isinstance(value, dict):
        raise NotACallError("a call is an object")
    name = value.get("name")
    given = value["arguments"] if "arguments" in value else value.get("parameters", {})
    if isinstance(given, str):  # some write the arguments as JSON in a text, as OpenAI does
        given = _parsed(given or "{}")
    if not isinstance(name, str) or name not in declared or not isinstance(given, dict):
        raise NotACallError("nothing that was declared is called")
    return Call(name, given)
