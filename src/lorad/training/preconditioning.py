"""Steps that leave alone what old rows have in common. What a fresh adapter learns goes to inputs that tell its rows from others.

What lives here: the change of variables under which an adapter's A is learned. What never does: reading rows (``second_moments``), the
optimizer's settings (``trainer``).

With F the second moments of what arrives at a layer with old rows, and d what is usual of one input, A is learned as ``T R``, where
``R^T R = (F + d 1)^-1``: the same as to learn with whitened inputs, or to scale the gradient of A by the inverse of F, which is the side
of the inputs in K-FAC (Martens and Grosse 2015, section 3). A step along what all rows have in common would change the answers of
all; it becomes small, and one along what is rare becomes large.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorad.models import adapters

PREFIX = "base_model.model."
SUFFIX = ".lora_A.default.weight"


class Preconditioner:
    """The variables that an optimizer learns in place of each A, and how they become these."""

    def __init__(self, model: Any, roots: Mapping[str, Tensor]) -> None:
        """``roots`` are those of a PEFT model's linear layers [in, in], by their names in the base; others learn A itself."""
        self._of: dict[str, tuple[Tensor, nn.Parameter, Tensor, float]] = {}
        for name, weight in model.named_parameters():
            root = roots.get(name.removeprefix(PREFIX).removesuffix(SUFFIX))
            if root is None or not name.endswith(SUFFIX) or not weight.requires_grad:
                continue
            root = root.to(weight)
            begun = weight.detach() @ root
            scale = float(weight.detach().norm() / begun.norm())  # A begins as large as it would without
            self._of[name] = (weight, nn.Parameter(weight.detach().clone()), root, scale)
        self.apply()

    def replaced(self, weight: Tensor) -> Tensor:
        """Return what is learned in place of a weight, or itself."""
        return next((made for own, made, *_ in self._of.values() if own is weight), weight)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of the replaced variables have their gradients, and the model what they become."""
        optimizer.register_step_pre_hook(lambda *_: self._hand_over())
        optimizer.register_step_post_hook(lambda *_: self.apply())

    @torch.no_grad()
    def apply(self) -> None:
        """Put into the model what its weights are now."""
        for weight, made, root, scale in self._of.values():
            weight.copy_(scale * made @ root)

    def state(self) -> dict[str, Tensor]:
        """Return the variables by their weights' names: A alone does not give them back to the bit."""
        return {name: made.detach() for name, (_, made, *_) in self._of.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Stand where ``state`` was taken."""
        for name, (_, made, *_) in self._of.items():
            made.copy_(state[name])
        self.apply()

    def _hand_over(self) -> None:
        for weight, made, root, scale in self._of.values():
            if weight.grad is not None:
                made.grad, weight.grad = scale * weight.grad @ root.T, None


def roots(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the root of each module's moments, in float32; modules that share these share it."""
    made: dict[int, Tensor] = {}
    for of in moments.values():
        if id(of) not in made:
            made[id(of)] = _root(of).float()
    return {name: made[id(of)] for name, of in moments.items()}


def _root(moments: Tensor) -> Tensor:
    """Return R [in, in] with ``R^T R = (F + d 1)^-1``, d what usually arrives at one input."""
    usual = adapters.usual(moments)
    one = torch.eye(len(moments), dtype=moments.dtype)
    found: Tensor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(moments + usual * one), one, upper=False
    )
    return found
