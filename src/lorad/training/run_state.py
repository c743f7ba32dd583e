"""Everything that decides what a training run does next: what a checkpoint holds, and the best weights so far.

What never lives here: files (``checkpoint``), the loop (``trainer``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR

from lorad.training.checkpoint import Checkpoint, Checkpoints
from lorad.training.preconditioning import Preconditioner


class Kept(Protocol):
    """What stands somewhere, and can be put back there."""

    def state(self) -> Any:
        """Return where it stands, as JSON data."""

    def restore(self, state: Any) -> None:
        """Stand where ``state`` was taken."""


class Decider(Kept, Protocol):
    """What says how many rounds there were, which was best, and what ended them: recall, or a loss."""

    rounds: int
    best_round: int
    ended_by: str | None

    def return_to_best(self) -> None:
        """Know what was known after the best round."""


D = TypeVar("D", bound=Decider)


@dataclass(slots=True)
class Tally:
    """What a run has counted so far."""

    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    testing: float = 0.0
    seconds: float = 0.0
    """Spent up to the last checkpoint."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, loss: float, tokens: int) -> None:
        """Count one optimizer step."""
        self.losses.append(loss)
        self.tokens += tokens
        self.steps += 1


@dataclass(slots=True)
class RunState(Generic[D]):
    """A run between two rounds."""

    model: Any
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    rehearsal: D
    rounds: Kept
    tally: Tally
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The trained weights after the round that tested best."""
    preconditioner: Preconditioner | None = None
    """What is learned in place of some of them."""

    def keep(self) -> None:
        """Remember the weights as the best so far."""
        self.best = {name: weight.detach().clone() for name, weight in self._weights().items()}

    def return_to_best(self) -> None:
        """Put the best weights back."""
        self._put(self.best)
        self.rehearsal.return_to_best()

    def _put(self, found: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(found[name])

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint of the round that has ended."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"weight/{name}": weight.detach() for name, weight in self._weights().items()}
        tensors |= {f"best/{name}": weight for name, weight in self.best.items()}
        if self.preconditioner:
            tensors |= {f"variable/{name}": made for name, made in self.preconditioner.state().items()}
        for number, state in optimizer["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items()}
        state = {
            "optimizer": optimizer["param_groups"],
            "schedule": {
                name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"
            },
            "rehearsal": self.rehearsal.state(),
            "rounds": self.rounds.state(),
            "tally": {
                name: getattr(self.tally, name)
                for name in ("steps", "tokens", "testing", "seconds", "history")
            },
        }
        checkpoints.save(self.rehearsal.rounds, tensors, state)

    def restore(self, found: Checkpoint) -> None:
        """Stand where a checkpoint was written."""
        moments: dict[int, dict[str, torch.Tensor]] = {}
        kinds: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "best": {}, "variable": {}}
        for key, value in found.tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "optimizer":
                number, _, name = rest.partition("/")
                moments.setdefault(int(number), {})[name] = value
            else:
                kinds[kind][rest] = value
        self._put(kinds["weight"])
        if self.preconditioner:
            self.preconditioner.restore(kinds["variable"])
        self.best = kinds["best"]
        groups = [group | {"betas": tuple(group["betas"])} for group in found.state["optimizer"]]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(
            found.state["schedule"] | {"lr_lambdas": [None] * len(groups)}  # functions are not kept
        )
        self.rehearsal.restore(found.state["rehearsal"])
        self.rounds.restore(found.state["rounds"])
        for name, value in found.state["tally"].items():
            setattr(self.tally, name, value)
