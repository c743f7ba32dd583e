"""OpenAI's forms, as far as lorad answers in them.

What lives here: the records of ``/v1``: models, a whole answer, a piece of a streamed one, an error, and what lorad tells
besides. What never does: what requests hold (``http.schemas``), lorad's own answers (``answers``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lorad.serving.record_json import OPTIONAL, rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Something that can be asked: a track, or one version of it."""

    id: str
    """``track``, ``track@v0.1`` or ``track@base``."""
    object: str = "model"
    created: int
    owned_by: str = "lorad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Everything that can be asked."""

    object: str = "list"
    data: tuple[Model, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer cost, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool that the model wants called."""

    id: str
    type: str = "function"
    function: Mapping[str, str]
    """Its ``name``, and its ``arguments`` as JSON in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the model says."""

    role: str = "assistant"
    content: str | None = ""
    """``null`` where it only calls tools."""
    tool_calls: tuple[ToolCall, ...] | None = field(default=None, metadata=OPTIONAL)
    """What it wants called, of the tools that the request declares; left out where that is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprob:
    """A token that might have stood in a place, and how likely it was."""

    token: str
    """Its text; part of a character as ``\\xe2\\x82``."""
    logprob: float
    """Natural logarithm of its probability, before temperature, ``top_p`` or a schema; at least -9999."""
    bytes: tuple[int, ...] | None = None
    """Its text in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob(TopLogprob):
    """A token of an answer, and how likely it was."""

    top_logprobs: tuple[TopLogprob, ...] = ()
    """The likeliest tokens in its place, as many as the request asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceLogprobs:
    """How likely each token of an answer was, or of a piece of it."""

    content: tuple[TokenLogprob, ...] | None = None
    refusal: tuple[TokenLogprob, ...] | None = None
    """Always ``null``: what a model refuses is its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An answer; a request gets as many as it asks for with ``n``."""

    index: int = 0
    message: Message
    logprobs: ChoiceLogprobs | None = None
    """``null`` where the request does not ask, and where no model was asked."""
    finish_reason: str | None = None
    """``stop`` for a whole answer, ``length`` for one that was cut, ``tool_calls`` for one that calls tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceExample:
    """An example that was taught."""

    dataset: str
    row: int
    """Its row in the file, counted from 1; 0 where it came from none."""
    question: str
    """In its trained wording."""
    similarity: float
    """Cosine of its embedding and the question's, -1 to 1."""
    confidence: float
    """0 to 1: how far its score is above or below the threshold, which is 0.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePassage:
    """A passage of a document: characters ``start`` to ``end`` of its text."""

    number: int
    """By which the model knows it, counted from 1."""
    document: int
    """The document's number; see ``GET /lorad/documents``."""
    title: str
    name: str
    """The file that the document came from."""
    url: str
    heading: tuple[str, ...]
    """The headings above it, the outermost first."""
    page: int | None
    """Counted from 1; ``null`` where the document has no pages."""
    start: int
    end: int
    text: str
    similarity: float | None
    """Cosine of its embedding and the question's; ``null`` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an answer comes from. OpenAI has nothing like it, and its clients ignore it."""

    mode: Literal["taught", "stored", "weights", "unknown", "passages", "quoted", "not_found"]
    """``taught``: the model was asked the source's question in its trained wording. ``stored``: the source's answer is
    quoted. ``weights``: the model was asked the question as it is. ``unknown``: no example answers it.
    ``passages``: the model was asked the question behind passages of documents. ``quoted``: a piece of a document is quoted.
    ``not_found``: no document answers it."""
    sources: tuple[SourceExample, ...] = ()
    """What the answer rests on; of ``unknown`` the nearest example, which does not answer it."""
    passages: tuple[SourcePassage, ...] | None = field(default=None, metadata=OPTIONAL)
    """What stood before the question, or is quoted."""
    documents: str | None = field(default=None, metadata=OPTIONAL)
    """The track of documents that was looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer."""

    id: str = ""
    created: int = 0
    model: str = ""
    """The track and the version that answered, as ``chat@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    object: str = "chat.completion"
    choices: tuple[Choice, ...]
    usage: Usage = Usage()
    lorad: Origin | None = field(default=None, metadata=OPTIONAL)
    """Left out where no example was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkChoice:
    """A piece of an answer: the text that comes next, and behind the last one why it ended."""

    index: int = 0
    delta: Mapping[str, Any] = field(default_factory=dict)
    """``role``, ``content`` or ``tool_calls``."""
    logprobs: ChoiceLogprobs | None = None
    """Of the tokens that begin in this piece."""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionChunk:
    """An event of a streamed answer."""

    id: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str = ""
    object: str = "chat.completion.chunk"
    choices: tuple[ChunkChoice, ...] = ()
    usage: Usage | None = None
    """In the last event, if the request asks for it."""
    lorad: Origin | None = field(default=None, metadata=OPTIONAL)
    """In the first event alone, of which OpenAI's own client makes the whole answer; left out where no example was looked
    for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLogprobs:
    """How likely each token of a text was, or of a piece of it: lists of one length."""

    tokens: tuple[str, ...] = ()
    """Their texts; part of a character as ``bytes:\\xe2\\x82``."""
    token_logprobs: tuple[float, ...] = ()
    """As ``TopLogprob.logprob``."""
    top_logprobs: tuple[Mapping[str, float], ...] = ()
    """In each place the likeliest tokens, as many as the request asks for, and the one that was chosen."""
    text_offset: tuple[int, ...] = ()
    """Characters of the whole answer before each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChoice:
    """What continues a text, or a piece of it."""

    index: int = 0
    text: str = ""
    logprobs: TextLogprobs | None = None
    """``null`` where the request does not ask."""
    finish_reason: str | None = None
    """As in ``Choice``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCompletion:
    """What continues a text; an event of it as well, where it is streamed."""

    id: str = ""
    created: int = 0
    model: str = ""
    """The track and the version that answered, as ``chat@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    object: str = "text_completion"
    choices: tuple[TextChoice, ...] = ()
    usage: Usage | None = None
    """Of a stream only in its last event, if the request asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A text's vector, of length 1."""

    object: str = "embedding"
    index: int
    embedding: tuple[float, ...] | str
    """Numbers, or with ``encoding_format`` ``base64`` these as little-endian float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The vectors of some texts, in their order."""

    object: str = "list"
    data: tuple[Embedding, ...]
    model: str
    """The base that made them: vectors of another one cannot be compared with these."""
    usage: Usage = Usage()
    """Of the texts' tokens, those that the embedder has read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What is wrong with a request, or went wrong with it."""

    message: str
    type: str = ""
    """``invalid_request_error`` or ``server_error``."""
    param: str | None = None
    """The field that is to blame."""
    code: str | None = None
    """Stable, for programs."""
    data: Mapping[str, Any] = rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The answer to every request that cannot be served."""

    error: Complaint
