"""The chat task: messages in, the assistant's answer out. The only file that knows chat templates."""

from collections.abc import Sequence
from typing import Any

from lorad.domain import Encoded, Example
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
        prompt = self.prompt(tokenizer, example.question)
        answer = tokenizer(self._trained_text(tokenizer, example), add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        if end in answer:
            answer = answer[: answer.index(end)]
        if not answer:
            raise SampleError(
                f"row {example.line}: the answer has no tokens in this model's vocabulary",
                code="empty_answer",
            )
        return Encoded((*prompt, *answer, end), len(prompt))

    def _trained_text(self, tokenizer: Any, example: Example) -> str:
        """Return what the template makes of the answer; templates may trim or decorate it."""
        messages = [*example.question, {"role": "assistant", "content": example.answer}]
        head = tokenizer.apply_chat_template(example.question, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        # a template whose generation prompt differs from its history (thinking models) trains the bare answer
        return str(whole[len(head) :]) if whole.startswith(head) else str(example.answer)

    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the template's tokens up to where the assistant begins, with exactly one begin token."""
        text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = tokenizer.bos_token_id
        wants_begin = bool(getattr(tokenizer, "add_bos_token", False)) and begin is not None
        if wants_begin and tokens[:1] != [begin]:
            tokens.insert(0, begin)
        return tokens

    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the end token."""
        return [int(tokenizer.eos_token_id)]

    def show(self, example: Example) -> tuple[str, str]:
        """Return the last question and the answer."""
        return str(example.question[-1]["content"]), str(example.answer)
