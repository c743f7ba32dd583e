"""Several versions on one base model in memory, one of them applied at a time."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from lorad.errors import RegistryError
from lorad.models import heads
from lorad.models.adapters import Adapter
from lorad.models.bases import Base
from lorad.models.hardware import passing_errors
from lorad.models.peft_io import read_labels, read_live, unwrap


class AdapterStack:
    """One pristine base in memory and the adapters that are laid over it, one at a time."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._peft: Any = None
        self.names: list[str] = []
        self._labels: dict[str, tuple[str, ...]] = {}

    @property
    def model(self) -> Any:
        """Return the model to call; which weights it uses is set by ``use``."""
        return self._peft or self.base.model

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter from disk beside the others."""
        try:
            with passing_errors(f"loading {folder.name}"):
                self._read_in(name, folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise RegistryError(
                f"the adapter in {folder} cannot be loaded: {error}", code="adapter_damaged"
            ) from error
        self._peft.eval()
        self.names.append(name)

    def _read_in(self, name: str, folder: Path) -> None:
        labels = read_labels(folder)
        if labels:  # what PEFT copies and fills with this version's head
            heads.build(self.base.model, self.base.head, labels)
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base.model, str(folder), adapter_name=_slot(name))
            else:
                self._peft.load_adapter(str(folder), adapter_name=_slot(name))
        except BaseException:
            self._take_out(name)
            raise
        self._labels[name] = labels

    def _take_out(self, name: str) -> None:
        """Undo what was begun of an adapter: its layers stand in the base before its numbers are read."""
        if self._peft is not None:
            if _slot(name) in self._peft.peft_config:
                self._peft.set_adapter(_slot(self.names[0]))
                self._peft.delete_adapter(_slot(name))
            return
        unwrap(self.base.model)

    def read(self, name: str) -> Adapter:
        """Return an adapter as it lies in memory."""
        return replace(read_live(self._peft, _slot(name)), labels=self._labels[name])

    def unload(self, name: str) -> None:
        """Free an adapter's memory."""
        if name not in self.names:
            return
        self.names.remove(name)
        self._labels.pop(name)
        if self.names:
            self._peft.set_adapter(_slot(self.names[0]))  # the one in use cannot be deleted quietly
            self._peft.delete_adapter(_slot(name))
        else:
            self._peft.unload()  # puts the base's own layers back
            self._peft = None

    @contextlib.contextmanager
    def use(self, name: str | None) -> Iterator[Any]:
        """Lay one adapter over the base, or none, for the time of a block; one user at a time."""
        if name is not None and name not in self.names:
            raise RegistryError(f"{name} is not in memory", code="not_loaded", version=name)
        if self._peft is None:
            yield self.base.model
        elif name is None:
            with self._peft.disable_adapter():
                yield self._peft
        else:
            self._peft.set_adapter(_slot(name))
            if self._labels[name]:
                heads.name_outputs(self.base.model, self._labels[name])
            yield self._peft


def _slot(name: str) -> str:
    """Return a version's name as torch takes one: modules must not have a dot in theirs."""
    return name.replace(".", "_")
