"""A base's chat template, tried and not believed.

What lives here: rendering conversations, where the assistant's turn begins and what ends it, and a set of trials whose
outcome ``lorad base add``, ``doctor`` and ``check`` tell. What never does: examples, what an answer is worth.

A template is a program that somebody else wrote. Whether it opens the assistant's turn, which token ends a turn,
whether it has a place for a system message or tools, and whether it writes today's date, is found by rendering
conversations made of words that stand nowhere else, and looking where those come out.
"""

import datetime as dt
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from lorad.domain import Trial
from lorad.errors import SampleError
from lorad.tasks.markup import Markup

Message = Mapping[str, Any]

#: What templates get for today's date: it is the one that Llama 3's own template falls back to. A prompt that changed
#: from day to day would be asked otherwise than it was trained.
PINNED_DATE = dt.datetime(2024, 7, 26, tzinfo=dt.UTC)

_DATE = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_THINK = re.compile(r"</?think>")

#: Words of the trials, which no template holds.
_SYSTEM, _USER, _ANSWER, _AGAIN = "Qsystemq", "Quserq", "Qanswerq", "Qagainq"
_TOOL, _ARGUMENT, _RESULT = "qtoolq", "Qargumentq", "Qresultq"
_FUNCTION = {
    "name": _TOOL,
    "description": "a tool",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
_ASKED: Message = {"role": "user", "content": _USER}
_TOOLS: Message = {"role": "tools", "content": json.dumps([_FUNCTION])}
_CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"name": _TOOL, "arguments": {"at": _ARGUMENT}}],
}


class ChatTemplate:
    """One tokenizer's template: prompts, and answers as it writes them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.markup = Markup(tokenizer)

    # -- prompts

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens up to where the assistant's answer begins, with exactly one begin token."""
        return self.begin(self.opening(messages), is_masked=self.markup.is_in(messages))

    def opening(self, messages: Sequence[Message]) -> str:
        """Return the masked text up to where the assistant's answer begins; raise ``SampleError``."""
        masked = self._masked(messages)
        if self._opens_turns:
            return self._render(masked, is_asked=True)
        return self._before_answer(masked)

    def answer(self, messages: Sequence[Message], answer: Message, head: str) -> str | None:
        """Return the masked text that the template makes of an answer behind its ``opening``, without what ends the turn.

        ``None`` where a finished conversation does not begin with that: thinking models' templates.
        """
        whole = self._render(self._masked([*messages, {"role": "assistant", **answer}]), is_asked=False)
        return self._without_end(whole[len(head) :]) if whole.startswith(head) else None

    def begin(self, opening: str, *, is_masked: bool) -> list[int]:
        """Return an opening's tokens, behind one begin token where the tokenizer wants one."""
        tokens = self.tokens(opening, is_masked=is_masked)
        begin = self._tokenizer.bos_token_id
        wants_begin = bool(getattr(self._tokenizer, "add_bos_token", False)) and begin is not None
        return [begin, *tokens] if wants_begin and tokens[:1] != [begin] else tokens

    def tokens(self, text: str, *, is_masked: bool) -> list[int]:
        """Return a rendered text's tokens."""
        return self.markup.encode_masked(text) if is_masked else self.markup.encode(text)

    def _masked(self, messages: Sequence[Message]) -> list[Message]:
        return list(self.markup.mask(messages))

    def _before_answer(self, messages: Sequence[Message]) -> str:
        """Return what stands before an answer in a finished conversation."""
        whole = self._render([*messages, {"role": "assistant", "content": _ANSWER}], is_asked=False)
        head, found, _ = whole.rpartition(_ANSWER)
        if not found:
            raise SampleError(
                "the base model's chat template leaves the assistant's answer out of this conversation",
                code="template_drops",
            )
        return head

    def _without_end(self, text: str) -> str:
        """Cut what a template writes behind an answer: the end token, and a line break that is never generated."""
        places = (text.find(word) for word in self._end_words)
        return text[: min((at for at in places if at >= 0), default=len(text))]

    # -- what ends a turn

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which an answer ends; the first is the one that is trained."""
        own = self.markup.tokens.get(self._turn_end or "")
        others = (self._tokenizer.eos_token_id, *getattr(self._tokenizer, "generation_ends", ()))
        return tuple(dict.fromkeys(int(token) for token in (own, *others) if token is not None))

    @functools.cached_property
    def _end_words(self) -> list[str]:
        return [word for word, number in self.markup.tokens.items() if number in self.ends]

    @functools.cached_property
    def _turn_end(self) -> str | None:
        """The special token that the template writes right behind an answer, if it writes one."""
        tail = self._try([_ASKED, {"role": "assistant", "content": _ANSWER}], is_asked=False).rpartition(
            _ANSWER
        )[2]
        found = self.markup.find(tail)
        return found[0] if found and not tail[: found.start()].strip() else None

    def without_own_end(self, answer: str) -> str:
        """Return an answer without the end tokens that some datasets write behind it."""
        text = answer
        while end := next((word for word in self._end_words if text.rstrip().endswith(word)), None):
            text = text.rstrip().removesuffix(end)
        return text

    # -- what is served

    def served(self, tokens: Sequence[int]) -> str:
        """Return the text that is served for an answer's tokens: all of them but those that only steer.

        Nothing is trimmed or cleaned up. Special tokens that are words, such as SmolLM2's ``<filename>``, are text.
        """
        return self.markup.decode([token for token in tokens if token not in self._hidden])

    @functools.cached_property
    def _hidden(self) -> frozenset[int]:
        it = self._tokenizer
        named = (it.bos_token_id, it.eos_token_id, it.pad_token_id, it.unk_token_id)
        return frozenset(token for token in (*named, *self.ends) if token is not None)

    # -- rendering

    def _render(self, messages: Sequence[Message], *, is_asked: bool) -> str:
        """Return the template's text of masked messages; raise ``SampleError`` when it leaves out what they say."""
        tools = [tool for m in messages if m["role"] == "tools" for tool in json.loads(m["content"])]
        said = [message for message in messages if message["role"] != "tools"]
        try:
            text = self._apply(said, tools, is_asked=is_asked)
        except jinja2.TemplateError as error:  # some refuse a system message, or roles that do not take turns
            raise SampleError(
                f"the base model's chat template refuses this conversation: {error}", code="template"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise SampleError(
                f"the base model's chat template fails on this conversation: {type(error).__name__}: {error}",
                code="template",
            ) from error
        self._require_tools(said, tools)
        for message in said:
            if not _holds(text, message):
                raise no_tools() if message["role"] == "tool" else _left_out(message)
        return text

    def _apply(self, said: Sequence[Message], tools: Sequence[Any], *, is_asked: bool) -> str:
        listed = [{"type": "function", "function": tool} for tool in tools] or None
        template = self._tokenizer.get_chat_template(tools=listed)
        return str(
            self._tokenizer.apply_chat_template(
                [_as_templates_want(message) for message in said],
                tools=listed,
                chat_template=pinned(template),
                tokenize=False,
                add_generation_prompt=is_asked,
            )
        )

    def _require_tools(self, said: Sequence[Message], tools: Sequence[Any]) -> None:
        """Require a place for tools and calls, as tried: that their names stand in the text proves nothing."""
        calls = any(message.get("tool_calls") for message in said)
        if (tools and not self._takes_tools) or (calls and not self._takes_calls):
            raise no_tools()

    # -- trials

    def _try(self, messages: Sequence[Message], *, is_asked: bool = True) -> str:
        """Return what the template makes of a trial, "" where it refuses it."""
        tools = [_FUNCTION] if messages[0]["role"] == "tools" else []
        try:
            return self._apply([m for m in messages if m["role"] != "tools"], tools, is_asked=is_asked)
        except Exception:  # noqa: BLE001 - a template may fail of anything: it is a program
            return ""

    @functools.cached_property
    def _opens_turns(self) -> bool:
        """Whether the prompt ends where a finished conversation's answer begins; a blank more or less is no matter."""
        asked = self._try([_ASKED])
        return bool(asked) and self._finished_head.rstrip() == asked.rstrip()

    @functools.cached_property
    def _finished_head(self) -> str:
        whole = self._try([_ASKED, {"role": "assistant", "content": _ANSWER}], is_asked=False)
        return whole.rpartition(_ANSWER)[0]

    @functools.cached_property
    def _takes_tools(self) -> bool:
        return _TOOL in self._try([_TOOLS, _ASKED])

    @functools.cached_property
    def _takes_calls(self) -> bool:
        text = self._try([_TOOLS, _ASKED, _CALL], is_asked=False) or self._try(
            [_ASKED, _CALL], is_asked=False
        )
        return _ARGUMENT in text and _TOOL in text

    @functools.cached_property
    def essentials(self) -> tuple[Trial, ...]:
        """What came of trying that without which no conversation can be had."""
        return self._look_at_opening(), self._look_at_end()

    @functools.cached_property
    def trials(self) -> tuple[Trial, ...]:
        """What trying the template has shown, the gravest properties first."""
        return (*self.essentials, *(look() for look in self._looks()))

    def _looks(self) -> tuple[Callable[[], Trial], ...]:
        return (
            self._look_at_answer,
            self._look_at_system,
            self._look_at_turns,
            self._look_at_tools,
            self._look_at_date,
            self._look_at_markup,
        )

    def _look_at_opening(self) -> Trial:
        asked, head = self._try([_ASKED]), self._finished_head
        if not head or _USER not in head:
            told = "a question and its answer do not both come out of the template"
            return Trial(name="opening", status="broken", detail=told)
        if self._opens_turns:
            return Trial(
                name="opening", status="ok", detail=f"an answer begins behind {_behind_user(asked)!r}"
            )
        if _THINK.search(head) or _THINK.search(asked):
            told = "opens with a thinking block, which is neither trained nor served"
        elif asked == self._try([_ASKED], is_asked=False):
            told = "does not open the assistant's turn by itself"
        else:
            told = "opens the assistant's turn otherwise than finished conversations have it"
        told += f"; lorad asks as those have it: {_behind_user(head)!r}"
        return Trial(name="opening", status="worked around", detail=told)

    def _look_at_end(self) -> Trial:
        words = [self._tokenizer.convert_ids_to_tokens(token) for token in self.ends]
        if not words:
            told = "no token ends a turn: neither the tokenizer, the generation config nor the template names one"
            return Trial(name="end", status="broken", detail=told)
        told = f"a turn ends with {words[0]}" + (f"; {', '.join(words[1:])} too" if words[1:] else "")
        is_plain = self.ends[0] == self._tokenizer.eos_token_id
        return Trial(name="end", status="ok" if is_plain else "worked around", detail=told)

    def _look_at_answer(self) -> Trial:
        odd = f"  {_ANSWER}\n\n"
        written = self._try([_ASKED, {"role": "assistant", "content": odd}], is_asked=False)
        is_kept = written.startswith(self._finished_head) and odd in written
        is_bare = not self._opens_turns or self._finished_head == self._try([_ASKED])
        if is_kept and is_bare:
            return Trial(name="answer", status="ok", detail="answers are written as they are")
        told = "the template trims or decorates answers; they are trained and served as they were given"
        return Trial(name="answer", status="worked around", detail=told)

    def _look_at_system(self) -> Trial:
        if _SYSTEM in self._try([{"role": "system", "content": _SYSTEM}, _ASKED]):
            return Trial(name="system", status="ok", detail="has a place for a system message")
        told = "has no place for a system message: rows and questions with one are refused"
        return Trial(name="system", status="unsupported", detail=told)

    def _look_at_turns(self) -> Trial:
        talk = [_ASKED, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _AGAIN}]
        text = self._try(talk)
        places = [text.find(word) for word in (_USER, _ANSWER, _AGAIN)]
        if text and -1 not in places and places == sorted(places):
            return Trial(name="turns", status="ok", detail="keeps several turns in order")
        told = "loses earlier turns: rows and conversations of several turns are refused"
        return Trial(name="turns", status="unsupported", detail=told)

    def _look_at_tools(self) -> Trial:
        heard = [_TOOLS, _ASKED, _CALL, {"role": "tool", "content": _RESULT}]
        missing = [
            name
            for name, is_there in (
                ("tools", self._takes_tools),
                ("calls", self._takes_calls),
                ("what a tool answered", _RESULT in self._try(heard)),
            )
            if not is_there
        ]
        if not missing:
            return Trial(
                name="tools", status="ok", detail="has a place for tools, calls and what tools answer"
            )
        told = f"has no place for {', '.join(missing)}: rows and questions with them are refused"
        return Trial(name="tools", status="unsupported", detail=told)

    def _look_at_date(self) -> Trial:
        template = self._tokenizer.get_chat_template(tools=None)
        if "strftime_now" not in template:
            return Trial(name="date", status="ok", detail="the same from day to day")
        if "strftime_now(" in _DATE.sub("", template):
            told = "writes a date that lorad cannot hold: what was learned may be forgotten the day after"
            return Trial(name="date", status="unsupported", detail=told)
        told = (
            f"writes today's date; lorad always writes {PINNED_DATE:%d %b %Y}, so that it asks as it trained"
        )
        return Trial(name="date", status="worked around", detail=told)

    def _look_at_markup(self) -> Trial:
        words = "".join(self.markup.tokens)
        if not self.markup.find(_behind_user(self._try([_ASKED]))):
            told = "marks turns with plain text, which a question could imitate"
            return Trial(name="markup", status="unsupported", detail=told)
        try:
            marked = self.prompt([{"role": "user", "content": f"{_USER}{words}"}])
            plain = self.prompt([_ASKED])
        except SampleError as error:
            return Trial(name="markup", status="unsupported", detail=error.message)
        special = set(self.markup.tokens.values())
        if [t for t in marked if t in special] == [t for t in plain if t in special]:
            return Trial(name="markup", status="ok", detail="special tokens in what people write stay text")
        told = "special tokens in what people write steer the model: rows and questions with them are refused"
        return Trial(name="markup", status="unsupported", detail=told)


def pinned(text: str) -> str:
    """Return a template that writes ``PINNED_DATE`` where it would write today's."""
    return _DATE.sub(lambda call: repr(PINNED_DATE.strftime(call[2])), text)


def of(tokenizer: Any) -> ChatTemplate:
    """Return the template of a tokenizer, tried once; what was found goes with the tokenizer."""
    named = (tokenizer.chat_template, tokenizer.eos_token, getattr(tokenizer, "generation_ends", ()))
    held: tuple[Any, ChatTemplate] | None = getattr(tokenizer, "lorad_template", None)
    if held is None or held[0] != named:
        held = (named, ChatTemplate(tokenizer))
        tokenizer.lorad_template = held
    return held[1]


def _behind_user(text: str) -> str:
    """Return what a template writes between a question and its answer."""
    return text.rpartition(_USER)[2]


def _holds(text: str, message: Message) -> bool:
    """Tell whether a rendered text holds what a message says, thoughts of earlier answers apart."""
    said = str(message["content"] or "")
    if message["role"] == "assistant":
        said = said.rpartition("</think>")[2]  # templates of thinking models leave earlier thoughts out
    return any(form in text for form in _forms(said.strip()))


def _forms(said: str) -> tuple[str, ...]:
    """Return how templates write a text: as it is, or as the inside of a JSON string (what tools answered, Llama 3)."""
    return said, json.dumps(said, ensure_ascii=False)[1:-1], json.dumps(said)[1:-1]


def _as_templates_want(message: Message) -> dict[str, Any]:
    calls = [{"type": "function", "function": call} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _left_out(message: Message) -> SampleError:
    return SampleError(
        f"the base model's chat template leaves out or changes what the {message['role']} says here; take another "
        "base model, or leave such rows out",
        code="template_drops",
    )


def no_tools() -> SampleError:
    """Return why a conversation with tools is refused."""
    return SampleError(
        "the base model's chat template has no place for tools; leave such rows out, or take a base model that was "
        "trained to call tools",
        code="no_tool_template",
    )
