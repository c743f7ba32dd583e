"""From a document to the chunks that a search finds. Pure.

What lives here: the five ways to divide a text, and how parts that are too short are joined and those that are too long
divided. What never does: what a text is made of (``outline``), embedding, storing.

A chunk is a span of the document's own text: whoever slices that by its offsets has the chunk, to the letter.

What is too long is divided by semantic-text-splitter, which looks for the highest boundary that fits (paragraphs, then
sentences, then words, by Unicode's rules) and tells where it found it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer, models, pre_tokenizers

from lorad.config import SplitMethod, SplitSettings
from lorad.retrieval.outline import Block, Markup, blocks, trim

#: Where a sentence ends: behind its sign and what closes it, before a blank and what begins another.
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u201d\u2019)\]]))\s+(?=[^\sa-z])|(?<=[\u3002\uff01\uff1f])\s*"
)

#: What ends with a dot and no sentence does: single letters, titles, and a few more.
_ABBREVIATED = re.compile(
    r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Nr|No|Fig|Eq|Sec|Ch|Vol|vs|etc|cf|al|approx|e\.g|i\.e|z\.B|d\.h|bzw|ca|usw))\.$"
)
GROUP = 1 << 20
"""Characters that are tokenised together."""


@dataclass(frozen=True, slots=True)
class DocumentChunk:
    """A part of a document that a search may find."""

    start: int
    """Its first character in the document's text."""
    end: int
    """Behind its last one."""
    heading: tuple[str, ...] = ()
    """The headings above its beginning, the outermost first."""
    page: int | None = None
    """The page on which it begins, counted from 1; ``None`` where the document has none."""


class Splitter:
    """Divides documents, measured in tokens of one tokenizer."""

    def __init__(self, settings: SplitSettings, tokenizer: Tokenizer | None = None) -> None:
        """Measure with a tokenizer of nobody else's; without one, in words and signs."""
        self._settings = settings
        self._tokenizer = tokenizer or words_and_signs()
        self._divided = TextSplitter.from_huggingface_tokenizer(self._tokenizer, settings.max_tokens)

    def split(
        self,
        text: str,
        markup: Markup = "plain",
        pages: Sequence[int] = (),
        method: SplitMethod | None = None,
    ) -> list[DocumentChunk]:
        """Return a text's chunks in their order; ``pages`` says at which characters they begin.

        Only with the method ``chunk`` do chunks overlap. Every word of the text is in one.
        """
        parts = blocks(text, markup)
        if not parts:
            return []
        spans = _Spans(text, parts, self._tokenizer)
        chosen = method or self._settings.method
        if chosen == "chunk":
            found = list(spans.equal_parts(self._settings.max_tokens, self._settings.overlap_tokens))
        else:
            units = self._joined(spans, list(self._units(spans, chosen)))
            found = [part for unit in units for part in self._fitted(spans, unit)]
        return [_on_page(replace(chunk, heading=spans.heading(chunk.start)), pages) for chunk in found]

    def _units(self, spans: "_Spans", method: SplitMethod) -> Iterator[DocumentChunk]:
        parts = spans.blocks
        if method == "semantic":
            yield from _spanned([at for at, part in enumerate(parts) if part.kind == "heading"], parts)
        elif method == "regex" and self._settings.pattern is not None:
            cuts = [match.start() for match in re.finditer(self._settings.pattern, spans.text, re.MULTILINE)]
            yield from spans.cut(parts[0].start, parts[-1].end, cuts)
        else:
            # a heading belongs to what stands below it
            below = [at for at, part in enumerate(parts) if not at or parts[at - 1].kind != "heading"]
            for unit in _spanned(below, parts):
                is_prose = method == "sentence" and spans.kind(unit.end) == "text"
                yield from (
                    spans.cut(unit.start, unit.end, sentence_starts(spans.text, unit.start, unit.end))
                    if is_prose
                    else [unit]
                )

    def _joined(self, spans: "_Spans", units: Sequence[DocumentChunk]) -> list[DocumentChunk]:
        """Join what is too short with what follows it, or at the end with what is before it, where both fit."""
        least, most = self._settings.min_tokens, self._settings.max_tokens
        found: list[DocumentChunk] = []
        for unit in units:
            if found and spans.tokens(found[-1].start, found[-1].end) < least:
                both = replace(found[-1], end=unit.end)
                if spans.tokens(both.start, both.end) <= most:
                    found[-1] = both
                    continue
            found.append(unit)
        if len(found) > 1 and spans.tokens(found[-1].start, found[-1].end) < least:
            both = replace(found[-2], end=found[-1].end)
            if spans.tokens(both.start, both.end) <= most:
                found[-2:] = [both]
        return found

    def _fitted(self, spans: "_Spans", unit: DocumentChunk) -> Iterator[DocumentChunk]:
        """Yield a unit in parts of at most ``max_tokens``: as many whole blocks as fit, and blocks too long for one divided."""
        most = self._settings.max_tokens
        if spans.tokens(unit.start, unit.end) <= most:
            yield unit
            return
        start = end = unit.start
        for begin, behind in spans.inside(unit.start, unit.end):
            if spans.tokens(start, behind) <= most:
                end = behind
                continue
            if end > start:
                yield DocumentChunk(start, end)
            start, end = begin, behind
            if spans.tokens(begin, behind) > most:
                parts = list(self._in_parts(spans, begin, behind))
                yield from self._with_heading(spans, parts)
                start = end = behind
        if end > start:
            yield DocumentChunk(start, end)

    def _with_heading(self, spans: "_Spans", parts: Sequence[DocumentChunk]) -> Sequence[DocumentChunk]:
        """Join a heading that would stand alone with what is below it, if both fit."""
        if len(parts) > 1 and spans.kind(parts[0].end) == "heading":
            both = replace(parts[0], end=parts[1].end)
            if spans.tokens(both.start, both.end) <= self._settings.max_tokens:
                return [both, *parts[2:]]
        return parts

    def _in_parts(self, spans: "_Spans", start: int, end: int) -> Iterator[DocumentChunk]:
        for offset, part in self._divided.chunk_indices(spans.text[start:end]):
            first, last = trim(spans.text, start + offset, start + offset + len(part))
            if last > first:
                yield DocumentChunk(first, last)


class _Spans:
    """A text, its blocks and its tokens: how long each part of it is."""

    def __init__(self, text: str, parts: Sequence[Block], tokenizer: Tokenizer) -> None:
        self.text = text
        self.blocks = parts
        self._starts = [part.start for part in parts]
        self._tokens: list[int] = []
        """Where each token begins."""
        for some in _together(parts):
            pieces = [text[part.start : part.end] for part in some]
            # in a batch, even if of one: while it is made, other threads go on
            for part, encoded in zip(
                some, tokenizer.encode_batch(pieces, add_special_tokens=False), strict=True
            ):
                self._tokens += [part.start + start for start, _ in encoded.offsets]

    def tokens(self, start: int, end: int) -> int:
        """Count the tokens that begin in a span."""
        return bisect_left(self._tokens, end) - bisect_left(self._tokens, start)

    def _block(self, place: int) -> Block:
        return self.blocks[max(0, bisect_right(self._starts, place) - 1)]

    def heading(self, place: int) -> tuple[str, ...]:
        """Return the headings above a place."""
        return self._block(place).heading

    def kind(self, end: int) -> str:
        """Return what stands before a place."""
        return self._block(end - 1).kind

    def inside(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the blocks, or parts of them, in a span; a heading together with the block below it."""
        held: int | None = None
        first = max(0, bisect_right(self._starts, start) - 1)
        for block in self.blocks[first:]:
            begin, behind = max(block.start, start), min(block.end, end)
            if begin >= end:
                break
            if behind <= begin:
                continue
            if block.kind == "heading" and behind < end:
                held = begin if held is None else held
                continue
            yield (begin if held is None else held), behind
            held = None
        if held is not None:
            yield held, end

    def equal_parts(self, most: int, overlap: int) -> Iterator[DocumentChunk]:
        """Yield the whole text in parts of ``most`` tokens, each with the last ``overlap`` of the one before; words stay whole."""
        first, count = 0, len(self._tokens)
        end = self.blocks[-1].end
        while first < count:
            behind = self._word(first + most, above=first + overlap)
            yield from self.cut(
                self._tokens[first] if first else self.blocks[0].start, self._at(behind, end), ()
            )
            first = count if behind >= count else self._word(behind - overlap, above=first, below=behind)

    def _at(self, token: int, end: int) -> int:
        return self._tokens[token] if token < len(self._tokens) else end

    def _word(self, token: int, above: int, below: int = 0) -> int:
        """Return the last token up to this one, and behind ``above``, that begins a word; else the first up to ``below``; else it."""
        token = min(token, len(self._tokens))
        places = (*range(token, above, -1), *range(token, below + 1))
        return next(filter(self._begins_word, places), token)

    def _begins_word(self, token: int) -> bool:
        if token >= len(self._tokens):
            return True
        place = self._tokens[token]
        return not self.text[place - 1 : place + 1].isalnum()

    def cut(self, start: int, end: int, cuts: Sequence[int]) -> Iterator[DocumentChunk]:
        """Yield a span divided at these places."""
        edges = [start, *(place for place in cuts if start < place < end), end]
        for begin, behind in pairwise(edges):
            first, last = trim(self.text, begin, behind)
            if last > first:
                yield DocumentChunk(first, last)


def _together(parts: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield blocks in groups of about a megabyte: what is known of a token takes a hundred times its letters."""
    group: list[Block] = []
    for part in parts:
        group.append(part)
        if part.end - group[0].start > GROUP:
            yield group
            group = []
    if group:
        yield group


@cache
def words_and_signs() -> Tokenizer:
    """Return a tokenizer for which each word and each row of signs is a token: where there is no embedder to ask."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106 - a token of language
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def _spanned(begins: Sequence[int], parts: Sequence[Block]) -> Iterator[DocumentChunk]:
    """Yield spans of whole blocks, of which the first and those at these places begin one."""
    edges = sorted({0, *begins, len(parts)})
    for first, behind in pairwise(edges):
        yield DocumentChunk(parts[first].start, parts[behind - 1].end)


def sentence_starts(text: str, start: int, end: int) -> list[int]:
    """Return where the sentences of a span begin, but for the first."""
    return [
        gap.end()
        for gap in _SENTENCE_END.finditer(text, start, end)
        if not _ABBREVIATED.search(text[max(start, gap.start() - 10) : gap.start()])
    ]


def _on_page(chunk: DocumentChunk, pages: Sequence[int]) -> DocumentChunk:
    return replace(chunk, page=bisect_right(pages, chunk.start)) if pages else chunk
