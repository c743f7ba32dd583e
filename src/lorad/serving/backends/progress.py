"""An answer on its way, in a backend that chooses its tokens itself.

What lives here: what it has read and said, and how the next token is chosen and handed on. What never does: models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lorad.errors import ProtocolError
from lorad.models.packing import common_prefix
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.sampling import Chooser, logprobs

SHORTEST_PREFIX = 128
"""Tokens that a prompt must have in common with the one before it, for these to be taken over. In bfloat16 it is rounded
otherwise then: of 100 ordinary prompts, asked twice, 7 short ones got another answer the second time for it."""
PREFIX_SHARE = 8
"""The prompt that is kept takes at most one part in so many of what all answers may take."""


def check_prompt(prompt: Sequence[int], vocabulary: int) -> None:
    """Raise ``ProtocolError`` for a prompt that a model with so many tokens cannot read, or that is empty."""
    if not prompt or min(prompt) < 0 or max(prompt) >= vocabulary:
        raise ProtocolError("the prompt holds a token that the model does not have", code="bad_prompt")


@dataclass(slots=True, eq=False)
class Progress:
    """An answer on its way."""

    generation: Generation
    tokens: list[int] = field(init=False)
    """Of the prompt and of the answer so far."""
    chooser: Chooser = field(init=False)
    is_new: bool = field(init=False, default=True)
    """Whether its tokens are still the prompt alone."""

    def __post_init__(self) -> None:
        self.tokens = list(self.generation.prompt)
        self.chooser = Chooser(self.generation.sampling)

    def begins_as(self, kept: Sequence[int]) -> int:
        """Return how many tokens need not be read, for a kept prompt begins with them; 0 where they are few.

        The last token is read in any case, for what follows it.
        """
        common = common_prefix([kept, self.tokens[:-1]])
        return common if common >= SHORTEST_PREFIX else 0

    def say(self, token: int, logits: Tensor) -> bool:
        """Hand on a token that was chosen from logits, [V]; return whether the answer goes on.

        What goes wrong there ends this answer alone.
        """
        self.tokens.append(token)
        self.is_new = False
        try:
            if self.generation.sink.put([token], logprobs(logits, token, self.generation.sampling)):
                return True
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; a panic of Rust's is no Exception
            self.generation.sink.end(error)
        else:
            self.generation.sink.end()
        return False

    def say_next(self, logits: Tensor, likeliest: int) -> bool:
        """Choose the next token for its logits, [V], and hand it on, as ``say`` does."""
        try:
            token = likeliest if self.chooser.takes_likeliest else self.chooser.choose(logits)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; a panic of Rust's is no Exception
            self.generation.sink.end(error)
            return False
        return self.say(token, logits)
