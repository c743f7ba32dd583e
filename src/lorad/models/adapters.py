"""The exact arithmetic of adapters.

    W_t = W_0 + sum_i s_i B_i A_i

An adapter is held as factors with the scale already in B, so that ``delta = B A`` and nothing else has to be known; a
classifier's also has its head, whole. Concatenating ranks adds deltas exactly, and of two heads the newer one counts; adding them into a weight happens once, in fp32, and is cast once. Weights that
are quantised are never merged into: merge first, quantise once. What never lives here: files (``peft_io``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lorad.errors import RegistryError
from lorad.models import quantized
from lorad.models.bases import HARMLESS

TEXTS_WEIGHT = 0.2
"""What general texts weigh beside taught rows, a token each, where an adapter is attenuated (decision 100)."""
RARELY = 1e-3
"""Of what usually arrives at an input (the median), that is added to what arrives with rows: what hardly ever arrives does not grow."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA as factors: module name -> (A [rank, in], B [out, rank]), fp32, the scale already in B."""

    factors: dict[str, tuple[Tensor, Tensor]]
    head: dict[str, Tensor] = field(default_factory=dict)
    """All tensors of the head that was trained with it, by their names in the model; none for a base's own head."""
    labels: tuple[str, ...] = ()
    """What that head's outputs are, in order."""
    problem_type: str | None = None
    """What they say together: ``multi_label_classification``, or ``None`` where one of them is right."""
    splits_words: bool = False
    """Whether it was taught spans that begin or end inside words."""

    @property
    def rank(self) -> int:
        """Return the largest rank of any module."""
        return max((a.shape[0] for a, _ in self.factors.values()), default=0)

    @property
    def parameters(self) -> int:
        """Count its numbers, those of a head included."""
        factors = chain.from_iterable(self.factors.values())
        return sum(tensor.numel() for tensor in (*factors, *self.head.values()))

    def delta(self, module: str) -> Tensor:
        """Return ``B A`` [out, in] of one module, fp32."""
        a, b = self.factors[module]
        return b @ a

    def is_finite(self) -> bool:
        """Tell whether every number is finite."""
        numbers = chain(*self.factors.values(), self.head.values())
        return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)


def concatenate(parent: Adapter | None, fresh: Adapter) -> Adapter:
    """Return the adapter whose delta is the sum of both: ranks side by side, exact; with the fresh one's head."""
    if parent is None:
        return fresh
    factors = {}
    for name in sorted({*parent.factors, *fresh.factors}):
        parts = [adapter.factors[name] for adapter in (parent, fresh) if name in adapter.factors]
        factors[name] = (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1))
    return replace(fresh, factors=factors)


def consolidate(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """Return the best adapter of at most ``rank``, and the relative Frobenius error over all modules.

    Thin QR of both factors, SVD of the small core, truncate (Eckart and Young 1936): no full-size delta is
    ever formed.
    """
    factors = {}
    lost = total = 0.0
    for name, (a, b) in adapter.factors.items():
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        kept = min(rank, s.numel())
        root = s[:kept].sqrt()
        factors[name] = ((root[:, None] * (vh[:kept] @ q_a.T)).float(), ((q_b @ u[:, :kept]) * root).float())
        lost += float((s[kept:] ** 2).sum())
        total += float((s**2).sum())
    return replace(adapter, factors=factors), (lost / total) ** 0.5 if total else 0.0


def attenuate(
    adapter: Adapter,
    of_rows: Mapping[str, Tensor],
    of_texts: Mapping[str, Tensor],
    rank: int,
    weight: float = TEXTS_WEIGHT,
) -> tuple[Adapter, float]:
    """Return the adapter of at most ``rank`` that says of rows what this one says, and changes other texts the least.

    ``of_rows`` and ``of_texts`` are what arrives at each module, as second moments [in, in] F and G (``second_moments``). Of all deltas
    D' of this rank it has the one with the least ``|(D' - D) F^1/2|^2 + weight |D' G^1/2|^2``: ridge regression, of which general texts
    are the ridge (as in MEMIT, Meng et al. 2023, eq. 14), and truncation where inputs weigh what they are (SVD-LLM, Wang et al. 2024).
    A little of each direction is added to F, so that where hardly anything arrives the adapter stays as it is. The error is that of what it says of the rows, relative (Frobenius).
    """
    factors = {}
    lost = total = 0.0
    for name, pair in adapter.factors.items():
        a, b = (factor.double() for factor in pair)
        arriving, disturbed = of_rows[name].double(), of_texts[name].double()
        kept, weighed = arriving.clone(), arriving + weight * disturbed
        # what hardly arrives with either is nobody's: there the adapter stays as it is
        lift = RARELY * usual(weighed)
        for moments in (kept, weighed):
            moments.diagonal().add_(lift)
        root = torch.linalg.cholesky(weighed)
        best = torch.cholesky_solve(kept @ a.T, root).T
        q_b, r_b = torch.linalg.qr(b)
        q_a, r_a = torch.linalg.qr((best @ root).T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        few = min(rank, s.numel())
        scale = s[:few].sqrt()
        seen = scale[:, None] * (vh[:few] @ q_a.T)
        new_a = torch.linalg.solve_triangular(root.T, seen.T, upper=True).T
        new_b = (q_b @ u[:, :few]) * scale
        factors[name] = (new_a.float(), new_b.float())
        lost += _energy(torch.cat([new_a, a]), torch.cat([new_b, -b], dim=1), arriving)
        total += _energy(a, b, arriving)
    return replace(adapter, factors=factors), (max(0.0, lost) / total) ** 0.5 if total else 0.0


def usual(moments: Tensor) -> Tensor:
    """Return what usually arrives at an input that is not dead: the median, which a few that have a thousand times that do not move."""
    own = moments.diagonal()
    return own[own > 0].median() if bool((own > 0).any()) else torch.ones_like(own[0])


def _energy(a: Tensor, b: Tensor, moments: Tensor) -> float:
    """Return ``|B A M^1/2|^2`` of factors for inputs with these second moments M."""
    return float(((b.T @ b) * (a @ moments @ a.T)).sum())


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter) -> float:
    """Add an adapter into a pristine model's weights in fp32, cast once; return the largest relative cast error.

    Its head is not put in: that is replaced whole (``heads.put``). Raise ``RegistryError`` where a weight is quantised.
    """
    worst = 0.0
    for name, (a, b) in adapter.factors.items():
        layer = linear(model, name)
        if quantized.is_quantized(layer):
            raise RegistryError(
                f"{name} is quantised, and nothing is merged into quantised weights: what was learned would be rounded away",
                code="quantized",
            )
        weight = layer.weight
        exact = weight.float() + (b @ a).to(weight.device)
        weight.copy_(exact.to(weight.dtype))
        worst = max(worst, float((weight.float() - exact).norm() / exact.norm().clamp_min(1e-30)))
    return worst


def difference(one: Adapter, other: Adapter) -> float:
    """Return the largest difference between two adapters' numbers; infinite when they differ in shape.

    Both are compared at the rank that they are written with: rows of zeros change nothing.
    """
    if (one.factors.keys(), one.head.keys()) != (other.factors.keys(), other.head.keys()):
        return math.inf
    rank = max(one.rank, other.rank)
    pairs = [(tensor, other.head[name]) for name, tensor in one.head.items()]
    for name, pair in one.factors.items():
        pairs += zip(padded(pair, rank), padded(other.factors[name], rank), strict=True)
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        return math.inf
    return max((float((mine - theirs).abs().max()) for mine, theirs in pairs), default=0.0)


def check_fit(adapter: Adapter, model: Any) -> None:
    """Raise ``RegistryError`` when an adapter changes what this base does not have, or what it uses twice."""
    tied = model.get_input_embeddings().weight
    for name, (a, b) in adapter.factors.items():
        layer = linear(model, name)
        if (a.shape[1], b.shape[0]) != (layer.in_features, layer.out_features):
            raise RegistryError(f"{name} has another shape than in the base model", code="wrong_base")
        if layer.weight is tied:
            raise RegistryError(
                f"the adapter changes {name}, whose weights this base model also uses as its embedding; an adapter "
                "can be merged into one of both alone, so train it again without that layer",
                code="adapter_kind",
            )


def complete(adapter: Adapter, model: nn.Module) -> Adapter:
    """Return an adapter with zeros for each layer that it passes by and that is named like one of its own.

    A version names its layers by their last names, so that PEFT looks for weights for all of these.
    """
    named = {name.rpartition(".")[2] for name in adapter.factors}
    passed_by = {
        name: (torch.zeros(adapter.rank, module.in_features), torch.zeros(module.out_features, adapter.rank))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in named
    }
    return Adapter(passed_by | adapter.factors)


@torch.no_grad()
def subtract(tensors: dict[str, Tensor], base: nn.Module, rank: int) -> tuple[Adapter, float]:
    """Return what a whole model has learned beyond its base, as an adapter, and the relative Frobenius error.

    Only linear layers may differ; raise ``RegistryError`` naming what else does. The truncated SVD is randomised
    (Halko et al. 2011, 4 power iterations), so that no layer is ever decomposed whole.
    """
    factors = {}
    lost = total = 0.0
    ours = base.state_dict()
    if strange := sorted(name for name in tensors.keys() - ours.keys() if not HARMLESS.search(name)):
        raise RegistryError(
            f"the model has {strange[0]}, which its base lacks; add it as a base of its own with: lorad base add",
            code="wrong_base",
        )
    for name, weight in ours.items():
        if name not in tensors:
            if name in tied(base):  # not stored twice
                continue
            raise RegistryError(f"the model lacks {name}, which its base has", code="wrong_base")
        if tensors[name].shape != weight.shape:
            raise RegistryError(f"{name} has another shape than in the base model", code="wrong_base")
        delta = tensors[name].float() - weight.float()
        if not delta.abs().max() > 0:
            continue
        module = name.removesuffix(".weight")
        if (
            not name.endswith(".weight")
            or not isinstance(base.get_submodule(module), nn.Linear)
            or name == "lm_head.weight"
        ):
            raise RegistryError(
                f"the model differs from its base in {name}, which no LoRA adapter can represent; add it as a base "
                "of its own with: lorad base add",
                code="not_a_lora",
            )
        u, s, v = torch.svd_lowrank(delta, q=min(rank + 8, *delta.shape), niter=4)
        kept = min(rank, s.numel())
        root = s[:kept].sqrt()
        factors[module] = ((v[:, :kept] * root).T.contiguous(), (u[:, :kept] * root).contiguous())
        lost += float((delta - factors[module][1] @ factors[module][0]).pow(2).sum())
        total += float(delta.pow(2).sum())
    if not factors:
        raise RegistryError("the model equals its base: there is nothing to add", code="nothing_new")
    return Adapter(factors), (lost / total) ** 0.5


def tied(model: nn.Module) -> set[str]:
    """Return the names of weights that a model's files may leave out, because another name stands for the same ones."""
    return set(getattr(model, "all_tied_weights_keys", ()))


def linear(model: nn.Module, name: str, *, wrapped: bool = False) -> nn.Linear:
    """Return a layer by name; ``wrapped`` also where PEFT has put its own around it."""
    try:
        module = model.get_submodule(name)
        module = getattr(module, "base_layer", module) if wrapped else module
    except AttributeError:
        raise RegistryError(
            f"the adapter changes {name}, which this base model does not have", code="wrong_base"
        ) from None
    if not isinstance(module, nn.Linear):
        raise RegistryError(
            f"the adapter changes {name}, which is not a linear layer here", code="wrong_base"
        )
    return module


def padded(pair: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return a layer's factors with zero rows up to a rank: PEFT wants one rank for all layers."""
    a, b = pair
    short = rank - a.shape[0]
    return nn.functional.pad(a, (0, 0, 0, short)), nn.functional.pad(b, (0, short))
