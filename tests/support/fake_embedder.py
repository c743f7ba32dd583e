"""An embedder without a model: texts that share words lie near each other."""

import hashlib
from collections import Counter

import numpy as np


class FakeEmbedder:
    """Adds up a fixed random direction for every word."""

    def __init__(self, name="fake", dimension=64):
        self.name, self.fingerprint, self.dimension = name, f"{name}-fingerprint", dimension
        self.embedded = []

    def embed(self, texts):
        self.embedded += texts
        made = np.stack([self._vector(text) for text in texts])
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    def _vector(self, text):
        made = np.full(self.dimension, 1e-3)
        for word, count in Counter(text.lower().replace("?", " ").split()).items():
            seed = hashlib.sha256(f"{self.name} {word}".encode(errors="replace")).digest()
            made += count * np.random.default_rng([*seed]).standard_normal(self.dimension)
        return made

    def text_tokenizer(self):
        return None
