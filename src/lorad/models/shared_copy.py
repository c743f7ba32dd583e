"""Another model of the same weights: its modules are its own, its tensors are those of the model that it was copied from.

What is laid over the one, or put in the place of a weight of it, does not touch the other.
"""

import copy
from itertools import chain
from typing import Any

from lorad.models import quantized


def shared_copy(model: Any) -> Any:
    """Return a model that computes what this one does and holds no weights of its own."""
    parts = chain(model.parameters(), model.buffers(), quantized.shared_parts(model))
    return copy.deepcopy(model, {id(part): part for part in parts})
