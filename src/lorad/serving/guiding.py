"""Answers held to a JSON schema, token by token.

What lives here: a schema in one tokenizer's tokens, and which of them may come next in an answer. What never does: choosing a
token (the backends), reading what a request asks for (``http.schemas``).

A JSON text has one form here: one blank behind a comma and a colon, none elsewhere. Left free, small models write white space
until their room is used up.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, hf
from torch import Tensor

from lorad.errors import ProtocolError
from lorad.serving.requests import Sampling

_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Guide:
    """Which tokens may come next in one answer; in one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

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
            raise _cannot_follow(self._matcher.get_error())


@dataclass(frozen=True, slots=True)
class Grammar:
    """A JSON schema in one tokenizer's tokens; any number of answers may follow it at once."""

    tokens: LLTokenizer
    rules: str
    schema: Mapping[str, Any] | None = None
    """The schema itself, for a backend that makes its own grammar."""

    def start(self) -> Guide:
        """Return the guide of one answer."""
        return Guide(LLMatcher(self.tokens, self.rules, log_level=0))


class Grammars:
    """Makes grammars for one tokenizer; up to a second for the first."""

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        try:
            self._tokens = hf.from_tokenizer(tokenizer, eos_token=sorted(ends))
        except ValueError as error:  # it takes the tokenizers of tokenizer.json alone
            raise ProtocolError(
                f"this model's answers cannot be held to a schema: {error}", code="unsupported_parameter"
            ) from None

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """Return a schema's grammar; raise ``ProtocolError`` for one that nothing, or no answer, can follow."""
        try:
            rules = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_FORM)
        except (ValueError, RecursionError) as error:  # numbers that are too large for it, or depth
            raise _cannot_follow(str(error)) from None
        if wrong := LLMatcher.validate_grammar(rules, self._tokens):
            raise _cannot_follow(wrong)
        return Grammar(self._tokens, rules, schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedSampling(Sampling):
    """How to choose the next token, of those that the answer's form allows."""

    grammar: Grammar


def _cannot_follow(wrong: str) -> ProtocolError:
    return ProtocolError(
        f"the schema cannot be followed: {' '.join(wrong.split())}",
        code="bad_schema",
        param="response_format",
    )
