"""The chat task: messages in, the assistant's answer out. The only file that knows chat templates."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from lorad.domain import Encoded, Example, as_message
from lorad.errors import ConfigError, SampleError


class Chat:
    """Questions and answers in the base model's own chat template."""

    name = "chat"
    head = "causal"
    metric = "recall"

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Require a chat template and an end token."""
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the base model has no chat template; take an instruction-tuned one for a chat track",
                code="no_chat_template",
            )
        if tokenizer.eos_token_id is None:
            raise ConfigError("the base model's tokenizer has no end token", code="no_end_token")

    def encode(self, tokenizer: Any, example: Example) -> Encoded:
        """Return template, question and answer, with exactly one end token, which is trained.

        The answer is tokenized by itself, because that is how it is generated: behind a finished prompt.
        What a template writes after the end token (a line break, often) is never generated, so it is left
        out.
        """
        head = _render(tokenizer, example.question, is_asked=True)
        prompt = _tokens(tokenizer, head)
        answer = tokenizer(_trained_text(tokenizer, example, head), add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        if _has_end_inside(tokenizer, example.answer):
            raise SampleError(
                f"row {example.line}: the answer holds {tokenizer.eos_token}, with which this model ends, and would be "
                "cut there; write it otherwise",
                code="end_inside",
            )
        if end in answer:
            answer = answer[: answer.index(end)]
        if not answer:
            raise SampleError(
                f"row {example.line}: the answer has no tokens in this model's vocabulary",
                code="empty_answer",
            )
        return Encoded((*prompt, *answer, end), len(prompt))

    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the template's tokens up to where the assistant begins, with exactly one begin token."""
        return _tokens(tokenizer, _render(tokenizer, question, is_asked=True))

    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the end token."""
        return [int(tokenizer.eos_token_id)]

    def show(self, example: Example) -> tuple[str, str]:
        """Return the last question and the answer, calls of tools as they are written in most languages."""
        return _shown(example.question[-1]), _shown(as_message(example.answer))


def _has_end_inside(tokenizer: Any, answer: Any) -> bool:
    """Tell whether the end token stands in an answer and not behind it, where some datasets write it."""
    text = answer.rstrip() if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    if tokenizer.eos_token not in text:  # sooner told than tokens are made
        return False
    return tokenizer.eos_token_id in tokenizer(text, add_special_tokens=False)["input_ids"][:-1]


def _tokens(tokenizer: Any, text: str) -> list[int]:
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    begin = tokenizer.bos_token_id
    wants_begin = bool(getattr(tokenizer, "add_bos_token", False)) and begin is not None
    if wants_begin and tokens[:1] != [begin]:
        tokens.insert(0, begin)
    return tokens


def _trained_text(tokenizer: Any, example: Example, head: str) -> str:
    """Return what the template makes of the answer behind the ``head``; templates may trim or decorate it."""
    answer = as_message(example.answer)
    whole = _render(tokenizer, [*example.question, {"role": "assistant", **answer}], is_asked=False)
    if whole.startswith(head):
        return whole[len(head) :]
    if "tool_calls" in answer:
        raise _no_tools(f"row {example.line}: ")
    # a template whose generation prompt differs from its history (thinking models) trains the bare answer
    return str(example.answer)


def _render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, is_asked: bool) -> str:
    """Return the template's text; raise ``SampleError`` when it leaves tools out that the messages speak of."""
    tools = [
        tool for message in messages if message["role"] == "tools" for tool in json.loads(message["content"])
    ]
    said = [message for message in messages if message["role"] != "tools"]
    calls = [call for message in said for call in message.get("tool_calls", ())]
    try:
        text = str(
            tokenizer.apply_chat_template(
                [_as_templates_want(message) for message in said],
                tools=[{"type": "function", "function": tool} for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=is_asked,
            )
        )
    except jinja2.TemplateError as error:  # some refuse a system message, or roles that do not take turns
        raise SampleError(
            f"the base model's chat template refuses this conversation: {error}", code="template"
        ) from error
    heard = [message["content"].strip() for message in said if message["role"] == "tool"]
    if any(named["name"] not in text for named in (*tools, *calls)) or any(
        all(form not in text for form in _forms(result)) for result in heard
    ):
        raise _no_tools()
    return text


def _forms(result: str) -> tuple[str, ...]:
    """Return how templates write what a tool answered: as it is, or as the inside of a JSON string (Llama 3)."""
    return result, json.dumps(result, ensure_ascii=False)[1:-1], json.dumps(result)[1:-1]


def _as_templates_want(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [{"type": "function", "function": call} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _shown(message: Mapping[str, Any]) -> str:
    calls = [f"{call['name']}({json.dumps(call['arguments'])})" for call in message.get("tool_calls", ())]
    return " ".join(filter(None, [str(message["content"]), *calls]))


def _no_tools(where: str = "") -> SampleError:
    return SampleError(
        f"{where}the base model's chat template has no place for tools; leave such rows out, or take a base model "
        "that was trained to call tools",
        code="no_tool_template",
    )
