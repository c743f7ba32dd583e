"""The one interface of all tasks."""

from collections.abc import Sequence
from typing import Any, Protocol

from lorad.records import Encoded, Example, Trial


class Task(Protocol):
    """What every task offers."""

    @property
    def name(self) -> str:
        """The word that settings and examples use."""

    @property
    def head(self) -> str:
        """The model head: ``causal`` predicts the next token."""

    @property
    def metric(self) -> str:
        """The name of the share that counts as right."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ``ConfigError`` when a base model's tokenizer cannot serve this task."""

    def trials(self, tokenizer: Any) -> Sequence[Trial]:
        """Return what trying a base model for this task has shown."""

    def encode(self, tokenizer: Any, example: Example) -> Encoded:
        """Return the tokens to train and test an example with, never truncated.

        Raise ``SampleError`` for an example whose answer ``text`` could not give back as it was taught.
        """

    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the tokens after which the model is to answer."""

    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the tokens that end an answer; the first is the one that is trained."""

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return a dropped example as it is learned; raise ``SampleError`` when ``encode`` would."""

    def text(self, tokenizer: Any, tokens: Sequence[int]) -> str:
        """Return the text that is served for an answer's tokens."""

    def show(self, example: Example) -> tuple[str, str]:
        """Return question and answer as one line of text each, for people."""
