"""How many tokens a model reads at once, by its configuration alone.

What lives here: the names that configurations have for it, and who reads fewer tokens than there are positions. What never does:
weights, tokenizers, what is done with a text that is longer.
"""

from collections.abc import Callable, Mapping
from typing import Any

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")

#: Model types that count positions from behind that of the padding's token: RoBERTa and its kin. Their first ones are of no text.
BEHIND_PADDING = frozenset(
    {
        "altclip",
        "bridgetower",
        "camembert",
        "clap",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
_PADDING = 1


def context_length(config: Any) -> int | None:
    """Return how many tokens a model reads and writes in all, ``None`` where its config does not say."""
    own = config.get_text_config()
    return _length(lambda name: getattr(own, name, None))


def of_file(settings: Mapping[str, Any]) -> int | None:
    """Return the same of a ``config.json``."""
    return _length((settings.get("text_config") or settings).get)


def _length(told: Callable[[str], Any]) -> int | None:
    found = map(told, NAMES)
    length = next((length for length in found if isinstance(length, int) and length > 0), None)
    if length is None or told("model_type") not in BEHIND_PADDING:
        return length
    padding = told("pad_token_id")
    return length - 1 - (_PADDING if padding is None else padding)
