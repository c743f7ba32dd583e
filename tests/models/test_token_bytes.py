"""What each token writes, in the kinds of tokenizers that bases have."""

import pytest
import templates
import tiny

from lorad.models.token_bytes import TokenBytes

TEXT = "naïve 🌫 (fog)\n日本 a\x7f\xad"


@pytest.mark.parametrize("style", ["smollm2", "llama3", "qwen3", "gemma", "mistral"])
def test_the_tokens_of_a_text_write_it_together(style):
    tokenizer = templates.STYLES[style]()
    tokens = tokenizer.encode(TEXT, add_special_tokens=False)

    written = [TokenBytes(tokenizer)(token) for token in tokens]

    assert (
        b"".join(written).decode().removeprefix(" ") == TEXT
    )  # sentence pieces may open a text with a blank
    assert any(len(each.decode(errors="ignore")) == 0 for each in written)  # parts of characters


@pytest.mark.parametrize("style", ["smollm2", "gemma"])
def test_special_tokens_write_their_names(style):
    tokenizer = templates.STYLES[style]()

    assert TokenBytes(tokenizer)(tokenizer.eos_token_id) == tokenizer.eos_token.encode()


def test_what_is_no_token_writes_nothing():
    assert TokenBytes(tiny.tokenizer())(10**6) == b""
