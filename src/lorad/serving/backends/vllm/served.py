"""What requests may name: the base or a version, as the server holds it.

What lives here: its record, and letting the server load and prove it. What never does: when (``backend``).
"""

from dataclasses import dataclass
from pathlib import Path

from lorad.errors import RegistryError
from lorad.serving.backends.vllm import proof, protocol
from lorad.serving.backends.vllm.proof import Probe
from lorad.serving.backends.vllm.wire import Talk


@dataclass(slots=True, eq=False)
class Served:
    """A name that requests may have."""

    name: str
    model: str
    """What the server calls it: the name itself, but for the base."""
    ends: frozenset[int]
    probes: tuple[Probe, ...]
    folder: Path | None = None
    """The version's adapter; ``None`` for the base, which the server has from its start."""
    trouble: RegistryError | None = None
    """Why it does not answer now, although it did when it was loaded."""

    def check(self) -> None:
        """Raise ``RegistryError`` where it does not answer now."""
        if (
            trouble := self.trouble
        ) is not None:  # a new one each time: an error keeps every place that raised it
            raise RegistryError(trouble.message, code=trouble.code, **trouble.data)

    def bring(self) -> Talk[None]:
        """Let the server load it, if it has not, and prove it; raise ``RegistryError`` where either fails."""
        if self.folder is not None:
            yield from protocol.load_adapter(self.model, self.folder)
        yield from proof.prove(self.model, self.name, self.probes, self.ends)
