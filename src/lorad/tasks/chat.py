"""The chat task: messages in, the assistant's answer out. The only file that knows what an answer is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lorad.errors import ConfigError, SampleError
from lorad.models import generation, heads, scoring
from lorad.models.scoring import Outputs
from lorad.records import Encoded, Example, Trial, as_message
from lorad.tasks import chat_template
from lorad.tasks.chat_template import ChatTemplate
from lorad.tasks.interface import Generating

#: Characters around the first difference that a refusal shows.
_SHOWN = 20


class Chat(Generating):
    """Questions and answers in the base model's own chat template.

    A row is right when each of its answer tokens, the end token included, is the likeliest one behind the question and
    the answer so far.
    """

    name = "chat"
    formats = "chat"
    head = heads.CAUSAL
    checks = frozenset({"perplexity", "kl", "degenerate"})
    row = Encoded

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Require a chat template that opens a turn, and an end token."""
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the base model has no chat template; use an instruction-tuned one for a chat track",
                code="no_chat_template",
            )
        if tokenizer.eos_token_id is None:
            raise ConfigError("the base model's tokenizer has no end token", code="no_end_token")
        tried = chat_template.of(tokenizer).essentials
        broken = next((trial for trial in tried if trial.status == "broken"), None)
        if broken:
            raise ConfigError(
                f"the base model's chat template cannot be used: {broken.detail}; use another base model",
                code="bad_chat_template",
            )

    def trials(self, tokenizer: Any) -> Sequence[Trial]:
        """Return what trying the base's template has shown; nothing where it has none."""
        return chat_template.of(tokenizer).trials if getattr(tokenizer, "chat_template", None) else ()

    def encode(self, tokenizer: Any, example: Example) -> Encoded:
        """Return template, question and answer, with exactly one end token, which is trained.

        What ``text`` makes of the answer's tokens is the answer: an example for which no way of writing it gives that
        is refused. The answer is tokenized by itself, because that is how it is generated: behind a finished prompt.
        What a template writes after the end token (a line break, often) is never generated, so it is left out.
        """
        made = chat_template.of(tokenizer)
        try:
            head = made.opening(example.input)
            prompt = made.begin(head, is_masked=made.markup.is_in(example.input))
            answer = _answer(made, example, head)
        except SampleError as error:
            raise SampleError(f"row {example.line}: {error.message}", code=error.code) from None
        return Encoded((*prompt, *answer, made.ends[0]), len(prompt))

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return the example as it is learned, without the end token that some datasets write behind an answer.

        Raise ``SampleError`` when ``encode`` would, in a fraction of its time for a plain question and answer.
        """
        made = chat_template.of(tokenizer)
        if not _is_surely_served(made, example):
            _answer(made, example, made.opening(example.input))
        if not isinstance(example.target, str):
            return example
        answer = made.without_own_end(example.target)
        return example if answer == example.target else replace(example, target=answer)

    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the template's tokens up to where the assistant begins, with exactly one begin token.

        A text, or the tokens of one, is no conversation and gets no template: it is continued as it stands.
        """
        if isinstance(question, str):
            return _continued(tokenizer, question)
        if question and not isinstance(question[0], Mapping):
            return _checked_tokens(tokenizer, question)
        return chat_template.of(tokenizer).prompt(question)

    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the tokens that end an answer; the first is the one that is trained."""
        return chat_template.of(tokenizer).ends

    def text(self, tokenizer: Any, tokens: Sequence[int]) -> str:
        """Return the text that is served for an answer's tokens."""
        return chat_template.of(tokenizer).served(tokens)

    def call_form(self, tokenizer: Any) -> tuple[str, str, str] | None:
        """Return what stands around the name and the arguments of a called tool, as the template writes it."""
        return chat_template.of(tokenizer).call_form

    def forward(self, model: Any, rows: Sequence[Encoded], guests: Sequence[Encoded] = ()) -> Outputs:
        """Return what a causal model says at each answer token of these rows, packed into one sequence."""
        return scoring.causal_outputs(model, rows, guests)

    def confidences(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[Encoded],
        tell: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[float, bool]]:
        """Answer the rows' questions greedily; what is not recalled is generated."""
        return generation.confidences(model, rows, self.stop_tokens(tokenizer), tell)


def _continued(tokenizer: Any, text: str) -> list[int]:
    """Return a text's tokens as its tokenizer begins one; the empty text has the token that stands between two texts."""
    return list(tokenizer(text)["input_ids"]) or [
        tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ]


def _checked_tokens(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    """Return tokens that the tokenizer knows; raise ``SampleError`` on others."""
    count = len(tokenizer)
    unknown = next((token for token in tokens if not 0 <= token < count), None)
    if unknown is not None:
        raise SampleError(
            f"the base model has no token {unknown}; its tokens are 0 to {count - 1}", code="unknown_token"
        )
    return list(tokens)


def _is_surely_served(made: ChatTemplate, example: Example) -> bool:
    """Tell whether the bare answer behind a single question comes back as it is: no template can stand in its way."""
    answer = example.target
    is_plain = len(example.input) == 1 and isinstance(answer, str) and made.is_faithful
    if not is_plain or not answer or made.markup.is_in(answer) or made.markup.is_in(example.input):
        return False
    tokens = made.markup.encode(answer)
    return not set(made.ends) & set(tokens) and made.served(tokens) == answer


def _answer(made: ChatTemplate, example: Example, head: str) -> list[int]:
    """Return the answer's tokens; raise ``SampleError`` when what would be served is not the answer."""
    wanted, ways = _ways(made, example, head)
    if not wanted:
        raise SampleError("the answer has no tokens except an end token", code="empty_answer")
    is_masked = made.markup.is_in(example.target)
    instead = []
    for way in ways:
        tokens = made.tokens(way, is_masked=is_masked)
        served = made.served(tokens)
        if served == wanted and not set(made.ends) & set(tokens):
            return tokens
        instead.append((served, tokens))
    served, tokens = instead[0]
    why = (
        "an answer ends or is filled up with a part of it here"
        if made.hides(tokens)
        else "its tokenizer cannot write that text as it is"
    )
    raise SampleError(_difference(wanted, served, why), code="not_served")


def _ways(made: ChatTemplate, example: Example, head: str) -> tuple[str, list[str]]:
    """Return what an answer is and how it may be written: as the template has it, which may decorate it, or bare.

    Last with a blank in front, for tokenizers of sentence pieces that take the first one for their own.
    """
    if isinstance(example.target, str):
        wanted = made.without_own_end(example.target)
        (bare,) = made.markup.mask([wanted])
        written = made.answer(example.input, {"content": wanted}, head)
        return wanted, [way for way in dict.fromkeys((written, bare, f" {bare}")) if way is not None]
    written = made.answer(example.input, as_message(example.target), head)
    if written is None:
        raise SampleError(
            "the base model's chat template writes a call behind another opening than an answer, so that it cannot be "
            "asked for; remove such rows",
            code="no_tool_template",
        )
    return made.markup.unmask(written), [written]


def _difference(taught: str, served: str, why: str) -> str:
    """Say where what would be served first differs from what was taught."""
    pairs = enumerate(zip(taught, served, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), min(len(taught), len(served)))
    cut = slice(max(0, at - _SHOWN // 2), at + _SHOWN)
    return (
        f"the base model would answer {served[cut]!r} where {taught[cut]!r} was taught, because {why}; write it "
        "otherwise"
    )
