"""What arrives at a model's linear layers, as second moments: how much of each direction, and which go together.

What lives here: adding them up over rows. What never does: which rows, and what follows from them (``adapters.attenuate``).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorad.models import adapters, scoring
from lorad.models.packing import Pack, divide, pack
from lorad.records import Encoded

TOGETHER_BYTES = 1 << 30
"""Of moments that are held at once: rows are read as often as there are such parts of a model."""
PASS_TOKENS = 1024
NUMBER_BYTES = 8


def parts(model: nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    """Divide modules, in the model's order, so that the moments of rows and texts for each part are held at once."""
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    part: list[str] = []
    taken = 0
    for name in sorted(names, key=lambda name: order.get(name, 0)):
        needs = 2 * NUMBER_BYTES * adapters.linear(model, name, wrapped=True).in_features ** 2
        if part and taken + needs > TOGETHER_BYTES:
            yield part
            part, taken = [], 0
        part.append(name)
        taken += needs
    if part:
        yield part


@torch.inference_mode()
def of_rows(
    model: Any, names: Sequence[str], rows: Sequence[Encoded], tell: Callable[[int], object] = lambda _: None
) -> dict[str, Tensor]:
    """Return the mean of ``x x^T`` over the tokens of rows that share a prefix, [in, in] float64 on the CPU, by module.

    ``tell`` how many rows were read. Modules that are given the same input share its tensor.
    """
    return _add_up(model, names, rows, pack, tell)


@torch.inference_mode()
def of_texts(model: Any, names: Sequence[str], texts: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return the same of texts that have nothing to do with one another."""
    return _add_up(model, names, texts, lambda some: pack([], some), lambda _: None)


def _add_up(
    model: Any,
    names: Sequence[str],
    rows: Sequence[Encoded],
    packed: Callable[[Sequence[Encoded]], Pack],
    tell: Callable[[int], object],
) -> dict[str, Tensor]:
    sums = _Sums()
    done = 0
    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(sums.adding(name)).remove)
        for numbers in divide(rows, PASS_TOKENS):
            scoring.answer_logits(model, packed([rows[number] for number in numbers]))
            done += len(numbers)
            tell(done)
    return sums.means()


class _Sums:
    """Sums of products of inputs; a tensor that several modules are given is multiplied once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._first: dict[str, str] = {}
        """By module: the one that is given the same before it, or itself."""
        self._last: tuple[Tensor | None, str] = (None, "")

    def adding(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_module: nn.Module, given: tuple[Any, ...]) -> None:
            (inputs, *_) = given
            if inputs is self._last[0]:
                self._first[name] = self._last[1]
                return
            self._last = inputs, name
            self._first[name] = name
            flat = inputs.reshape(-1, inputs.shape[-1])
            # of a few inputs that are a thousand times the others, sums in float32 are not positive definite any more
            flat = (flat.cpu() if flat.device.type == "mps" else flat).double()
            product = (flat.T @ flat).cpu()
            self._sums[name] = self._sums[name] + product if name in self._sums else product
            self._tokens[name] = self._tokens.get(name, 0) + len(flat)

        return add

    def means(self) -> dict[str, Tensor]:
        self._last = (None, "")
        means = {name: total / self._tokens[name] for name, total in self._sums.items()}
        return {name: means[first] for name, first in self._first.items()}
