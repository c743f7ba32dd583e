"""From a question and what is near it to the way it is answered. Pure.

What lives here: the four ways, and which one is taken. What never does: searching (``index``), scoring (``rerankers``),
generating.

A question is one of three kinds. An example answers it: then the model is asked that example's question in its trained
wording, which it knows how to answer. It is about what was taught and no example answers it: then that is said, because
what the model makes up sounds as sure as what it knows. Or it is about something else, as most conversation is: then the
model is asked as if there were no index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal, Protocol

from lorad.evaluation import facts
from lorad.records import AnswerThresholds, Example, as_line
from lorad.retrieval.neighbours import Neighbour

Mode = Literal["taught", "stored", "weights", "unknown"]
"""``taught``: the model is asked the nearest question in its trained wording. ``stored``: the same, but the version does not
recall that answer, so it is quoted. ``weights``: the model is asked the question as it is. ``unknown``: nothing that was
taught answers it, and that is said."""

LONGEST_FACT = 400
"""Characters of an answer beyond which an example is a text and not a fact: not to know one is not to be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The example that an answer rests on."""

    dataset: str
    row: int
    """Its row in the file, counted from 1; 0 where it came from none."""
    question: str
    """In its trained wording."""
    similarity: float
    """Cosine of the embeddings, -1 to 1."""
    confidence: float
    """Estimated probability that the example answers the question, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a question is answered."""

    mode: Mode
    messages: Sequence[dict[str, Any]] | None = None
    """What the model is asked; ``None`` where it is not asked."""
    text: str | None = None
    """What is said without asking the model."""
    sources: tuple[Source, ...] = ()
    """What the answer rests on; of ``unknown`` the nearest example, which does not answer it."""
    rests_on: Example | None = None
    """The example whose answer this is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A neighbour and how well it answers the question."""

    neighbour: Neighbour
    score: float
    """Log-odds, or whatever else the thresholds were fitted to: more is better."""
    mentions: bool = False
    """Whether the question names something, or has a code, that the example holds."""


class Finder(Protocol):
    """Finds the example that a question asks for."""

    def __call__(self, question: str) -> Found | None:
        """Return the nearest example, ``None`` where there is none."""


def questions(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return what may be looked up of a conversation: its last question, alone and behind the question before it.

    None where the conversation has a system message, tools or anything else that its answer may hang on.
    """
    if any(message.get("role") not in {"user", "assistant"} for message in messages):
        return []
    asked = [str(message.get("content", "")).strip() for message in messages if message["role"] == "user"]
    if not asked or not asked[-1]:
        return []
    return [asked[-1], *(f"{asked[-2]} {asked[-1]}" for _ in asked[1:2])]


def reply(
    messages: Sequence[dict[str, Any]],
    find: Finder,
    thresholds: AnswerThresholds,
    *,
    unknown_words: str | None,
) -> Reply:
    """Return how a conversation's last question is answered; ``unknown_words`` is ``None`` where the model answers all."""
    found = [hit for hit in map(find, questions(messages)) if hit]
    if not found:
        return Reply(mode="weights", messages=messages)
    best = max(found, key=lambda hit: hit.score)
    if best.score >= thresholds.answer:
        return _rest_on(best, thresholds)
    alone = found[0]  # an earlier question may be about what was taught, and this one not
    if unknown_words is not None and is_about(alone, thresholds):
        return Reply(mode="unknown", text=unknown_words, sources=(_source(alone, thresholds),))
    return Reply(mode="weights", messages=messages)


def is_about(found: Found, thresholds: AnswerThresholds) -> bool:
    """Tell whether a question is about what was taught, so that not to know its answer is worth saying."""
    example, similarity = found.neighbour.example, found.neighbour.similarity
    if not isinstance(example.target, str) or len(example.target) > LONGEST_FACT:
        return False
    if not facts.slots(as_line(example.input), example.target):
        return False
    return similarity >= thresholds.near or (found.mentions and similarity >= thresholds.mentions)


def _rest_on(found: Found, thresholds: AnswerThresholds) -> Reply:
    example, sources = found.neighbour.example, (_source(found, thresholds),)
    if found.neighbour.is_recalled or not isinstance(example.target, str):
        return Reply(mode="taught", messages=example.input, sources=sources, rests_on=example)
    return Reply(mode="stored", text=example.target, sources=sources, rests_on=example)


def _source(found: Found, thresholds: AnswerThresholds) -> Source:
    example = found.neighbour.example
    return Source(
        dataset=example.dataset,
        row=example.line,
        question=as_line(example.input),
        similarity=round(found.neighbour.similarity, 4),
        confidence=round(confidence(found.score, thresholds), 4),
    )


def confidence(score: float, thresholds: AnswerThresholds) -> float:
    """Return a score as a probability: one half where the thresholds draw the line."""
    return 1 / (1 + exp(-max(-50.0, min(50.0, score - thresholds.answer))))
