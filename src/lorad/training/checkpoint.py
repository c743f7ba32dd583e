"""Training checkpoints. Tensors and plain state in a folder that is complete or not one.

What lives here: writing, checking and finding checkpoints. What never does: knowing what the numbers mean.

``round-0003/`` holds ``tensors.safetensors``, ``state.json`` and, written last, ``manifest.json`` with the
sha256 of both and the name of the run that they belong to. Nothing is pickled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorad.storage import files

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
KEPT = 2
"""The newest, and the one before in case that one is broken."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run stood at the end of a round."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        self.broken: list[str] = []
        """Why checkpoints were skipped, one sentence each."""
        self._own: list[str] = []
        """The names of those of this run, the newest last, as far as they were found or written here."""

    def save(self, number: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint durably; then all but this one and the one before are removed.

        Broken ones too, and those of another run: they may have higher numbers.
        """
        target = self._folder / f"round-{number:04d}"
        partial = target.with_suffix(".part")
        files.remove(partial)
        files.remove(target)
        files.make_folder(self._folder, mode=0o700)  # what training remembers of people's words
        partial.mkdir(mode=0o700)
        files.write_bytes(
            partial / TENSORS, save({name: tensor.contiguous() for name, tensor in tensors.items()})
        )
        files.write_json(partial / STATE, state)
        digests = {name: files.file_digest(partial / name) for name in (TENSORS, STATE)}
        files.write_json(partial / MANIFEST, {"run": self._run, "files": digests})
        files.sync_tree(partial)
        partial.rename(target)
        files.sync(self._folder)
        self._own = [*self._own, target.name][-KEPT:]
        for other in self._all():
            if other.name not in self._own:
                files.remove(other)

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint of this run that is complete and intact; note the broken ones."""
        for folder in reversed(self._all()):
            try:
                manifest = files.read_json(folder / MANIFEST)
                if manifest["run"] != self._run:
                    continue
                for name, digest in manifest["files"].items():
                    if files.file_digest(folder / name) != digest:
                        raise ValueError(f"{name} is not what was written")  # noqa: TRY301 - told like the others
                tensors, state = load_file(folder / TENSORS), files.read_json(folder / STATE)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
                self.broken.append(f"checkpoint {folder.name} is broken and was skipped: {error}")
            else:
                self._own = [folder.name]
                return Checkpoint(folder.name, tensors, state)
        return None

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("round-*") if path.suffix != ".part")
