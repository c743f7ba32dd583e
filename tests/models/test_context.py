"""How many tokens a base reads, by its ``config.json``."""

import pytest

from lorad.models import context


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "llava", "text_config": {"max_position_embeddings": 99}}, 99),
        ({"model_type": "mamba"}, None),
    ],
)
def test_what_a_base_reads_is_found_in_its_file(settings, length):
    assert context.of_file(settings) == length
