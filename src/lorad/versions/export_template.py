"""Whether the chat template that goes with an export asks as lorad asks.

What lives here: holding the date in it, comparing its prompts with lorad's token by token, saying what to do where they
differ. What never does: weights; Ollama's template (``modelfile``).

Programs that read an export render its template in the plain way. What lorad makes of it is more: it opens the turn as a
finished conversation does, and adds the begin token where it is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from lorad.models import bases
from lorad.storage import files
from lorad.tasks import chat_template
from lorad.versions import modelfile
from lorad.versions.modelfile import Message

TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
WITHOUT_THOUGHTS = {"enable_thinking": False}
"""What thinking models' templates understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One conversation's prompts: lorad's, and what the exported template makes."""

    name: str
    wanted: list[int]
    made: list[int]


def pin(folder: Path) -> None:
    """Hold the date in every chat template of a folder: lorad always writes the same."""
    for name in (TEMPLATE, *bases.additional_templates(folder)):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            if (pinned := chat_template.pinned(text)) != text:
                files.write_bytes(folder / name, pinned.encode())
    _pin_settings(folder / SETTINGS)


def _pin_settings(path: Path) -> None:
    """Hold the date in a template that stands in the tokenizer's settings, as older programs wrote it."""
    held = files.read_json(path) if path.is_file() else {}
    if found := held.get("chat_template"):
        pinned = pinned_all(found)
        if pinned != found:
            files.write_json(path, held | {"chat_template": pinned})


def pinned_all(found: Any) -> Any:
    """Return one template, or several as ``tokenizer_config.json`` and GGUF list them, with the date held."""
    if isinstance(found, str):
        return chat_template.pinned(found)
    return [{**each, "template": chat_template.pinned(each["template"])} for each in found]


def tell(tokenizer: Any, exported: Any) -> str:
    """Return whether an exported tokenizer's own template makes the prompts that a base's is asked with."""
    if not tokenizer.chat_template:
        return "there is no chat template, so nothing tells other programs how to ask"

    def made(messages: Sequence[Message], **how: Any) -> list[int]:
        return _tokens(exported, _rendered(exported, messages, **how))

    return _told(tokenizer, made, "the exported tokenizer's chat template")


def tell_embedded(tokenizer: Any, text: str | None) -> str:
    """Return the same of the template in a GGUF, as llama.cpp makes tokens of what it renders."""
    if not text:
        return "the GGUF holds no chat template, so nothing tells other programs how to ask"

    def made(messages: Sequence[Message], **how: Any) -> list[int]:
        rendered = _rendered(tokenizer, messages, chat_template=text, **how)
        if modelfile.adds_begin(tokenizer):  # llama-server takes off what it adds itself
            rendered = rendered.removeprefix(str(tokenizer.bos_token))
        return modelfile.tokens(tokenizer, rendered)

    return _told(tokenizer, made, "the GGUF's chat template (llama-server --jinja)")


def _rendered(tokenizer: Any, messages: Sequence[Message], **how: Any) -> str:
    try:
        return str(
            tokenizer.apply_chat_template([*messages], tokenize=False, add_generation_prompt=True, **how)
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return ""


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _told(tokenizer: Any, make: Callable[..., list[int]], what: str) -> str:
    asked = list(modelfile.prompts(tokenizer))

    def pairs(**how: Any) -> list[Pair]:
        return [
            Pair(name=chat.name, wanted=[*chat.tokens], made=make(chat.messages, **how)) for chat in asked
        ]

    found = pairs()
    differ = [pair for pair in found if pair.made != pair.wanted]
    if not differ:
        return f"{what} makes lorad's prompt, token by token, in {len(found)} conversations"
    if all(pair.made == pair.wanted for pair in pairs(**WITHOUT_THOUGHTS)):
        remedy = 'ask with chat_template_kwargs {"enable_thinking": false}: then it does'
    else:
        remedy = _remedy(tokenizer, differ)
    return (
        f"{what} makes another prompt than lorad trained in {len(differ)} of {len(found)} conversations "
        f"({differ[0].name}), and what was learned may not be answered there; {remedy}"
    )


def _remedy(tokenizer: Any, differ: Sequence[Pair]) -> str:
    """Say what has to be put before or behind a template's text, where that is all."""
    for place, rest in (("behind", _behind), ("before", _before)):
        lacks = {tuple(rest(pair)) for pair in differ}
        if len(lacks) == 1 and (missing := lacks.pop()):
            return f"put {tokenizer.decode(list(missing))!r} {place} what it writes"
    return "send it the prompt as text, made as lorad makes it: lorad/tasks/template.py"


def _behind(pair: Pair) -> list[int]:
    return pair.wanted[len(pair.made) :] if pair.wanted[: len(pair.made)] == pair.made else []


def _before(pair: Pair) -> list[int]:
    lacks = len(pair.wanted) - len(pair.made)
    return pair.wanted[:lacks] if lacks > 0 and pair.wanted[lacks:] == pair.made else []
