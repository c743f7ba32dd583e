"""The bodies of requests. Bytes in, a checked record out, or a sentence that says what to send.

What lives here: reading a body as JSON whatever its content type says, the fields of each route's body, and a chat
completion request as the engine is asked. What never does: routes, answers, knowing what is unsupported
(``parameters``), a second reader of what files hold too (``reader``).
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lorad.datasets.containers.file_rows import BadRow, TooDeep
from lorad.datasets.formats import conversations, row_values, tool_calls
from lorad.errors import ProtocolError
from lorad.records import DATE, DOCUMENTS
from lorad.serving.http import parameters
from lorad.serving.http.parameters import Parameters
from lorad.serving.requests import Sampling
from lorad.storage import strict_json
from lorad.storage.documents import Filter
from lorad.storage.strict_json import Flaw, NotJson, is_deeper, parse

DEPTH = 64
"""Maximum nesting depth of a body; deeper ones cost Python its stack."""

FIELDS = 100
"""Maximum number of fields of a body; each unknown one is compared with all known ones."""

STOPS = 16
STOP_LENGTH = 256
"""Maximum number of stop texts, and of their characters: each generated token is compared with all of them."""

CHOICES = 16
"""Answers to one request: each has its own place in the queue."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of an answer that is to be JSON, whatever it says."""

INPUTS = 64
"""Inputs of one request for predictions: they go through the model together."""

QUERY_LENGTH = 10_000
"""Maximum characters of a search: a page of text, pasted."""

NAME_LENGTH = 255
"""Maximum characters of a name: of a track, a version, a tag, a checkpoint."""

_SHOWN = 60
_TEXT_PARTS = ("text", "input_text", "output_text")
"""What a part of a message that is text calls itself in OpenAI's chat completions and in its responses."""
_TRACK = Field(default="chat", max_length=NAME_LENGTH)
_NAME = Field(default=None, min_length=1, max_length=NAME_LENGTH)
_TOKENS = Field(default=None, ge=1, lt=2**31)
_LIMIT = Field(default=None, ge=1, lt=2**63)


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


class Body(BaseModel):
    """A request body. JSON has types, so a number in quotes is a mistake; ``null`` is what nobody set."""

    model_config = ConfigDict(extra="forbid", strict=True)

    example: ClassVar[str] = '{"track": "chat"}'
    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    """Of a body that is JSON and has another shape: OpenAI's clients know 400."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: Any) -> Any:
        """Take ``null`` for not given: OpenAI's clients send it for what nobody set."""
        return _said(given) if isinstance(given, dict) else given

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Return a request's body, or one of defaults if there is none; raise ``ProtocolError`` that says what to send."""
        is_needed = any(field.is_required() for field in cls.model_fields.values())
        given = _object(raw, cls.example) if is_needed or raw.strip() else {}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise invalid(error.errors(), tuple(_field_names(cls)), cls.status) from None


def _field_names(kind: type[Body], place: str = "") -> Iterator[str]:
    """Yield the fields of a body and of the objects in it: ``lorad``, ``lorad.retrieve``."""
    for name, field in kind.model_fields.items():
        yield f"{place}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Body):
            yield from _field_names(field.annotation, f"{place}{name}.")


class StreamOptions(Body):
    """What a stream tells besides the answer."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


def _retrieved(given: Any) -> Any:
    if isinstance(given, bool) or (isinstance(given, str) and 0 < len(given) <= NAME_LENGTH):
        return given
    raise refused("lorad.retrieve", "must be true, false, or the name of a track of documents")


class LoradOptions(Body):
    """What OpenAI's API has no words for."""

    retrieve: Annotated[bool | str, BeforeValidator(_retrieved)] = True
    """Look for the example that the question asks for, and in the track's documents if it has some by default; a name: in that
    track of documents."""


class SamplingBody(Body):
    """What OpenAI's requests and Ollama's options say alike of how to choose the next token."""

    temperature: float = Field(default=0.0, ge=0, le=5)
    top_p: float = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    stop: Any = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)

    def with_limit(self, max_tokens: int | None) -> Sampling:
        """Return how to generate at most so many tokens."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            stop=stops(self.stop),
            seed=self.seed,
        )


class AnswerBody(SamplingBody):
    """What every request for an answer may say of how to write it."""

    model_config = ConfigDict(extra="ignore")  # what would matter, ``parameters`` has refused

    parameters: ClassVar[Parameters]

    model: str = Field(default="chat", max_length=2 * NAME_LENGTH)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(default=1, ge=1, le=CHOICES)
    max_tokens: int | None = _TOKENS

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if isinstance(given, dict):
            cls.parameters.check(given)
        return given

    def sampling(self) -> Sampling:
        """Return how to generate."""
        return replace(self.with_limit(self._limit()), logprobs=self._logprobs())

    def _limit(self) -> int | None:
        return self.max_tokens

    def _logprobs(self) -> int | None:
        """Return how many of the likeliest tokens are told with each token, ``None`` where nothing is."""
        return None


class ChatBody(AnswerBody):
    """OpenAI's chat completion request, as far as a local model can follow it."""

    example: ClassVar[str] = '{"model": "chat", "messages": [{"role": "user", "content": "Where is it?"}]}'
    parameters: ClassVar[Parameters] = parameters.CHAT

    messages: list[Any] = Field(min_length=1)
    tools: list[Any] = []
    tool_choice: Any = "auto"
    max_completion_tokens: int | None = _TOKENS
    response_format: Any = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    lorad: LoradOptions = LoradOptions()

    def question(self) -> list[dict[str, Any]]:
        """Return the conversation as examples hold it: what may be called comes first."""
        said = [_message(given, f"messages[{index}]") for index, given in enumerate(self.messages)]
        if said[-1]["role"] == "assistant":
            raise refused(
                "messages",
                "the last message is from the assistant, and lorad does not continue an answer; end with the message "
                "to answer",
                "unsupported_parameter",
            )
        return [*self._tools(), *_in_order_of_calls(said, self.messages)]

    def answer_schema(self) -> Mapping[str, Any] | None:
        """Return the JSON schema that the answer must follow, ``None`` for text."""
        given = self.response_format
        if given is None:
            return None
        kind = given.get("type") if isinstance(given, dict) else None
        if kind == "text":
            return None
        if self.declared():
            raise refused(
                "response_format", "an answer that may call tools has no other form; send one of the two"
            )
        if kind == "json_object":
            return ANY_OBJECT
        named = given.get("json_schema") if kind == "json_schema" else None
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(schema, dict):
            raise refused(
                "response_format",
                'must be {"type": "json_object"}, or a json_schema with its schema, or text',
            )
        return schema

    def declared(self) -> frozenset[str]:
        """Return the names of the tools that the answer may call; ``question`` has checked them."""
        return frozenset(function["name"] for function in self._functions())

    def must_call(self) -> tuple[Mapping[str, Any], ...]:
        """Return the functions of which the answer must call one; none where it may say what it likes."""
        if self.tool_choice in ("auto", "none"):
            return ()
        named = self._named_tool()
        found = tuple(each for each in self._functions() if named in (None, each["name"]))
        if not found:
            told = "names no tool that the request declares" if named else "needs tools to choose from"
            raise refused("tool_choice", told)
        return found

    def _named_tool(self) -> str | None:
        """Return the function that ``tool_choice`` names, if it names one."""
        given = self.tool_choice
        function = (
            given.get("function") if isinstance(given, dict) and given.get("type") == "function" else None
        )
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else None

    def _functions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [each for told in self._tools() for each in json.loads(told["content"])]
        return found

    def _logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", 'tells more about logprobs; send "logprobs": true as well')
        return self.top_logprobs if self.logprobs else None

    def _limit(self) -> int | None:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise refused("max_tokens", f"asks for {old}, and max_completion_tokens for {new}; send one")
        return old if new is None else new

    def _tools(self) -> list[dict[str, Any]]:
        if self.tool_choice not in ("auto", "none", "required") and self._named_tool() is None:
            raise refused(
                "tool_choice",
                'must be "auto", "none", "required", or {"type": "function", "function": {"name": …}}',
                "unsupported_parameter",
            )
        return [] if self.tool_choice == "none" else _tools(self.tools)


class RetryBody(Body):
    """How to try a job again."""

    example: ClassVar[str] = '{"force": true, "settings": {"rank": 16}}'

    force: bool = False
    settings: dict[str, Any] = {}


class ResumeBody(Body):
    """The checkpoint after which a job continues; default: its newest complete one."""

    example: ClassVar[str] = '{"checkpoint": "round-0003"}'

    checkpoint: str | None = _NAME


class InputsBody(Body):
    """Inputs to be answered with data; one of another shape is refused like one that the task cannot read."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class PredictBody(InputsBody):
    """Inputs of any task; what one is, the track's task says: a text, say."""

    example: ClassVar[str] = '{"model": "mail", "inputs": ["Win a prize now"]}'

    model: str = Field(max_length=2 * NAME_LENGTH)
    inputs: list[Any] = Field(min_length=1, max_length=INPUTS)


class TagTextsBody(InputsBody):
    """Texts in which spans are to be found and labelled."""

    example: ClassVar[str] = '{"model": "ner", "texts": ["John works at Microsoft"]}'

    model: str = Field(default="ner", max_length=2 * NAME_LENGTH)
    texts: list[str] = Field(min_length=1, max_length=INPUTS)


class FillMaskBody(InputsBody):
    """Texts with gaps, each written ``[MASK]``."""

    example: ClassVar[str] = '{"model": "words", "texts": ["The capital of [MASK]"]}'

    model: str = Field(max_length=2 * NAME_LENGTH)
    texts: list[str] = Field(min_length=1, max_length=INPUTS)
    top_k: int = Field(default=5, ge=1, le=100)


class ClassifyBody(InputsBody):
    """Texts to be classified."""

    example: ClassVar[str] = '{"model": "mail", "texts": ["Win a prize now"]}'

    model: str = Field(max_length=2 * NAME_LENGTH)
    texts: list[str] = Field(min_length=1, max_length=INPUTS)


class SpectraBody(InputsBody):
    """Spectra with the molecules, one or several candidates, that they are compared with."""

    example: ClassVar[str] = (
        '{"spectra": [{"smiles": "C1=CC=CC=C1", "mzs": [51.02, 78.05], "intensities": [0.3, 1.0]}]}'
    )

    model: str = Field(default="spectra", max_length=2 * NAME_LENGTH)
    spectra: list[dict[str, Any]] = Field(min_length=1, max_length=INPUTS)


class SystemBody(InputsBody):
    """Texts for a system's chain, and which of its variants answer instead of those that the settings name."""

    example: ClassVar[str] = '{"texts": ["The invoice is overdue"]}'

    texts: list[str] = Field(min_length=1, max_length=INPUTS)
    variant: str | None = _NAME


class RollbackBody(Body):
    """Which version to serve again: the previous one, or this."""

    track: str = _TRACK
    to: str | None = _NAME


class SearchBody(Body):
    """What to search documents for."""

    example: ClassVar[str] = '{"track": "documents", "query": "Where is the mill?"}'

    track: str = Field(default=DOCUMENTS, max_length=NAME_LENGTH)
    query: str = Field(min_length=1, max_length=QUERY_LENGTH)
    k: int = Field(default=10, ge=1, le=100)
    how: Literal["hybrid", "bm25", "embeddings"] | None = None
    documents: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[], max_length=10_000)
    """Only in these."""
    tags: list[Annotated[str, Field(max_length=NAME_LENGTH)]] = Field(default=[], max_length=16)
    """Only in documents that have all of them."""
    since: str = Field(default="", pattern=DATE)
    until: str = Field(default="", pattern=DATE)
    """Only in documents of these days, both included."""

    def where(self) -> Filter:
        """Return which documents are searched."""
        return Filter(
            documents=tuple(self.documents), tags=tuple(self.tags), since=self.since, until=self.until
        )


class RemoveDocumentsBody(Body):
    """Which documents to remove."""

    example: ClassVar[str] = '{"track": "documents", "documents": [1]}'

    track: str = Field(default=DOCUMENTS, max_length=NAME_LENGTH)
    documents: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[], max_length=10_000)
    name: str = Field(default="", max_length=4096)
    """Or all of a file, a title or an url."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.documents) == bool(self.name):
            raise refused(
                "documents", "name either the documents' numbers or the name of a file, a title or an url"
            )
        return self


class ForgetBody(Body):
    """What to remove from memory."""

    example: ClassVar[str] = '{"track": "chat", "selector": "a dataset, or a text", "dry_run": true}'

    track: str = _TRACK
    selector: str = ""
    dry_run: bool = False


class ConsolidateBody(Body):
    """Whether to make the adapter smaller, or to learn everything anew."""

    track: str = _TRACK
    refit: bool = False


class PinBody(Body):
    """Whether a version stays whatever the limits say."""

    track: str = _TRACK
    pinned: bool = True


class TagBody(Body):
    """A name for a version to get or to lose."""

    example: ClassVar[str] = '{"track": "chat", "tag": "good"}'

    track: str = _TRACK
    tag: str = Field(max_length=NAME_LENGTH)
    remove: bool = False


class PruneBody(Body):
    """Limits that hold this once instead of the settings'; see ``config.RegistrySettings``."""

    example: ClassVar[str] = '{"track": "chat", "keep": 5, "dry_run": true}'

    track: str = _TRACK
    keep: int | None = _LIMIT
    max_age_days: int | None = _LIMIT
    max_bytes: int | None = _LIMIT
    dry_run: bool = False

    def limits(self) -> dict[str, int]:
        """Return the limits that were given."""
        return self.model_dump(exclude={"track", "dry_run"}, exclude_none=True)


# -- JSON


def _object(raw: bytes, example: str) -> dict[str, Any]:
    send = f"send a JSON object such as {example}"
    if not raw.strip():
        raise ProtocolError(f"the body is empty; {send}", code="invalid_json")
    try:
        value = parse(raw.decode("utf-8-sig"))  # some programs write a mark of byte order
    except UnicodeDecodeError as error:
        raise ProtocolError(
            f"the body is not UTF-8 (byte {error.start + 1}); {send} in UTF-8", code="invalid_json"
        ) from None
    except (NotJson, Flaw) as error:
        raise ProtocolError(
            f"the body cannot be read as JSON: {error}; {send}", code="invalid_json"
        ) from None
    if not isinstance(value, dict):
        raise ProtocolError(f"the body is {_kind(value)}; {send}", code="invalid_json")
    if len(value) > FIELDS:
        raise ProtocolError(
            f"the body has {len(value)} fields; send at most {FIELDS}", code="too_many_fields"
        )
    if is_deeper(value, DEPTH):
        raise ProtocolError(
            f"the body is nested more than {DEPTH} levels deep; send a flatter one", code="too_deep"
        )
    if not all(map(row_values.is_whole, _texts(value))):
        raise ProtocolError(
            "the body holds half of a character (a lone surrogate); the text was cut inside an emoji",
            code="bad_text",
        )
    return value


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _texts(value: Any) -> Iterator[str]:
    values = [value]
    while values:
        inner = values.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict):
            yield from inner
            values += inner.values()
        elif isinstance(inner, list):
            values += inner


# -- conversations


def _message(given: Any, where: str) -> dict[str, Any]:
    """Return role and text, and the calls if there are any, as examples hold them."""
    if not isinstance(given, dict):
        raise refused(where, "must be an object with a role and its content")
    message = _said(given)
    parameters.check_message(message, where)
    role = message.get("role")
    if role == "tools":  # what examples call their first message
        raise refused(f"{where}.role", "tools stand beside the messages, under tools", "unknown_role")
    if not isinstance(role, str) or role not in conversations.OPENAI.roles:
        known = ", ".join(sorted(conversations.OPENAI.roles))
        raise refused(f"{where}.role", f"must be one of {known}", "unknown_role")
    role = conversations.OPENAI.roles[role]  # as files are read: developer is system
    called = _calls(message.get("tool_calls"), role, f"{where}.tool_calls")
    if "content" not in message and not called:
        raise refused(f"{where}.content", "is missing; a message needs its content", "no_content")
    text = _text(message.get("content", ""), f"{where}.content")
    return {"role": role, "content": text} | ({"tool_calls": called} if called else {})


def _in_order_of_calls(said: Sequence[dict[str, Any]], given: Sequence[Any]) -> list[dict[str, Any]]:
    """Return messages with what tools said in the order of the calls: no template knows ids."""
    is_called = False
    for index, message in enumerate(said):
        if message["role"] != "tool":
            is_called = "tool_calls" in message
        elif not is_called:
            raise refused(f"messages[{index}]", "the result of a tool must follow its call", "no_call")
    try:
        return [said[place] for place in tool_calls.order(given)]
    except BadRow as problem:
        raise refused(problem.field, str(problem), "unknown_call") from None


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(where, "must be a text, or a list of text parts")
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        raise refused(f"{where}.type", "must be text; this model reads text only", "unsupported_content")
    if not isinstance(part.get("text"), str):
        raise refused(f"{where}.text", "must be text")
    return str(part["text"])


def _calls(given: Any, role: str, where: str) -> list[dict[str, Any]]:
    """Return the calls of tools, read as files are."""
    if not given:
        return []
    if role != "assistant":
        raise refused(where, "only the assistant calls tools")
    try:
        found, _ = tool_calls.read(given, where, ())
    except TooDeep as problem:
        raise _too_deep(problem.field) from None
    except BadRow as problem:
        raise refused(problem.field, str(problem)) from None
    except RecursionError:
        raise _too_deep(where) from None
    called = list(found)
    if is_deeper(called, DEPTH):
        raise _too_deep(where)
    return called


def _tools(given: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the message that says what may be called, read as files are."""
    for index, tool in enumerate(given):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise refused(
                f"tools[{index}].type",
                "must be function; lorad has no tools of its own",
                "unsupported_parameter",
            )
    try:
        turns = conversations.tool_turns(tool_calls.functions({"tools": list(given)}))
    except BadRow as problem:
        raise refused(problem.field, str(problem)) from None
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def stops(given: Any) -> tuple[str, ...]:
    """Return the texts that end an answer; an empty one, which some clients send, ends nothing."""
    stops = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise refused("stop", "must be a text or a list of texts")
    if len(stops) > STOPS or any(len(stop) > STOP_LENGTH for stop in stops):
        raise refused("stop", f"must be at most {STOPS} texts of at most {STOP_LENGTH} characters")
    return tuple(filter(None, stops))


def _too_deep(where: str) -> ProtocolError:
    return refused(where, f"is nested more than {DEPTH} levels deep; send a flatter one", "too_deep")


def refused(
    where: str, told: str, code: str = "invalid_request", status: int = HTTPStatus.BAD_REQUEST
) -> ProtocolError:
    """Return what is wrong with a field, by its name."""
    return ProtocolError(f"{where}: {told}", code=code, param=where, status=status)


# -- fields


def invalid(
    problems: Sequence[Any], known: Sequence[str] = (), status: int = HTTPStatus.BAD_REQUEST
) -> ProtocolError:
    """Return the first thing that pydantic found wrong, as a sentence with the field's name."""
    first = problems[0]
    where = _where(first["loc"])
    if first["type"] == "extra_forbidden":
        inside = where.rpartition(".")[0]
        beside = [name for name in known if name.rpartition(".")[0] == inside]
        near = difflib.get_close_matches(where, beside, n=1)
        others = f"known here: {', '.join(beside)}" if beside else "none is known here; leave it out"
        told = f"did you mean {near[0]}?" if near else others
        return refused(where, f"there is no such field; {told}", status=status)
    if first["type"] == "missing":
        return refused(where, "is missing", status=status)
    shown = strict_json.encoded(first["input"]).decode()
    shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
    told = f"{first['msg'].lower().replace('input should', 'must')} (given: {shown})"
    return refused(where, told, status=status)


def _where(path: Sequence[str | int]) -> str:
    """Return a place as people write it: ``stream_options.include_usage``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    told = "".join(steps).removeprefix(".")
    return told if len(told) <= _SHOWN else f"{told[: _SHOWN - 1]}…"
