"""The bodies of Ollama's routes, and how they are asked.

What lives here: Ollama's names for what lorad does, its options, its names of models. What never does: conversations
(``schemas``), answers.

As Ollama has it, an answer is streamed unless the request says no; as lorad has it, it is greedy unless the request gives a
temperature, and a field that would change an answer and is not done is refused by name.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from lorad.serving.http import parameters
from lorad.serving.http.openai_bodies import texts
from lorad.serving.http.parameters import Parameters, Refused
from lorad.serving.http.schemas import ANY_OBJECT, NAME_LENGTH, Body, ChatBody, SamplingBody, refused
from lorad.serving.requests import Sampling

SAMPLING = frozenset({"temperature", "top_p", "top_k", "min_p", "seed", "num_predict", "stop"})
"""Options that lorad does."""

MACHINE = frozenset(
    {
        *("num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "main_gpu", "numa", "low_vram"),
        *("f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only"),
        *("repeat_last_n", "penalize_newline"),  # say nothing without a penalty, and that is refused
    }
)
"""Options that say how a machine is used. lorad finds that out; its context is the base's, and nothing is cut to fit."""

_NO_LOGPROBS = Refused("they are told at /v1/chat/completions", (False, 0))
_REFUSED = {**parameters.REFUSED, "logprobs": _NO_LOGPROBS, "top_logprobs": _NO_LOGPROBS}

OPTIONS = Parameters(SAMPLING | MACHINE, _REFUSED, {"max_tokens": "num_predict"})

_COMMON = frozenset({"model", "stream", "options", "format", "keep_alive", "truncate", "shift"})
_IN_OPTIONS = dict.fromkeys(sorted(SAMPLING | {"max_tokens"}), "it under options, num_predict for its length")
CHAT = Parameters(_COMMON | {"messages", "tools"}, _REFUSED, {**_IN_OPTIONS, "prompt": "messages"})
GENERATE = Parameters(
    _COMMON | {"prompt", "system", "raw"},
    {**_REFUSED, "tools": Refused("a prompt calls no tools; use POST /api/chat", ([],))},
    {**_IN_OPTIONS, "messages": "prompt, or use POST /api/chat"},
)

_MODEL = Field(min_length=1, max_length=2 * NAME_LENGTH)


def model_name(given: str) -> str:
    """Return a model's name as lorad has it: ``chat:v0.1`` is ``chat@v0.1``."""
    return given.replace(":", "@", 1)


class OptionsBody(SamplingBody):
    """Ollama's options, as far as a local model can follow them."""

    model_config = ConfigDict(extra="ignore")  # what would matter, ``parameters`` has refused

    num_predict: int = Field(default=-1, ge=-2, lt=2**31)
    """Tokens; -1 and -2: all that the context leaves."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if isinstance(given, dict):
            OPTIONS.check(given)
        return given

    def sampling(self) -> Sampling:
        """Return how to generate."""
        if self.num_predict == 0:
            raise refused("options.num_predict", "must be at least 1, or -1 for all that the context leaves")
        return self.with_limit(self.num_predict if self.num_predict > 0 else None)


class OllamaBody(Body):
    """What Ollama's requests for an answer have in common."""

    model_config = ConfigDict(extra="ignore")

    known: ClassVar[Parameters]

    model: str = _MODEL
    stream: bool = True
    options: OptionsBody = OptionsBody()
    format: Any = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, given: Any) -> Any:
        if isinstance(given, dict):
            cls.known.check(given)
        return given

    def answer_schema(self) -> Mapping[str, Any] | None:
        """Return the JSON schema that the answer must follow, ``None`` for text."""
        if self.format in ("", "json"):
            return ANY_OBJECT if self.format else None
        if not isinstance(self.format, dict):
            raise refused("format", 'must be "json", or a JSON schema')
        return self.format


class OllamaChatBody(OllamaBody):
    """Ollama's request for the answer to a conversation; without messages it only asks whether the model is there."""

    example: ClassVar[str] = '{"model": "chat", "messages": [{"role": "user", "content": "Where is it?"}]}'
    known: ClassVar[Parameters] = CHAT

    messages: list[Any] = Field(default=[])
    tools: list[Any] = Field(default=[])

    def question(self) -> list[dict[str, Any]]:
        """Return the conversation as examples hold it."""
        return self._as_openais().question()

    def declared(self) -> frozenset[str]:
        """Return the names of the tools that the answer may call."""
        return self._as_openais().declared()

    def answer_schema(self) -> Mapping[str, Any] | None:
        """Return the JSON schema that the answer must follow, ``None`` for text."""
        if self.format and self.declared():
            raise refused("format", "an answer that may call tools has no other form; send one of the two")
        return super().answer_schema()

    def _as_openais(self) -> ChatBody:
        return ChatBody.model_construct(messages=self.messages, tools=self.tools)


class OllamaGenerateBody(OllamaBody):
    """Ollama's request for the answer to one prompt: asked as a user's message, or with ``raw`` continued as it stands."""

    example: ClassVar[str] = '{"model": "chat", "prompt": "Where is it?"}'
    known: ClassVar[Parameters] = GENERATE

    prompt: str = ""
    system: str = ""
    raw: bool = False

    @model_validator(mode="after")
    def _raw_is_all(self) -> Self:
        if self.raw and self.system:
            raise refused("system", "stands in no raw prompt; write it into the prompt")
        if self.raw and self.format:
            raise refused("format", "a raw prompt is continued as it stands; leave one of the two out")
        return self

    def question(self) -> list[dict[str, Any]]:
        """Return the prompt as a conversation."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        return [*said, {"role": "user", "content": self.prompt}]


class OllamaEmbedBody(Body):
    """Ollama's request for the vectors of texts."""

    model_config = ConfigDict(extra="ignore")

    example: ClassVar[str] = '{"model": "chat", "input": "Where is it?"}'

    model: str = _MODEL
    input: Any
    truncate: Literal[True] = True
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """Return what is to be embedded; raise ``ProtocolError`` by name on what is not done."""
        if self.dimensions is not None:
            raise refused(
                "dimensions", "lorad does not shorten vectors; leave it out", "unsupported_parameter"
            )
        return texts(self.input)


class OllamaShowBody(Body):
    """Which model to tell of."""

    model_config = ConfigDict(extra="ignore")

    example: ClassVar[str] = '{"model": "chat"}'

    model: str = Field(
        min_length=1, max_length=2 * NAME_LENGTH, validation_alias=AliasChoices("model", "name")
    )
    """Older clients call it ``name``."""
