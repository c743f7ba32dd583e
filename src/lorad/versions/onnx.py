"""A classifier as an ONNX graph, and such a graph asked in ONNX Runtime.

What lives here: writing the graph with transformers' own exporter, and asking it as a task asks a model. What never does: what
lies beside it (``export``); needing the packages, which are an extra.

The graph is in float32, of any number of texts of any length: ``input_ids`` and ``attention_mask`` in, ``logits`` out.
"""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from lorad.errors import ConfigError
from lorad.models.context import context_length
from lorad.models.hardware import first_line, passing_errors
from lorad.tasks import Task

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""The first two write a graph, the third asks it."""
GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
TOLERANCE = 1e-3
"""Logits, which reach 45 here: the same float32 numbers, added up in another order."""
SHAPE = (2, 8)
"""Of the texts that the graph is traced with; the graph takes any."""
LONGER = 8
"""How many times as long as the longest probe a text is that the graph is asked too."""


def check_installed() -> None:
    """Raise ``ConfigError`` where a package is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            f"the form onnx needs {', '.join(missing)}; install with: pip install 'lorad[onnx]'",
            code="no_onnx_packages",
        )


def write(task: Task, model: Any, folder: Path) -> None:
    """Write a model with a head as ``model.onnx``, with its weights and configuration; raise ``ConfigError`` if it cannot be.

    The task's own attention mask, where it has one, is made in the graph.
    """
    library: Any = importlib.import_module("transformers.exporters")  # works with the extra only
    # a tensor each: of two inputs that are one the graph would read only the first
    given: dict[str, Any] = {name: torch.ones(SHAPE, dtype=torch.int64) for name in INPUTS}
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    how = library.OnnxConfig(dynamic_shapes=dict.fromkeys(INPUTS, axes))
    given["use_cache"] = False
    try:
        with passing_errors("writing it as ONNX"), _quietly():
            library.OnnxExporter().export(_masked(task, model), given, how).save_pretrained(folder)
    except (ImportError, LookupError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be written as ONNX: {first_line(error)}; export it with --format merged",
            code="no_onnx",
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what packages print, log and warn of each other: what they write is asked."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _masked(task: Task, model: Any) -> Any:
    """Return a model that makes the task's attention mask of a plain one."""
    own = model.forward

    def forward(*, attention_mask: Tensor, **given: Any) -> Any:
        return own(attention_mask=task.mask(attention_mask, model.dtype), **given)

    model.forward = forward
    return model.train(mode=False)


class OnnxModel:
    """A graph that tasks ask as they ask a model of transformers."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: Path) -> None:
        library: Any = importlib.import_module("onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors: warnings tell of optimizations
        self.config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        self._session = library.InferenceSession(
            str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Return what the graph says, under ``logits``; of a mask that a task has made it takes which tokens are seen."""
        seen = (
            attention_mask
            if attention_mask.dim() == input_ids.dim()
            else attention_mask[:, 0, 0].eq(0).long()
        )
        given = dict(zip(INPUTS, (input_ids.numpy(), seen.numpy()), strict=True))
        (logits,) = self._session.run(["logits"], given)
        return SimpleNamespace(logits=torch.from_numpy(logits))


@torch.inference_mode()
def difference(task: Task, model: Any, graph: OnnxModel, rows: Sequence[Any]) -> float:
    """Return the largest difference of a logit between a model and its graph: of rows together, of each alone, and of a long one."""
    longest = max(rows, key=len)
    room = context_length(model.config) or LONGER * len(longest)
    long = replace(longest, tokens=(longest.tokens * LONGER)[:room])
    worst = 0.0
    for asked in (rows, *([row] for row in rows), [*rows, long], [long]):
        ours, theirs = (task.forward(each, asked).logits for each in (model, graph))
        worst = max(worst, float((ours - theirs).abs().max()))
    return worst
