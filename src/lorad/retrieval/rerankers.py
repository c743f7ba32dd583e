"""Whether a text answers a question: an encoder that reads both together.

What lives here: lorad's own cross-encoder, a small adapter on one encoder, shipped with the package. What never does:
searching (``index``), where the line is drawn (``thresholds``).

Vectors tell what a text is about. They put "who runs Pemberton Hall" as near to the year in which it opened as to its
director. An encoder that reads question and example together tells these apart; bench/reranker.py has trained it, on
invented corpora, and says how well.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from lorad.errors import RegistryError
from lorad.models import adapters, bases, heads, packed_linear, peft_io
from lorad.models.bases import Base
from lorad.models.context import context_length
from lorad.models.embedders import readable
from lorad.retrieval.odds import Odds
from lorad.storage import files

HEAD = heads.SEQUENCE
LABELS = ("answers", "about")
LONGEST = 160
"""Tokens of question and text together; a longer text is cut."""
FOLDER = "reranker"
ABOUT = "reranker.json"
"""In the folder: for which weights it was trained, and how."""


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """An encoder that reads a question and a text together, with two outputs (``LABELS``)."""

    model: Any
    tokenizer: Any
    fingerprint: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    @torch.inference_mode()
    def score(self, question: str, texts: Sequence[str]) -> list[Odds]:
        """Return what is said of the question and each text."""
        if not texts:
            return []
        longest = min(LONGEST, context_length(self.model.config) or LONGEST)
        asked, *read = (readable(each, longest) for each in (question, *texts))
        with self.lock:  # it holds what it was told to cut, and questions come in several threads
            pairs = self.tokenizer(
                [asked] * len(read),
                read,
                padding=True,
                truncation="longest_first",
                max_length=longest,
                return_tensors="pt",
            )
        return [Odds(*row) for row in self.model(**pairs).logits.float().tolist()]


def load(encoder: Path, precision: str = "float32") -> CrossEncoder | None:
    """Load lorad's reranker onto the encoder that it was trained on; ``None`` where this is another one, or it is damaged.

    In ``bfloat16`` its odds are rounded to some hundredths, and where the processor multiplies in it, told in a fraction of the
    time. Raise ``ConfigError`` where the folder holds no base.
    """
    told = shipped()
    if told is None:
        return None
    folder, about = told
    base = bases.load_base(encoder, torch.float32, "cpu", HEAD)
    heads.build(base.model, HEAD, LABELS)
    if weights_digest(base) != about["weights"]:  # PEFT would lay it over any encoder of this shape
        return None
    try:
        adapter = peft_io.read_adapter(folder)
    except RegistryError:  # the index's score decides alone, as with another encoder
        return None
    adapters.merge(base.model, adapter)
    heads.put(base.model, adapter.head)
    if precision == "bfloat16":
        base.model.to(torch.bfloat16)
        if packed_linear.can_pack(base.model):
            packed_linear.pack(base.model)
        else:  # a processor that does not multiply in it is many times slower there
            base.model.to(torch.float32)
    return CrossEncoder(base.model, base.tokenizer, str(about["fingerprint"]))


def shipped() -> tuple[Path, dict[str, Any]] | None:
    """Return the folder of the adapter that comes with lorad, and what is known of it; ``None`` where it is missing."""
    folder = Path(str(resources.files("lorad.retrieval"))) / FOLDER
    try:
        about = dict(files.read_json(folder / ABOUT))
    except (OSError, ValueError, TypeError):
        return None
    return folder, about


def weights_digest(base: Base) -> str:
    """Return the sha256 of an encoder's own weights, whichever program wrote their file."""
    found = hashlib.sha256()
    for name, tensor in sorted(base.model.base_model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()
