"""How well spectra and molecules match: a SMILES encoder that stays as it is, and one transformer over peaks and molecule.

What lives here: the network and its inputs as tensors. What never does: chemistry, files, what a row is (``tasks.spectra``).

    SMILES tokens -> ALBERT (frozen, kept by molecule) -> projection of its masked-LM head (LoRA) -> what the peaks look at
    precursor and peaks -> Fourier features of m/z, loss and intensity, and what breaking bonds explains -> fusion -> evidence

Untrained, the evidence is what is known without any spectra: a peak is explained by a fragment or not, a precursor is near the
molecule's mass or not. What is learned is added to that.

The evidence of each peak is a number of its own, and a match is the evidence of the precursor plus that of all peaks, weighted by
their intensity: so that an answer is exactly the sum of what is told of its peaks.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AlbertForMaskedLM

from lorad.models.heads import Head

WIDTH, LAYERS, ATTENTION_HEADS = 128, 2, 4
#: Wavelengths of the Fourier features, in Da, from a hundredth to the whole range.
WAVES = torch.logspace(-1.7, 3.3, 24, dtype=torch.float64)
INTENSITY_WAVES = torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
PEAK_FEATURES = 4 * len(WAVES) + 2 * len(INTENSITY_WAVES) + 3
PAIR_FEATURES = 9
"""What is known of a peak and a molecule together; made by ``tasks.spectra``."""
#: What an untrained model makes of them, in nats: of a sharp peak that two broken bonds explain or fewer, and of a precursor that lies
#: off by so many of its own errors (a Cauchy distribution's logarithm, whose scale ``tasks.spectra`` has).
KNOWN_EVIDENCE = {3: 6.0, 8: 10.0}
KEPT_TOKENS = 200_000
"""Tokens whose encoding is kept, 1 KB each, of the molecules that were asked for last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """R spectra of up to P peaks, the precursor first, on the CPU."""

    mzs: Tensor
    """[R, P] float64; 0 for what is not told."""
    losses: Tensor
    """[R, P] float64: precursor minus m/z; 0 where there is no precursor."""
    intensities: Tensor
    """[R, P] float64: square roots, relative to the largest; 0 for the precursor."""
    seen: Tensor
    """[R, P] bool: what is a peak and no padding."""


def features(peaks: Peaks) -> Tensor:
    """Return the features of peaks [R, P, PEAK_FEATURES], float32.

    Sines and cosines at wavelengths of 0.02 to 2000 Da (Voronov et al. 2022 use such for spectra; 0.0025 to 8000 there). Phases
    are taken in float64: in float32 a large m/z would have none.
    """
    angles = 2 * torch.pi * torch.cat([peaks.mzs[..., None] / WAVES, peaks.losses[..., None] / WAVES], -1)
    strengths = torch.pi * peaks.intensities[..., None] / INTENSITY_WAVES
    is_precursor = torch.zeros_like(peaks.mzs)
    is_precursor[:, 0] = 1
    both = [
        angles.sin(),
        angles.cos(),
        strengths.sin(),
        strengths.cos(),
        peaks.intensities[..., None],
        peaks.mzs[..., None] / 1000,
        is_precursor[..., None],
    ]
    return torch.cat(both, -1).float()


class Fusion(nn.Module):
    """One transformer over the peaks of spectra and the tokens of their candidates: learned in full, kept with each version."""

    def __init__(self, tokens_width: int) -> None:
        super().__init__()
        self.peaks = nn.Linear(PEAK_FEATURES, WIDTH)
        self.pairs = nn.Linear(PAIR_FEATURES, WIDTH)
        self.molecules = nn.Linear(tokens_width, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                WIDTH, ATTENTION_HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.evidence = nn.Linear(WIDTH + PAIR_FEATURES, 1)  # last: what a temperature divides
        self.begin()

    def begin(self) -> None:
        """Let evidence be what is known without spectra."""
        with torch.no_grad():
            self.evidence.weight.zero_()
            self.evidence.bias.zero_()
            for feature, nats in KNOWN_EVIDENCE.items():
                self.evidence.weight[0, WIDTH + feature] = nats

    def forward(
        self, peaks: Tensor, pairs: Tensor, unseen: Tensor, molecules: Tensor, unread: Tensor
    ) -> Tensor:
        """Return the evidence [N, P] of N pairs.

        Peaks [N, P, PEAK_FEATURES], pairs [N, P, PAIR_FEATURES], ``unseen`` [N, P] and ``unread`` [N, S] True for padding, and
        molecules [N, S, width].
        """
        state = self.peaks(peaks) + self.pairs(pairs)
        memory = self.molecules(molecules.float())
        for layer in self.layers:
            state = layer(state, memory, tgt_key_padding_mask=unseen, memory_key_padding_mask=unread)
        found: Tensor = self.evidence(torch.cat([self.norm(state), pairs], -1))[..., 0]
        return found.masked_fill(unseen, 0.0)


class _Kept:
    """Encodings of molecules, which copies of a model share: no version changes its encoder."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._tokens = 0

    def __deepcopy__(self, memo: Any) -> "_Kept":
        del memo
        return self

    def get(self, tokens: tuple[int, ...]) -> Tensor | None:
        if (found := self._states.get(tokens)) is not None:
            self._states.move_to_end(tokens)
        return found

    def put(self, tokens: tuple[int, ...], state: Tensor) -> None:
        self._states[tokens] = state
        self._tokens += len(tokens)
        while self._tokens > KEPT_TOKENS and len(self._states) > 1:
            old, _ = self._states.popitem(last=False)
            self._tokens -= len(old)


class SpectrumMatcher(AlbertForMaskedLM):
    """A masked language model of SMILES with a fusion on it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.fusion = Fusion(config.embedding_size)
        self._kept = _Kept()
        self.post_init()

    def forward(self, peaks: Peaks, pairs: Tensor, candidates: Sequence[Sequence[tuple[int, ...]]]) -> Tensor:
        """Return the evidence [N, P] of each spectrum's candidates, one pair after another; pairs [N, P, PAIR_FEATURES]."""
        device = self.device
        wanted = list(dict.fromkeys(tokens for each in candidates for tokens in each))
        places = {tokens: at for at, tokens in enumerate(wanted)}
        states = pad_sequence([self._encoded(tokens) for tokens in wanted], batch_first=True)
        read = self.predictions.LayerNorm(self.predictions.activation(self.predictions.dense(states)))
        lengths = torch.tensor([len(tokens) for tokens in wanted], device=device)
        unread = torch.arange(states.shape[1], device=device)[None] >= lengths[:, None]
        owners = torch.tensor([row for row, each in enumerate(candidates) for _ in each])
        asked = torch.tensor([places[tokens] for each in candidates for tokens in each], device=device)
        found: Tensor = self.fusion(
            features(peaks)[owners].to(device),
            pairs.to(device),
            ~peaks.seen[owners].to(device),
            read[asked],
            unread[asked],
        )
        return found

    def train(self, mode: bool = True) -> Self:
        """Switch to training or answering; the encoder always answers: it is not trained, and dropout would be kept."""
        super().train(mode)
        self.albert.train(mode=False)
        return self

    def _encoded(self, tokens: tuple[int, ...]) -> Tensor:
        """Return the encoder's last states of a molecule [S, hidden], alone: the same whatever else is asked."""
        found = self._kept.get(tokens)
        if found is None:
            # what is made while questions are answered is trained with later, which inference mode forbids
            with torch.inference_mode(mode=False), torch.no_grad():
                given = torch.tensor([tokens], device=self.device)
                found = self.albert(input_ids=given).last_hidden_state[0]
            self._kept.put(tokens, found)
        return found


def _fresh(model: Any, outputs: int) -> nn.Module:
    del outputs  # one evidence, whatever it is called
    return Fusion(model.config.embedding_size)


MATCHER = Head(
    name="spectra",
    loads=SpectrumMatcher,
    task_type=None,
    parts=("fusion",),
    layers=("predictions.dense",),
    make=_fresh,
)
