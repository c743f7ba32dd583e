"""The bodies of OpenAI's routes that are no conversations: texts to be continued, texts to be embedded.

What lives here: what a prompt or an input may be, and its bounds. What never does: conversations, and what every body has in common
(``schemas``).
"""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from lorad.serving.http import parameters
from lorad.serving.http.parameters import Parameters
from lorad.serving.http.schemas import CHOICES, NAME_LENGTH, AnswerBody, Body, refused

TEXTS = 256
"""Texts that are embedded for one request."""

Prompt = str | list[int]
"""A text, or the base model's own tokens."""


class CompletionBody(AnswerBody):
    """OpenAI's request to continue a text as it stands: no template, and nothing is looked up."""

    example: ClassVar[str] = '{"model": "chat", "prompt": "Once upon a time"}'
    parameters: ClassVar[Parameters] = parameters.COMPLETION

    prompt: Any = Field(description="A text, some texts, tokens, or some lists of tokens.")
    logprobs: int | None = Field(default=None, ge=0, le=5)

    def prompts(self) -> list[Prompt]:
        """Return what is to be continued: each of them gets ``n`` answers."""
        given = self.prompt
        prompts = given if _is_list_of(given, str) or _is_list_of(given, list) else [given]
        for index, each in enumerate(prompts):
            if not isinstance(each, str) and not _is_list_of(each, int):
                where = f"prompt[{index}]" if prompts is given else "prompt"
                raise refused(where, "must be a text, or a list of token numbers")
        if len(prompts) * self.n > CHOICES:
            raise refused(
                "prompt", f"asks for {len(prompts) * self.n} answers; ask for at most {CHOICES} at once"
            )
        return list(prompts)

    def _logprobs(self) -> int | None:
        return self.logprobs


class EmbeddingsBody(Body):
    """OpenAI's request for the vectors of texts."""

    model_config = ConfigDict(extra="ignore")  # as OpenAI does: none changes a vector

    example: ClassVar[str] = '{"model": "chat", "input": "Where is the library?"}'

    model: str = Field(default="chat", max_length=2 * NAME_LENGTH)
    input: Any = Field(description=f"A text, or at most {TEXTS} texts.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """Return what is to be embedded; raise ``ProtocolError`` by name on what is not done."""
        if self.dimensions is not None:
            told = "lorad does not shorten vectors; leave it out"
            raise refused("dimensions", told, "unsupported_parameter")
        return texts(self.input)


def texts(given: Any) -> list[str]:
    """Return the text or texts of an ``input``; raise ``ProtocolError`` on anything else."""
    found = [given] if isinstance(given, str) else given
    if _is_list_of(found, int) or _is_list_of(found, list):
        told = "must be text: these are tokens, whose numbers mean other words here"
        raise refused("input", told, "unsupported_parameter")
    if not _is_list_of(found, str):
        raise refused("input", "must be a text or a list of texts")
    if len(found) > TEXTS:
        raise refused("input", f"has {len(found)} texts; send at most {TEXTS} at once")
    return list(found)


def _is_list_of(value: Any, kind: type) -> bool:
    """Tell whether this is a list of at least one, all of this kind; ``True`` is no number."""
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)
