"""Answers of one version that llama.cpp generates together: one batch a step, whatever it holds.

What lives here: when a request begins, pieces of its prompt beside the others' next tokens, its cells, its end. What never
does: which model a version is (``backend``), the library (``binding``), text.

    waiting ─► a slot: a piece of the prompt a step ─► one token a step ─► ended
       ▲                        │                            │
       └─────────── no cells are free ◄──────────────────────┘
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lorad.errors import ProtocolError
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.llamacpp.binding import Context, NoRoomError, Piece
from lorad.serving.backends.progress import PREFIX_SHARE, SHORTEST_PREFIX, Progress, check_prompt
from lorad.serving.backends.reading_pace import ReadingPace


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is done together."""

    rows: int
    """Answers that share a step."""
    prompt_tokens: int
    """Tokens of prompts in a step, at most; see ``reading_pace``."""
    cells: int
    """Tokens of prompts and answers that have keys and values at a time."""

    @property
    def sequences(self) -> int:
        """Count the sequences that a context must have: one of them holds the prompt that is kept."""
        return self.rows + 1

    @property
    def batch(self) -> int:
        """Count the tokens that a step has at most."""
        return self.rows + self.prompt_tokens


@dataclass(slots=True, eq=False)
class _Row(Progress):
    """An answer on its way."""

    slot: int = field(init=False, default=-1)
    """The sequence that it has in the context."""
    read: int = field(init=False, default=0)
    """Tokens that are in the context."""


class Slots:
    """The answers of one version, in one context of its own: nothing there can be another version's."""

    def __init__(
        self,
        context: Context,
        vocabulary: int,
        limits: Limits,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._limits = limits
        self._pace = ReadingPace(limits.prompt_tokens, clock)
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._free = list(range(limits.rows))
        self._kept: list[int] = []
        """The prompt that was read last, or its beginning; most begin alike (a system prompt, the conversation so far)."""
        self._keeper = limits.rows

    def submit(self, generation: Generation) -> None:
        """Take one more answer; raise ``ProtocolError`` for a prompt that the model cannot read."""
        check_prompt(generation.prompt, self._vocabulary)
        if len(generation.prompt) >= self._limits.cells:
            raise self._too_long(len(generation.prompt))
        self._waiting.append(_Row(generation))

    @property
    def is_idle(self) -> bool:
        """Tell whether there is nothing to do."""
        return not (self._rows or self._waiting)

    @property
    def active(self) -> int:
        """Count the answers that have begun and not ended."""
        return len(self._rows)

    def step(self) -> int:
        """Put a piece of the prompts and the last token of every answer through the model; return how many tokens came of it."""
        try:
            self._let_go()
            self._begin()
            return self._extend()
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; the next answers begin anew
            for row in self._rows:
                row.generation.sink.end(error)
            self._rows.clear()
            self._free = list(range(self._limits.rows))
            self._kept = []
            self._context.clear()
            return 0

    # -- beginning

    def _begin(self) -> None:
        while self._waiting and self._free and self._has_room(len(self._waiting[0].tokens)):
            row = self._waiting.popleft()
            row.slot = self._free.pop()
            self._rows.append(row)
            self._take_prefix(row)

    def _has_room(self, length: int) -> bool:
        if self._cells + length > self._limits.cells and self._kept:
            self._forget_kept()
        return not self._rows or self._cells + length <= self._limits.cells

    @property
    def _cells(self) -> int:
        """Count the cells that will be taken once all has been read: what is shared counts for each."""
        return len(self._kept) + sum(len(row.tokens) for row in self._rows)

    def _take_prefix(self, row: _Row) -> None:
        if common := row.begins_as(self._kept):
            self._context.copy(self._keeper, row.slot, common)
            row.read = common

    def _keep_prefix(self, row: _Row) -> None:
        length = min(row.read, self._limits.cells // PREFIX_SHARE)
        if length >= SHORTEST_PREFIX:
            self._forget_kept()
            self._context.copy(row.slot, self._keeper, length)
            self._kept = row.tokens[:length]

    def _forget_kept(self) -> None:
        self._context.forget(self._keeper)
        self._kept = []

    # -- going on

    def _extend(self) -> int:
        """Read what is next of every row, and make a token of those that are read to their end."""
        while self._rows:
            pieces = list(self._pieces())
            try:
                with self._pace.reading(sum(len(piece.tokens) for _, piece in pieces)):
                    logits = self._context.decode([piece for _, piece in pieces])
            except NoRoomError:
                self._give_way()
            else:
                break
        else:
            return 0
        made = 0
        for (row, piece), found in zip(pieces, logits, strict=True):
            row.read += len(piece.tokens)
            if piece.asked:
                made += 1
                if row.is_new:
                    self._keep_prefix(row)
                # by numpy, in this thread: a helper of torch's would wait awake while llama.cpp's compute
                if not row.say_next(found[0], int(found[0].numpy().argmax())):
                    self._leave(row)
        return made

    def _pieces(self) -> Iterator[tuple[_Row, Piece]]:
        is_anybody_answered = any(not row.is_new for row in self._rows)
        left = self._pace.tokens(are_others_waiting=is_anybody_answered)
        for row in self._rows:
            unread = len(row.tokens) - row.read
            size = unread
            if unread > 1:  # else it is the token that it said last
                size = min(unread, left)
                left -= size
            if size:
                tokens = row.tokens[row.read : row.read + size]
                yield row, Piece(sequence=row.slot, begin=row.read, tokens=tokens, asked=int(size == unread))

    def _give_way(self) -> None:
        """Free cells: the kept prompt's, or those of the answer that began last, which begins again later.

        What it has said stays said. An answer that fills all cells alone ends here.
        """
        if self._kept:
            self._forget_kept()
            return
        row = self._rows[-1]
        self._leave(row)
        if self._rows:
            row.read = 0
            self._waiting.appendleft(row)
        else:
            row.generation.sink.end(self._too_long(len(row.tokens)))

    def _too_long(self, length: int) -> ProtocolError:
        return ProtocolError(
            f"{length} tokens of prompt and answer do not fit: llama.cpp has room for {self._limits.cells} here; ask for less, or "
            "raise engine.max_cache_bytes",
            code="context_length_exceeded",
        )

    # -- ending

    def _let_go(self) -> None:
        """End what nobody waits for any more."""
        gone = [row for row in (*self._waiting, *self._rows) if not row.generation.sink.is_wanted]
        for row in gone:
            if row in self._waiting:
                self._waiting.remove(row)
            else:
                self._leave(row)
            row.generation.sink.end()

    def _leave(self, row: _Row) -> None:
        self._rows.remove(row)
        self._free.append(row.slot)
        self._context.forget(row.slot)
