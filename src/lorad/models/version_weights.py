"""A version's weights in either form: an adapter on its base (``peft_io``), or, from scratch, a whole model.

What lives here: telling the two apart, and reading, writing, checking and loading a whole model in transformers' own form.
What never does: how either is trained.

A whole model is held as an ``Adapter`` without factors whose head is every tensor: it is merged by being put in place, the
newer of two counts, and nothing about it is rounded.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lorad.errors import RegistryError
from lorad.models import peft_io
from lorad.models.adapters import Adapter, tied
from lorad.models.bases import Base, make_ready
from lorad.models.hardware import passing_errors
from lorad.storage import files

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a whole model and no adapter."""
    return (folder / WEIGHTS).is_file() and not (folder / peft_io.ADAPTER_FILES[0]).is_file()


def read(folder: Path) -> Adapter:
    """Return the weights of a version; raise ``RegistryError`` on anything unsound."""
    if not is_whole(folder):
        return peft_io.read_adapter(folder)
    try:
        return Adapter({}, dict(load_file(folder / WEIGHTS)))
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error


def read_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels of a version's head, from the header alone; none where it has none."""
    return () if is_whole(folder) else peft_io.read_labels(folder)


def read_live(model: Any) -> Adapter:
    """Return the weights of a whole model in memory, copied; those that two layers share once, as they are stored."""
    shared = tied(model)
    held = {name: weight for name, weight in model.named_parameters() if name not in shared}
    return Adapter({}, {name: weight.detach().float().cpu().clone() for name, weight in held.items()})


def write(model: Any, folder: Path) -> None:
    """Write a whole model as transformers reads it: weights and ``config.json``."""
    files.make_folder(folder)
    model.save_pretrained(folder)


@torch.no_grad()
def put(model: Any, weights: Adapter) -> None:
    """Put a whole model's weights in the place of another's of the same kind."""
    own = dict(model.named_parameters())
    for name, tensor in weights.head.items():
        own[name].copy_(tensor)


def load(base: Base, folder: Path) -> Any:
    """Return a version's whole model, on its base's device and in its precision."""
    model = base.head.loads.from_pretrained(str(folder), dtype=base.model.dtype, local_files_only=True)
    make_ready(model)
    return model.to(base.model.device)


def check(folder: Path, base: Any) -> None:
    """Compare a version's weights with the base that they are for, reading headers alone.

    Raise what ``peft_io.check_adapter`` does: ``adapter_damaged`` where a header cannot be read, ``wrong_base`` where a whole
    model has other tensors than its base.
    """
    if not is_whole(folder):
        peft_io.check_adapter(folder, base)
        return
    try:
        with (
            passing_errors(f"reading {folder.name}"),
            safe_open(folder / WEIGHTS, framework="pt") as handle,
        ):
            found = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    if found != _shapes(base):
        raise RegistryError(
            f"the model of {folder.name} has other weights than its base",
            code="wrong_base",
            version=folder.name,
        )


def _shapes(model: Any) -> dict[str, list[int]]:
    shared = tied(model)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    return {name: list(weight.shape) for name, weight in weights.items() if name not in shared}


def _damaged(folder: Path, error: Exception) -> RegistryError:
    return RegistryError(
        f"the model in {folder} cannot be read: {error}", code="adapter_damaged", version=folder.name
    )
