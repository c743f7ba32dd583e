"""Answers held to a form, token by token: to a JSON schema, or to the call of a tool.

What lives here: a form in one tokenizer's tokens, and which of them may come next in an answer. What never does: choosing a
token (the backends), reading what a request asks for (``http.schemas``), how a template writes a call (``tasks``).

A JSON text has one form here: one blank behind a comma and a colon, none elsewhere. Left free, small models write white space
until their room is used up.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, hf
from torch import Tensor

from lorad.errors import ProtocolError
from lorad.serving import called_tools
from lorad.serving.requests import Sampling

KEPT = 16
"""Grammars that are kept for whoever asks for the same form: the other answers of a request, and the next requests."""

_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_JSON, _CALLS = "response_format", "tools"
"""Fields of a request that ask for a form."""


class Guide:
    """Which tokens may come next in one answer; in one thread at a time."""

    def __init__(self, matcher: LLMatcher, asked_by: str) -> None:
        self._matcher = matcher
        self._asked_by = asked_by

    def allow(self, logits: Tensor) -> Tensor:
        """Return the next token's logits, [V], with -inf for each token that would break the schema.

        Raise ``ProtocolError`` where following the schema has become too much work.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = np.zeros(
            len(logits), dtype=np.bool_
        )  # a model may have more outputs than its tokenizer has tokens
        known = np.unpackbits(bits, bitorder="little")[: len(logits)]
        allowed[: len(known)] = known
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

    def take(self, token: int) -> None:
        """Go on behind the token that was chosen."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _cannot_follow(self._matcher.get_error(), self._asked_by)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A form in one tokenizer's tokens, made ready once; any number of answers may follow it at once."""

    ready: LLMatcher
    """Stands at the beginning, and stays there."""
    asked_by: str
    """The field of a request that is to blame where it cannot be followed."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema itself, for a backend that makes its own grammar; ``None`` for calls of tools."""

    def start(self) -> Guide:
        """Return the guide of one answer."""
        return Guide(self.ready.deep_copy(), self.asked_by)


class Grammars:
    """Makes grammars for one tokenizer; up to a second for the first."""

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self._recent: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        try:
            self._tokens: LLTokenizer = hf.from_tokenizer(tokenizer, eos_token=sorted(ends))
        except ValueError as error:  # it takes the tokenizers of tokenizer.json alone
            raise ProtocolError(
                f"this model's answers cannot be held to a schema: {error}", code="unsupported_parameter"
            ) from None
        added = tokenizer.added_tokens_decoder.items()
        self._special = {
            str(token.content): number for number, token in added if self._tokens.is_special_token(number)
        }
        """Tokens that no text makes, such as ``<tool_call>``: a form names them by their numbers."""

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """Return a schema's grammar; raise ``ProtocolError`` for one that nothing, or no answer, can follow."""
        try:
            rules = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_FORM)
        except (ValueError, RecursionError) as error:  # numbers that are too large for it, or depth
            raise _cannot_follow(str(error), _JSON) from None
        return self._made(rules, _JSON, schema)

    def call(self, form: tuple[str, str, str] | None, functions: Sequence[Mapping[str, Any]]) -> Grammar:
        """Return the grammar of exactly one call of one of these functions, as a template writes it (``Generating.call_form``).

        Raise ``ProtocolError`` where it writes calls in no form that is read here, or nothing can follow the arguments' schema.
        """
        if form is None or not _is_read(form):
            raise ProtocolError(
                "this model's chat template has no form of calling tools in which lorad could make it call one; send "
                'tool_choice "auto", or take a base model that was trained to call tools',
                code="unsupported_parameter",
                param="tool_choice",
            )
        rules = [f"start: {' | '.join(f'call{number}' for number in range(len(functions)))}"]
        for number, function in enumerate(functions):
            before, behind = (" ".join(self._literals(part)) for part in _around(form, function["name"]))
            rules += [
                f"call{number}: {before} arguments{number} {behind}",
                f"arguments{number}: %json {json.dumps(_arguments(function))}",
            ]
        return self._made(LLMatcher.grammar_from_lark("\n".join(rules)), _CALLS)

    def _literals(self, text: str) -> Iterator[str]:
        """Yield a text as Lark has it: strings, and special tokens by their numbers."""
        words = sorted(self._special, key=len, reverse=True)
        pattern = "|".join(map(re.escape, words)) or r"(?!)"
        for part in filter(None, re.split(f"({pattern})", text)):
            number = self._special.get(part)
            yield json.dumps(part, ensure_ascii=False) if number is None else f"<[{number}]>"

    def _made(self, rules: str, asked_by: str, schema: Mapping[str, Any] | None = None) -> Grammar:
        with self._lock:
            if rules in self._recent:
                self._recent.move_to_end(rules)
                return self._recent[rules]
        made = Grammar(
            self._ready(rules, asked_by), asked_by, schema
        )  # with no lock held: it may take its time
        with self._lock:
            self._recent[rules] = made
            while len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        return made

    def _ready(self, rules: str, asked_by: str) -> LLMatcher:
        try:
            matcher = LLMatcher(self._tokens, rules, log_level=0)
        except ValueError as error:
            raise _cannot_follow(str(error), asked_by) from None
        if matcher.is_error():
            raise _cannot_follow(matcher.get_error(), asked_by)
        return matcher


def _is_read(form: tuple[str, str, str]) -> bool:
    """Tell whether what is forced will be known for a call."""
    before, between, behind = form
    said = called_tools.read(f"{before}name{between}{{}}{behind}", {"name"})
    return not said.text and said.calls == (called_tools.Call("name", {}),)


def _around(form: tuple[str, str, str], name: str) -> tuple[str, str]:
    """Return what stands before and behind the arguments of a function's call."""
    before, between, behind = form
    written = json.dumps(name, ensure_ascii=False)[1:-1] if before.endswith('"') else name
    return before + written + between, behind


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments: of an object, whatever it says."""
    told = function.get("parameters") or {}
    if not isinstance(told, Mapping) or told.get("type", "object") != "object":
        name = function["name"]
        raise _cannot_follow(f"the parameters of {name} must be a schema of type object", _CALLS)
    return {**told, "type": "object", "x-guidance": _FORM}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedSampling(Sampling):
    """How to choose the next token, of those that the answer's form allows."""

    grammar: Grammar


def _cannot_follow(wrong: str, asked_by: str) -> ProtocolError:
    return ProtocolError(
        f"the schema cannot be followed: {' '.join(wrong.split())}",
        code="bad_schema",
        param=asked_by,
    )
