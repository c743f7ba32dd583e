"""``lorad.serving.backends.llamacpp.binding`` without llama.cpp: a GGUF is answered by transformers, cells are counted."""

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from lorad.serving.backends.llamacpp.binding import NoRoomError


class FakeModel:
    """A GGUF, opened; ``says`` may change its logits."""

    most_sequences = 256

    def __init__(self, file, *, on_gpu, says=lambda logits: logits):
        assert not on_gpu
        self.file = file
        self._says = says
        self._model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        ).eval()
        self.vocabulary = self._model.config.vocab_size

    def context(self, *, sequences, cells, batch, is_exact):
        assert isinstance(is_exact, bool)
        return FakeContext(self._logits, sequences=sequences, cells=cells, batch=batch)

    @torch.inference_mode()
    def _logits(self, tokens):
        return self._says(self._model(input_ids=torch.tensor([tokens])).logits[0])


class FakeContext:
    """Answers with ``says``: tokens of a sequence to logits behind each, [tokens, V]. A cell is a list with a token in it."""

    def __init__(self, says, *, sequences, cells, batch):
        self._says = says
        self._cells = cells
        self._batch = batch
        self._held = [[] for _ in range(sequences)]
        self.read = []
        """Tokens of each batch."""
        self.highest = 0

    @property
    def taken(self):
        return len({id(cell) for held in self._held for cell in held})

    def decode(self, pieces):
        size = sum(len(piece.tokens) for piece in pieces)
        assert 0 < size <= self._batch
        assert len({piece.sequence for piece in pieces}) == len(pieces)
        if self.taken + size > self._cells:
            raise NoRoomError
        self.read.append(size)
        answers = [self._take(piece) for piece in pieces]
        self.highest = max(self.highest, self.taken)
        return answers

    def _take(self, piece):
        held = self._held[piece.sequence]
        assert len(held) == piece.begin
        held += [[token] for token in piece.tokens]
        tokens = [token for (token,) in held]
        return self._says(tokens)[len(tokens) - piece.asked :]

    def copy(self, source, target, length):
        assert not self._held[target]
        assert length <= len(self._held[source])
        self._held[target] = self._held[source][:length]

    def forget(self, sequence):
        self._held[sequence] = []

    def clear(self):
        self._held = [[] for _ in self._held]
