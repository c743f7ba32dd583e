"""The bodies of OpenAI's routes that are no conversations: texts to be continued.

What lives here: what a prompt may be, and its bounds. What never does: conversations, and what every body has in common
(``schemas``).
"""

from typing import Any, ClassVar

from pydantic import Field

from lorad.serving.http import parameters
from lorad.serving.http.parameters import Parameters
from lorad.serving.http.schemas import CHOICES, AnswerBody, refused

Prompt = str | list[int]
"""A text, or the base model's own tokens."""


class CompletionBody(AnswerBody):
    """OpenAI's request to continue a text as it stands: no template, and nothing is looked up."""

    example: ClassVar[str] = '{"model": "chat", "prompt": "Once upon a time"}'
    parameters: ClassVar[Parameters] = parameters.COMPLETION

    prompt: Any = Field(description="A text, some texts, tokens, or some lists of tokens.")

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


def _is_list_of(value: Any, kind: type) -> bool:
    """Tell whether this is a list of at least one, all of this kind; ``True`` is no number."""
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)
