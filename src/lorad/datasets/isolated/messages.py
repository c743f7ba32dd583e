"""The messages between the daemon and its reader process. Records in, JSON out, and back.

What lives here: the form of requests, rows and ends, and doubting it: whoever reads hostile files may be theirs by
now, so that nothing is unpickled, and of what comes back every type is looked at. What never does: processes,
sockets, waiting.

A message is its length and JSON: an object that asks or ends, or a list of rows.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from lorad import wordings
from lorad.config import InboxSettings
from lorad.datasets.containers.layout import BadRow
from lorad.datasets.formats.conversations import Content
from lorad.datasets.other_wordings import HeldOut
from lorad.datasets.reader import Converted, Purpose
from lorad.datasets.sidecar import Sidecar
from lorad.errors import SampleError
from lorad.records import Example
from lorad.storage.source import Source

#: Before each message: how many bytes it has.
HEADER = struct.Struct("!I")

#: Bytes of rows that are sent together.
BATCH = 1 << 18

READY = {"ready": True}


#: Bytes of what is no row: an error may list bad rows.
_PAPERS = 1 << 20

#: Of a sentence that goes into papers, and of suggestions, each of which has the file read once more.
_LONGEST_SENTENCE, _MOST_SUGGESTED = 10_000, 20

#: Beyond these the ledger's numbers end, and those of other programs before.
_NUMBERS = range(1 << 53)

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Malformed(Exception):  # noqa: N818 - carried to the file's end, never to the user as it is
    """A message does not have the expected form."""


def ready() -> str:
    """Return the first message of the process."""
    return _ENCODER.encode(READY)


def framed(text: str) -> bytes:
    """Return a message as it is sent."""
    data = text.encode("ascii")
    return HEADER.pack(len(data)) + data


def parsed(data: bytes | bytearray) -> Any:
    """Return what a message says."""
    try:
        return json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None


def row_limit(limits: InboxSettings) -> int:
    """Return the bytes that a row may become as it is sent: its examples and what stands around them."""
    return min(2 * limits.max_expanded_row_bytes, limits.reader_bytes // 4)


def message_limit(limits: InboxSettings) -> int:
    """Return the bytes that a message may have."""
    return BATCH + max(row_limit(limits), _PAPERS)


# asking


def ask_rows(source: Source, purpose: Purpose) -> str:
    """Return the request for a file's rows; its descriptor goes beside it."""
    return _ENCODER.encode(
        {
            "name": source.name,
            "limits": purpose.limits.model_dump(mode="json"),
            "task": purpose.task,
            "fields": dict(purpose.fields),
            "labels": list(purpose.labels),
        }
    )


def ask_sidecar(source: Source, limits: InboxSettings) -> str:
    """Return the request for what a sidecar says."""
    return _ENCODER.encode({"name": source.name, "limits": limits.model_dump(mode="json"), "sidecar": True})


def ask_wordings(source: Source, limits: InboxSettings) -> str:
    """Return the request for the wordings that a sidecar holds out."""
    return _ENCODER.encode({"name": source.name, "limits": limits.model_dump(mode="json"), "wordings": True})


def purpose_of(request: Mapping[str, Any]) -> Purpose:
    """Return what a file is to be read for."""
    limits = InboxSettings.model_validate(request["limits"])
    return Purpose(
        limits=limits, task=request["task"], fields=request["fields"], labels=tuple(request["labels"])
    )


# rows


def row(line: int, said: Content | BadRow, longest: int) -> str:
    """Return a row as it is sent; one that became too long is a bad one."""
    if isinstance(said, BadRow):
        return _ENCODER.encode([line, said.field[:_LONGEST_SENTENCE], str(said)[:_LONGEST_SENTENCE]])
    pairs = [_pair(example) for example in said.examples]
    text = _ENCODER.encode([line, said.format, dict(said.left_out), pairs])
    if len(text) <= longest:
        return text
    told = f"the row becomes examples of more than {longest} bytes, since each turn repeats those before it; split it"
    return _ENCODER.encode([line, "", told])


def _pair(example: Example) -> list[Any]:
    if not example.also_asked and not example.held_out:
        return [example.input, example.target]
    return [example.input, example.target, example.also_asked, example.held_out]


def rows(message: Any, task: str) -> list[Converted]:
    """Return the rows of a message; raise ``Malformed``."""
    if not isinstance(message, list):
        raise Malformed("a list of rows was expected")
    return [_row(each, task) for each in message]


def _row(sent: Any, task: str) -> Converted:
    match sent:
        case [int(line), str(name), dict(left_out), list(pairs)] if line in _NUMBERS and _are_counts(
            left_out
        ):
            examples = [_example(pair, task) for pair in pairs]
            return line, Content(format=name, examples=examples, left_out=left_out)
        case [int(line), str(field), str(message)] if line in _NUMBERS:
            return line, BadRow(field, message)
    raise Malformed("a row has another form")


def _are_counts(left_out: Mapping[str, Any]) -> bool:
    return all(isinstance(count, int) and count in _NUMBERS for count in left_out.values())


def _example(pair: Any, task: str) -> Example:
    match pair:
        case [question, answer] if task != "chat" or (_is_asked(question) and isinstance(answer, str | dict)):
            return Example(task=task, input=question, target=answer)
        case [question, answer, list(also), list(held)] if (
            task == "chat" and isinstance(answer, str | dict) and _are_wordings(question, also, held)
        ):
            return Example(
                task=task, input=question, target=answer, also_asked=tuple(also), held_out=tuple(held)
            )
    raise Malformed("an example has another form")


def _are_wordings(question: Any, *given: list[Any]) -> bool:
    """Tell whether lists hold other wordings of a question, which the user asks."""
    is_text = all(isinstance(each, str) for texts in given for each in texts)
    is_few = all(len(texts) <= wordings.MOST for texts in given)
    return is_text and is_few and _is_asked(question) and bool(question) and question[-1]["role"] == "user"


def _is_asked(question: Any) -> bool:
    """Tell whether a question is the messages of a chat."""
    return isinstance(question, list) and all(
        isinstance(message, dict)
        and isinstance(role := message.get("role"), str)
        and (role == "tools" or isinstance(message.get("content"), str))
        for message in question
    )


# sidecars


def said(meta: Sidecar) -> str:
    """Return what a sidecar says as it is sent."""
    return _ENCODER.encode({"sidecar": meta.model_dump()})


def sidecar(message: Mapping[str, Any]) -> Sidecar:
    """Return what a sidecar says; raise ``Malformed``."""
    try:
        return Sidecar.model_validate(message.get("sidecar"))
    except ValidationError as error:
        raise Malformed(f"a sidecar has another form: {error.error_count()} mistakes") from None


def held_out(held: HeldOut) -> str:
    """Return an entry of a sidecar of wordings as it is sent."""
    return _ENCODER.encode([held.place, held.wordings, held.question, held.answer])


def all_held_out(message: Any) -> list[HeldOut]:
    """Return the entries of a message; raise ``Malformed``."""
    if not isinstance(message, list):
        raise Malformed("a list of wordings was expected")
    return [_held_out(each) for each in message]


def _held_out(sent: Any) -> HeldOut:
    match sent:
        case [int(place), list(given), question, answer] if (
            place in _NUMBERS
            and all(isinstance(each, str) for each in given)
            and {type(question), type(answer)} == {str, type(None)}
        ):
            return HeldOut(place=place, wordings=tuple(given), question=question, answer=answer)
    raise Malformed("a wording has another form")


# ends


def end(error: Exception | None, suggested: Iterable[Mapping[str, str]] = ()) -> str:
    """Return how a file ended, and with which fields it might be read."""
    told = _ENCODER.encode({"error": error and _failure(error), "suggested": [*map(dict, suggested)]})
    return told if len(told) <= _PAPERS else _ENCODER.encode({"error": error and _failure(error)})


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, SampleError):
        return {"kind": "sample", **error.as_dict()}
    if isinstance(error, MemoryError):
        return {"kind": "memory"}
    if isinstance(error, OSError):
        return {"kind": "system", "number": error.errno or 0, "message": error.strerror or str(error)}
    return {"kind": "unknown", "message": f"{type(error).__name__}: {error}"[:_LONGEST_SENTENCE]}


def suggestions(message: Any) -> list[dict[str, str]]:
    """Return the fields that an end suggests; raise ``Malformed``."""
    found = message.get("suggested", []) if isinstance(message, dict) else None
    if not isinstance(found, list) or not all(map(_is_naming, found)):
        raise Malformed("suggestions have another form")
    return found[:_MOST_SUGGESTED]


def _is_naming(fields: Any) -> bool:
    return isinstance(fields, dict) and all(isinstance(name, str) for name in fields.values())


def failure(message: Mapping[str, Any], name: str, limits: InboxSettings) -> Exception | None:
    """Return what a file's reading ended with, ``None`` when it was read; raise ``Malformed``."""
    match message.get("error"):
        case None:
            return None
        case {"kind": "sample", "code": str(code), "message": str(told), **rest} if "self" not in rest:
            data = {str(key): value for key, value in rest.items()}
            return SampleError(told[:_LONGEST_SENTENCE], code=code, **data)
        case {"kind": "memory"}:
            return too_much_memory(name, limits)
        case {"kind": "system", "number": int(number), "message": str(told)}:
            return OSError(number, told)
        case {"kind": "unknown", "message": str(told)}:
            return SampleError(
                f"{name} could not be read ({told}); save it again, as one JSON object per line",
                code="unreadable",
            )
    raise Malformed("an end has another form")


def is_exhausted(message: Mapping[str, Any]) -> bool:
    """Tell whether the process should not read on: memory that ran out, or a mistake of ours, may leave anything."""
    error = message.get("error")
    return isinstance(error, dict) and error.get("kind") in {"memory", "unknown"}


def too_much_memory(name: str, limits: InboxSettings) -> SampleError:
    """Return what a file is told that needs more memory than reading may have."""
    return SampleError(
        f"reading {name} takes more memory than inbox.reader_bytes ({limits.reader_bytes}); split it, or raise that",
        code="too_much_memory",
    )
