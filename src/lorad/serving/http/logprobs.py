"""How likely an answer's tokens were, in OpenAI's two forms.

What lives here: the form of chat completions, and that of text completions. What never does: computing probabilities (the
backends), which text a token begins in (``streaming``).
"""

from collections.abc import Sequence

from lorad.serving.completions import ChoiceLogprobs, TextLogprobs, TokenLogprob, TopLogprob
from lorad.serving.requests import WrittenToken


def of_chat(tokens: Sequence[WrittenToken] | None) -> ChoiceLogprobs | None:
    """Return the probabilities of a chat completion's tokens; ``None`` where there are none to tell."""
    if tokens is None:
        return None
    return ChoiceLogprobs(content=tuple(map(_of_token, tokens)))


def of_text(tokens: Sequence[WrittenToken] | None) -> TextLogprobs | None:
    """Return the probabilities of a text completion's tokens; ``None`` where there are none to tell."""
    if tokens is None:
        return None
    return TextLogprobs(
        tokens=tuple(_text(each.written, "bytes:") for each in tokens),
        token_logprobs=tuple(each.logprob for each in tokens),
        top_logprobs=tuple(
            {_text(written, "bytes:"): value for written, value in ((each.written, each.logprob), *each.top)}
            for each in tokens
        ),
        text_offset=tuple(each.offset for each in tokens),
    )


def _of_token(token: WrittenToken) -> TokenLogprob:
    return TokenLogprob(
        token=_text(token.written),
        logprob=token.logprob,
        bytes=tuple(token.written),
        top_logprobs=tuple(
            TopLogprob(token=_text(written), logprob=value, bytes=tuple(written))
            for written, value in token.top
        ),
    )


def _text(written: bytes, opening: str = "") -> str:
    """Return a token's text; part of a character is none, and is told byte by byte."""
    try:
        return written.decode()
    except UnicodeDecodeError:
        return opening + "".join(f"\\x{byte:02x}" for byte in written)
