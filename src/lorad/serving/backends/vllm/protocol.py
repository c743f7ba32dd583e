"""What is said to a vLLM server, and what it answers, checked as it comes.

What lives here: the bodies of its routes, the events of a stream. What never does: sockets (``wire``), which version a
request gets.

Nothing that the server says is believed without a look: an answer names the model that gave it and repeats the prompt, and
both are compared.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from lorad.errors import ProtocolError, RegistryError
from lorad.serving.backends.vllm.wire import BrokenExchange, Question, Reply, Talk
from lorad.serving.guiding import GuidedSampling
from lorad.serving.requests import LONGEST_SILENCE, Sampling

COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"

LIST_SECONDS = 30.0
LONGEST_LINE = 1_000_000
"""Bytes of one event: the first one repeats the prompt."""
SHOWN = 300
"""Characters of what a server says that an error repeats."""


# -- models and adapters


def list_models() -> Talk[dict[str, str | None]]:
    """Return what the server answers as: each name, and the base's for an adapter."""
    reply = yield Question(method="GET", target=MODELS, seconds=LIST_SECONDS)
    if reply.status != HTTPStatus.OK:
        raise BrokenExchange(f"it does not list its models: {_complaint(reply)}")
    try:
        cards = [(str(card["id"]), card.get("parent")) for card in json.loads(reply.body)["data"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _garbled(reply.body) from None
    return {name: None if parent is None else str(parent) for name, parent in cards}


def load_adapter(name: str, folder: Path) -> Talk[None]:
    """Let the server answer as an adapter; raise ``RegistryError`` where it will not.

    A name that is there already stays as it is: it holds the hash, and loading in place keeps what was cached for
    another one (vllm#42125).
    """
    if name in (yield from list_models()):
        return
    reply = yield Question(method="POST", target=LOAD, body={"lora_name": name, "lora_path": str(folder)})
    if reply.status == HTTPStatus.OK or name in (
        yield from list_models()
    ):  # somebody else may have been faster
        return
    raise RegistryError(
        f"vLLM does not load {name}: {_complaint(reply)}; it needs --enable-lora, --max-lora-rank of at least the "
        "version's rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and leave to read the version's folder",
        code="backend_refused",
        backend="vllm",
        version=folder.name,
    )


def unload_adapter(name: str) -> Talk[None]:
    """Let the server forget an adapter; whether it knew it does not matter."""
    yield Question(method="POST", target=UNLOAD, body={"lora_name": name})


# -- answers


def answer(body: Mapping[str, Any], ends: Collection[int]) -> Talk[list[int]]:
    """Return the tokens of a whole answer, not streamed to anybody."""
    reply = yield Question(method="POST", target=COMPLETIONS, body={**body, "stream": False})
    if reply.status != HTTPStatus.OK:
        raise refusal(reply)
    stream = TokenStream(body, ends)
    return stream.take(_object(reply.body))


def streamed(body: Mapping[str, Any]) -> Question:
    """Return the request for an answer that is streamed."""
    # an answer may wait in vLLM's own queue before its first token
    return Question(
        method="POST",
        target=COMPLETIONS,
        body={**body, "stream": True},
        seconds=LONGEST_SILENCE,
        streams=True,
    )


def completion(
    model: str, salt: str, prompt: Sequence[int], sampling: Sampling, ends: Collection[int]
) -> dict[str, Any]:
    """Return a request's body.

    Everything that vLLM would else take from the model's own generation config is said. Stop texts are not: lorad looks for
    them in the text that it makes.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "n": 1,
        "temperature": sampling.temperature if sampling.top_p > 0 else 0.0,  # vLLM takes no top_p of 0
        "top_p": sampling.top_p or 1.0,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": sorted(ends),
        "ignore_eos": False,
        "return_token_ids": True,
        "cache_salt": salt,  # what is kept of this prompt is found again under this name alone
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if isinstance(sampling, GuidedSampling):
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": _schema(sampling)},
        }
    return body


def _schema(sampling: GuidedSampling) -> dict[str, Any]:
    if sampling.grammar.schema is None:
        raise ProtocolError(
            "the vLLM backend holds answers to a JSON schema only, not to another grammar",
            code="unsupported",
            param="response_format",
            backend="vllm",
        )
    return dict(sampling.grammar.schema)


class TokenStream:
    """The tokens of one answer, out of what the server says of it."""

    def __init__(self, body: Mapping[str, Any], ends: Collection[int]) -> None:
        self._model, self._prompt, self._ends = body["model"], body["prompt"], ends
        self._most: int | None = body.get("max_tokens")
        self._held = b""
        self._id: str | None = None
        self._last: int | None = None
        self.count = 0
        """Tokens that came."""
        self.is_over = False
        """Whether the answer is whole."""

    def feed(self, data: bytes) -> list[int]:
        """Take the next bytes of an event stream, however they were cut; return the tokens in them.

        Raise ``BrokenExchange`` for what is no such stream, ``ProtocolError`` for what the server says went wrong.
        """
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LONGEST_LINE:
            raise BrokenExchange(f"an event of more than {LONGEST_LINE} bytes came")
        tokens: list[int] = []
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name == b"data":
                tokens += self._event(value.strip())
            elif name not in {b"", b"event", b"id", b"retry"}:  # b"" is a comment, or ends an event
                raise _garbled(line)
        return tokens

    def _event(self, value: bytes) -> list[int]:
        if self.is_over:
            return []  # counts and [DONE]
        if value == b"[DONE]":
            raise BrokenExchange("the answer broke off")
        return self.take(_object(value))

    def take(self, event: Mapping[str, Any]) -> list[int]:
        """Return the tokens of one event, or of a whole answer; raise as ``feed`` does."""
        if "error" in event:
            raise _failed(_message(event) or "it gives no reason")
        try:
            self._check(event)
            choices = event["choices"]
            if not choices:
                return []
            (choice,) = choices
            self._check_prompt(choice)
            tokens, finish = choice["token_ids"] or [], choice.get("finish_reason")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _garbled(json.dumps(event).encode()) from None
        if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
            raise _garbled(json.dumps(event).encode())
        return self._counted(tokens, finish, choice.get("stop_reason"))

    def _check(self, event: Mapping[str, Any]) -> None:
        if event["model"] != self._model:
            raise BrokenExchange(f"{str(event['model'])[:SHOWN]!r} answered instead of {self._model}")
        self._id = self._id or str(event["id"])
        if event["id"] != self._id:
            raise BrokenExchange("tokens of another request came")

    def _check_prompt(self, choice: Mapping[str, Any]) -> None:
        asked = choice.get("prompt_token_ids")
        if choice["index"] != 0 or (asked is not None and asked != self._prompt):
            raise BrokenExchange("tokens of another request came")

    def _counted(self, tokens: list[int], finish: Any, stop: Any) -> list[int]:
        self._last = tokens[-1] if tokens else self._last
        if finish == "stop" and self._ends and self._last not in self._ends:
            # the end token itself may be left out of what is told
            tokens = [*tokens, stop if type(stop) is int and stop in self._ends else min(self._ends)]
        self.count += len(tokens)
        if self._most is not None and self.count > self._most + 1:  # one more where the end was left out
            raise BrokenExchange("more tokens came than were asked for")
        if finish not in {None, "stop", "length"}:
            raise _failed(f"it ended the answer with {str(finish)[:SHOWN]!r}")
        self.is_over = finish is not None
        return tokens


def is_unknown_model(status: int | None) -> bool:
    """Tell whether a status says that the server does not know the model: it has forgotten, or restarted."""
    return status == HTTPStatus.NOT_FOUND


def refusal(reply: Reply) -> ProtocolError:
    """Return what a client is told of an answer that the server would not begin."""
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR or is_unknown_model(reply.status):
        return _failed(_complaint(reply))
    return ProtocolError(
        f"vLLM refuses the request: {_complaint(reply)}",
        status=HTTPStatus.BAD_REQUEST,
        code="backend_refused",
        backend="vllm",
    )


def _failed(why: str) -> ProtocolError:
    return ProtocolError(
        f"vLLM failed to answer: {why[:SHOWN]}",
        status=HTTPStatus.BAD_GATEWAY,
        code="backend_failed",
        backend="vllm",
    )


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _garbled(data) from None
    if not isinstance(found, dict):
        raise _garbled(data)
    return found


def _garbled(data: bytes) -> BrokenExchange:
    return BrokenExchange(f"what it says is no answer of vLLM: {data[:SHOWN].decode(errors='replace')!r}")


def _complaint(reply: Reply) -> str:
    try:
        said = _message(json.loads(reply.body))
    except (ValueError, RecursionError):
        said = ""
    return f"{(said or 'it gives no reason')[:SHOWN]} (status {reply.status})"


def _message(told: Any) -> str:
    """Return the sentence of an error in any of the forms that vLLM has had."""
    for key in ("error", "message", "detail"):
        if isinstance(told, dict) and key in told:
            told = told[key]
    return told if isinstance(told, str) else ""
