"""Several versions on one base model in memory, each a model of its own that shares the base's weights, or has all its own."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from lorad.errors import RegistryError
from lorad.models import heads, version_weights
from lorad.models.adapters import Adapter
from lorad.models.bases import Base
from lorad.models.hardware import passing_errors
from lorad.models.peft_io import read_labels, read_live, read_problem_type, read_splits_words
from lorad.models.shared_copy import shared_copy


class AdapterStack:
    """One pristine base in memory and the adapters on it; none of them touches the base or another one.

    So a version may be added or unloaded in one thread while others answer in another.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self._models: dict[str, Any] = {}
        self._labels: dict[str, tuple[str, ...]] = {}

    @property
    def names(self) -> list[str]:
        """Return what is in memory, in the order in which it came."""
        return list(self._models)

    def add(self, name: str, folder: Path) -> None:
        """Load a version's weights from disk beside the others."""
        try:
            with passing_errors(f"loading {folder.name}"):
                labels, model = self._read_in(folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise RegistryError(
                f"the adapter in {folder} cannot be loaded: {error}", code="adapter_damaged"
            ) from error
        self._labels[name] = labels
        self._models[name] = model

    def _read_in(self, folder: Path) -> tuple[tuple[str, ...], Any]:
        if version_weights.is_whole(folder):
            return (), version_weights.load(self.base, folder)
        labels, model = read_labels(folder), shared_copy(self.base.model)
        if labels:  # what PEFT copies and fills with this version's head
            splits_words = read_splits_words(folder)
            heads.build(model, self.base.head, labels, read_problem_type(folder), splits_words=splits_words)
        PeftModel.from_pretrained(model, str(folder))  # puts its layers into the copy
        return labels, model.eval()

    def read(self, name: str) -> Adapter:
        """Return a version's weights as they lie in memory."""
        if self.base.head.is_whole:
            return version_weights.read_live(self.model(name))
        return replace(read_live(self.model(name)), labels=self._labels[name])

    def unload(self, name: str) -> None:
        """Forget an adapter; its memory is free once nobody uses it any more."""
        self._models.pop(name, None)
        self._labels.pop(name, None)

    def model(self, name: str | None) -> Any:
        """Return the base with one adapter, or the base alone."""
        if name is None:
            return self.base.model
        try:
            return self._models[name]
        except KeyError:
            raise RegistryError(f"{name} is not in memory", code="not_loaded", version=name) from None

    @contextlib.contextmanager
    def use(self, name: str | None) -> Iterator[Any]:
        """Yield the model with one adapter, or none, for the time of a block."""
        yield self.model(name)
