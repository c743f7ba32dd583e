"""Answers of a model that cannot share a step, one after the other through transformers' ``generate``.

State-space models, sliding windows and whatever keeps more than keys and values of every token: what makes a batch of the
others (``row_cache``) does not hold for them. A long answer holds the next one up.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lorad.serving.backends.interface import Generation
from lorad.serving.backends.sampling import Chooser

ENDLESS = 2**31 - 1


class Solo:
    """The answers of one model, one at a time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._waiting: deque[Generation] = deque()
        self.active = 0
        self.bytes = 0

    def submit(self, generation: Generation) -> None:
        """Take one more answer."""
        self._waiting.append(generation)

    @property
    def is_idle(self) -> bool:
        """Tell whether there is nothing to do."""
        return not self._waiting

    def step(self) -> int:
        """Give one whole answer; return how many tokens it has."""
        generation = self._waiting.popleft()
        handed = _HandOn(generation)
        self.active = 1
        try:
            if generation.sink.is_wanted:
                self._generate(generation, handed)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            generation.sink.end(error)
        else:
            generation.sink.end()
        finally:
            self.active = 0
        return handed.count

    @torch.inference_mode()
    def _generate(self, generation: Generation, handed: "_HandOn") -> None:
        ids = torch.tensor([list(generation.prompt)], device=self._model.device)
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=generation.sampling.max_tokens or ENDLESS,
            eos_token_id=sorted(generation.ends),
            pad_token_id=min(generation.ends),
            do_sample=False,
            logits_processor=LogitsProcessorList([_Chosen(generation)]),
            stopping_criteria=StoppingCriteriaList([handed]),
        )


class _Chosen(LogitsProcessor):
    """Leave the token alone that a request's sampling chooses."""

    def __init__(self, generation: Generation) -> None:
        self._chooser = Chooser(generation.sampling)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        made = torch.full_like(scores, -torch.inf)
        made[0, self._chooser.choose(scores[0])] = 0
        return made


class _HandOn(StoppingCriteria):
    """Hand each token on, and stop where no more are wanted."""

    def __init__(self, generation: Generation) -> None:
        self._sink = generation.sink
        self.count = 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_kwargs: Any) -> Tensor:
        del scores
        self.count += 1
        is_enough = not self._sink.put([int(input_ids[0, -1])])
        return torch.tensor([is_enough], device=input_ids.device)
