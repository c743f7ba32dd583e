"""Answers of a model that cannot share a step, one after the other, one token a step.

State-space models, sliding windows and whatever keeps more than keys and values of every token: what makes a batch of the
others (``row_cache``) does not hold for them. A long answer holds the next one of the same model up, and nobody else.
"""

import inspect
from collections import deque
from typing import Any

import torch
from torch import Tensor

from lorad.serving.backends.interface import Generation
from lorad.serving.backends.sampling import Chooser, logprobs

KEPT_AS = ("past_key_values", "cache_params", "state")
"""What transformers' models call what they keep of the tokens before, in what they return and in what they take."""


class Solo:
    """The answers of one model, one at a time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._waiting: deque[Generation] = deque()
        self._answer: _Answer | None = None
        self.bytes = 0

    def submit(self, generation: Generation) -> None:
        """Take one more answer."""
        self._waiting.append(generation)

    @property
    def is_idle(self) -> bool:
        """Tell whether there is nothing to do."""
        return self._answer is None and not self._waiting

    @property
    def active(self) -> int:
        """Count the answers that have begun and not ended: one, or none."""
        return int(self._answer is not None)

    def step(self) -> int:
        """Read a prompt and make its answer's first token, or make the next token; return how many tokens were made."""
        generation = self._waiting.popleft() if self._answer is None else self._answer.generation
        sink, made = generation.sink, 0
        try:
            if sink.is_wanted:
                self._answer = self._answer or _Answer(self._model, generation)
                goes_on, made = self._answer.go_on(), 1
                if goes_on:
                    return made
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; a panic of Rust's is no Exception
            sink.end(error)
        else:
            sink.end()
        self._answer = None
        return made


class _Answer:
    """An answer on its way, and what the model keeps of its tokens."""

    def __init__(self, model: Any, generation: Generation) -> None:
        self.generation = generation
        self._model = model
        self._chooser = Chooser(generation.sampling)
        self._tokens = list(generation.prompt)
        self._kept: dict[str, Any] = {}
        takes = inspect.signature(model.forward).parameters
        wanted = {"use_cache": True, "logits_to_keep": 1}
        self._how = {name: value for name, value in wanted.items() if name in takes}

    @torch.inference_mode()
    def go_on(self) -> bool:
        """Make the next token and hand it on; return whether more are wanted."""
        logits = self._logits()
        token = self._chooser.choose(logits)
        self._tokens.append(token)
        return self.generation.sink.put([token], logprobs(logits, token, self.generation.sampling))

    def _logits(self) -> Tensor:
        """Put through the model what it has not kept yet; return the logits behind that, [V].

        A model that keeps nothing reads all of it every time.
        """
        unread = self._tokens[-1:] if self._kept else self._tokens
        made = self._model(
            input_ids=torch.tensor([unread], device=self._model.device),
            return_dict=True,
            **self._kept,
            **self._how,
        )
        self._kept = {name: made[name] for name in KEPT_AS if made.get(name) is not None}
        logits: Tensor = made.logits[0, -1]
        return logits
