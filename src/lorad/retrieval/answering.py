"""From a question and what is near it to the way it is answered. Pure.

What lives here: the four ways, and which one is taken. What never does: searching (``index``), scoring (``rerankers``),
generating.

A question is one of three kinds. An example answers it: then the model is asked that example's question in its trained
wording, which it knows how to answer. It is about what was taught and no example answers it: then that is said, because
what the model makes up sounds as sure as what it knows. Or it is about something else, as most conversation is: then the
model is asked as if there were no index.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp
from typing import Any, Literal, Protocol

from lorad.records import AnswerThresholds, Example, as_line
from lorad.retrieval.citations import Citation
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.parts import parts
from lorad.retrieval.words import has_several, names
from lorad.storage.memory import Recalled

Mode = Literal["taught", "stored", "weights", "unknown", "passages", "quoted", "not_found"]
"""``taught``: the model is asked the nearest question in its trained wording. ``stored``: the same, but the version does not
recall that answer, or two are asked for at once, so it is quoted. ``weights``: the model is asked the question as it is. ``unknown``: nothing that was
taught answers it, and that is said. ``passages``: the model is asked the question behind passages of documents. ``quoted``: a piece
of one answers it. ``not_found``: documents were asked for and none answers it, and that is said."""


SAME = 0.95
"""Similarity from which two questions are one, whatever their answers are."""


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
    """From 0 to 1: how far the score is above or below the line of its dataset. 0.5 is the line, 1 the example's own question. No
    probability."""


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
    """The one example whose answer this is."""
    passages: tuple[Citation, ...] = ()
    """What stands before the question, or what is quoted; of ``not_found`` the nearest, which may not answer it."""
    documents: str = ""
    """The track of documents that was looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A neighbour and how well it answers the question."""

    neighbour: Neighbour
    score: float
    """How well the example answers the question, on the scale of the thresholds: more is better. See ``finding``."""
    about: float
    """How much the question sounds as if it were about what was taught, on the scale of the thresholds. See ``finding``."""
    is_of_facts: bool = True
    """Whether most examples near the question answer with facts: not to know a joke is not to be said."""


Find = Callable[[str], Found | None]
"""Returns the example nearest to a question, ``None`` where there is none."""


class Finder(Protocol):
    """Finds what a version has learned."""

    def exact(self, messages: Sequence[dict[str, Any]]) -> Recalled | None:
        """Return the example that a whole conversation is, but for its spelling."""

    def find(self, question: str) -> Found | None:
        """Return the example nearest to a question, ``None`` where there is none."""


def last_questions(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return what may be looked up of a conversation: its last question, and the one before it if there is one.

    Empty where the conversation has a system message, tools or anything else that its answer may hang on.
    """
    if any(message.get("role") not in {"user", "assistant"} for message in messages):
        return []
    asked = [str(message.get("content", "")).strip() for message in messages if message["role"] == "user"]
    return asked[:-3:-1] if asked and asked[-1] else []


def reply(
    messages: Sequence[dict[str, Any]],
    finder: Finder,
    thresholds: AnswerThresholds,
    *,
    unknown_words: str | None,
) -> Reply:
    """Return how a conversation's last question is answered; ``unknown_words`` is ``None`` where the model answers all."""
    asked = last_questions(messages)
    if not asked:
        return Reply(mode="weights", messages=messages)
    if known := finder.exact(messages):
        return _rest_on(known.example, None, is_recalled=known.right)
    found = _found(asked, finder, thresholds, unknown_words) if _asks(asked[0]) else None
    return found or Reply(mode="weights", messages=messages)


def _asks(text: str) -> bool:
    """Tell whether a text asks for anything by itself: to "Hello" or "Why?" any example is as near as another."""
    return has_several(text) or bool(names(text))


def _found(
    asked: Sequence[str], finder: Finder, thresholds: AnswerThresholds, unknown_words: str | None
) -> Reply | None:
    """Return the answer of an example, or that there is none; ``None`` for what is not about what was taught."""
    find = cache(finder.find)  # a part, and what it leans on, are looked up in several connections
    if several := _each(parts(asked[0]), find, thresholds):
        return _rest_on_all(several, thresholds)
    alone, best = find(asked[0]), _best(asked, find, thresholds)
    if best is not None and answers(best, thresholds):
        near = best.neighbour
        return _rest_on(near.example, _source(best, thresholds), is_recalled=near.is_recalled)
    # an earlier question may be about what was taught, and this one not; and one that leans on it is not refused
    if (
        unknown_words is not None
        and alone is not None
        and alone is best
        and _is_about(asked, find, thresholds)
    ):
        return Reply(mode="unknown", text=unknown_words, sources=(_source(alone, thresholds),))
    return None


def _each(questions: Sequence[str], find: Find, thresholds: AnswerThresholds) -> list[Found]:
    """Return what answers each of several questions that are asked at once; nothing unless all have answers of their own.

    A later one may lean on the first: "Who runs it, and how do I call there?"
    """
    if len(questions) == 1:
        return []
    found: list[Found] = []
    for number, question in enumerate(questions):
        best = _best([question, *questions[: min(number, 1)]], find, thresholds)
        if best is None or not answers(best, thresholds):
            return []
        found.append(best)
    return found if len({hit.neighbour.example.id for hit in found}) == len(questions) else []


def _best(asked: Sequence[str], find: Find, thresholds: AnswerThresholds) -> Found | None:
    """Return what answers the first of these best: alone, or behind the second, which was asked before it."""
    hits = filter(None, [find(asked[0]), *_behind(asked, find)])
    return max(hits, key=lambda found: _above_line(found, thresholds), default=None)


def _behind(asked: Sequence[str], find: Find) -> list[Found]:
    """Return what the last question asks for behind the one before it ("And her e-mail?"), if that is something else.

    Both together hold all of the earlier question, so what that asks for is found again, whatever was said since.
    """
    if len(asked) == 1:
        return []
    both, before = find(f"{asked[1]} {asked[0]}"), find(asked[1])
    is_again = both and before and both.neighbour.example.id == before.neighbour.example.id
    return [both] if both and not is_again else []


def answers(found: Found, thresholds: AnswerThresholds) -> bool:
    """Tell whether an example answers a question.

    Where examples hold texts and no facts, a poem about spring must not be answered with the poem about autumn.
    """
    is_same = found.neighbour.similarity >= SAME
    return _above_line(found, thresholds) >= 0 and (found.is_of_facts or is_same)


def _above_line(found: Found, thresholds: AnswerThresholds) -> float:
    """Return how far an example's score is above the line of its dataset."""
    return found.score - thresholds.line(found.neighbour.example.dataset)


def _is_about(asked: Sequence[str], find: Find, thresholds: AnswerThresholds) -> bool:
    """Tell whether a last question is about what was taught, so that not to know its answer is worth saying.

    "And how deep is it?" sounds like that whatever it is about; so where it names nothing, the question before it, if there is
    one, must be, too.
    """
    hits = map(find, asked[:1] if names(asked[0]) else asked)
    return all(hit is not None and hit.is_of_facts and hit.about >= thresholds.about for hit in hits)


def _rest_on(example: Example, source: Source | None, *, is_recalled: bool) -> Reply:
    sources = (source or _source_of(example, 1.0, 1.0),)
    if is_recalled or not isinstance(example.target, str):
        return Reply(mode="taught", messages=example.input, sources=sources, rests_on=example)
    return Reply(mode="stored", text=example.target, sources=sources, rests_on=example)


def _rest_on_all(several: Sequence[Found], thresholds: AnswerThresholds) -> Reply:
    """Quote what answers each question, one after the other: asked for them together, a model tells one or mixes them."""
    text = " ".join(str(hit.neighbour.example.target).strip() for hit in several)
    return Reply(mode="stored", text=text, sources=tuple(_source(hit, thresholds) for hit in several))


def _source(found: Found, thresholds: AnswerThresholds) -> Source:
    near = found.neighbour
    return _source_of(near.example, near.similarity, confidence(_above_line(found, thresholds)))


def _source_of(example: Example, similarity: float, sure: float) -> Source:
    return Source(
        dataset=example.dataset,
        row=example.line,
        question=as_line(example.input),
        similarity=round(similarity, 4),
        confidence=round(sure, 4),
    )


def confidence(above_line: float) -> float:
    """Return how far a score is above the line as a number from 0 to 1: one half at the line. It is no probability."""
    return 1 / (1 + exp(-max(-50.0, min(50.0, above_line))))
