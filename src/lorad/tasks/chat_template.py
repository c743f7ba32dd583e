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

from lorad.errors import SampleError
from lorad.records import Trial
from lorad.tasks.special_tokens import Markup

Message = Mapping[str, Any]

#: What templates get for today's date: it is the one that Llama 3's own template falls back to. A prompt that changed
#: from day to day would be asked otherwise than it was trained.
PINNED_DATE = dt.datetime(2024, 7, 26, tzinfo=dt.UTC)

_CALL_FOR_DATE = re.compile(r"""strftime_now\s*\(\s*(["'])([^"']*)\1\s*\)""")
_ASKS_FOR_DATE = re.compile(r"strftime_now(?!\s+is\s+(not\s+)?defined)")
_DIRECTIVES = [f"%-{sign}" for sign in "dmHIMSj"] + [f"%{sign}" for sign in "aAbBcdDeFHIjmMpSTuUwWxXyYzZ"]
_THINK = re.compile(r"</?think>")

#: Words of the trials, which no template holds.
_SYSTEM, _USER, _ANSWER = "Qsystemq", "Quserq", "Qanswerq"
_TOOL, _RESULT = "qtoolq", "Qresultq"
_FUNCTION: dict[str, Any] = {
    "name": _TOOL,
    "description": "a tool",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
_SAID: Message = {"role": "system", "content": _SYSTEM}
_ASKED: Message = {"role": "user", "content": _USER}
_ANSWERED: Message = {"role": "assistant", "content": _ANSWER}
_TOOLS: Message = {"role": "tools", "content": json.dumps([_FUNCTION])}
_CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"name": _TOOL, "arguments": {"at": "Qatq"}}],
}

#: What templates have been seen to change.
_ODD = f"  **{_ANSWER}** {{x}}\n\n\t`a` <b> \\ \"c\" 'd' &\n\n"

#: What a conversation is made of: the role, the text's there or not, and the calls of each message; then the tools.
Shape = tuple[tuple[tuple[str, bool, int], ...], int, bool]


#: Forms of conversation that are remembered; people may send any number.
_SHAPES = 1000


class ChatTemplate:
    """One tokenizer's template: prompts, and answers as it writes them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lost: dict[Shape, str] = {}
        self._failure = ""
        """Why the template failed on the first trial that it failed on."""
        written = self._try([_ASKED]) + self._finished + self._try([_SAID, _ASKED])
        self.markup = Markup(tokenizer, _THINK.sub("", written))

    # -- prompts

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens up to where the assistant's answer begins, with exactly one begin token."""
        return self.begin(self.opening(messages), is_masked=self.markup.is_in(messages))

    def opening(self, messages: Sequence[Message]) -> str:
        """Return the masked text up to where the assistant's answer begins; raise ``SampleError``.

        It is what the template writes when it is asked to open the turn, if a finished conversation's answer begins
        there as well; else what stands before the answer in that.
        """
        masked = self._masked(messages)
        asked = self._render(masked, is_asked=True)
        try:
            head = self._before_answer(masked)
        except SampleError:  # some refuse, or write otherwise, what is finished
            return asked
        return asked if asked.rstrip() == head.rstrip() else head

    def answer(self, messages: Sequence[Message], answer: Message, head: str) -> str | None:
        """Return the masked text that the template makes of an answer behind its ``opening``, without what ends the turn.

        ``None`` where a finished conversation does not begin with that, or is refused.
        """
        try:
            whole = self._render(self._masked([*messages, {"role": "assistant", **answer}]), is_asked=False)
        except SampleError as error:
            if error.code == "no_tool_template":
                raise
            return None
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

    @functools.cached_property
    def call_form(self) -> tuple[str, str, str] | None:
        """What is written before the name of a called tool, between that and its arguments, and behind these.

        ``None`` where there is no place for calls, or arguments are written otherwise than as a JSON object.
        """
        asked = [_TOOLS, _ASKED]
        try:
            written = self.answer(asked, _CALL, self.opening(asked)) or ""
        except SampleError:
            return None
        before, name, rest = written.partition(_TOOL)
        between, arguments, behind = rest.partition(json.dumps(_CALL["tool_calls"][0]["arguments"]))
        return (before, between, behind) if name and arguments else None

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
        tail = self._finished.rpartition(_ANSWER)[2]
        found = self.markup.find(tail)
        return found[0] if found and not tail[: found.start()].strip() else None

    def without_own_end(self, answer: str) -> str:
        """Return an answer without the end tokens that some datasets write behind it.

        ``</s>`` that closes ``<s>`` is part of the answer.
        """
        text = answer
        while end := next((word for word in self._end_words if text.rstrip().endswith(word)), None):
            if end.startswith("</") and f"<{end[2:]}" in text:
                break
            text = text.rstrip().removesuffix(end)
        return text

    # -- what is served

    def served(self, tokens: Sequence[int]) -> str:
        """Return the text that is served for an answer's tokens: all of them but those that only steer.

        Nothing is trimmed or cleaned up. Special tokens that are words, such as SmolLM2's ``<filename>``, are text.
        """
        return self.markup.decode([token for token in tokens if token not in self._hidden])

    def hides(self, tokens: Sequence[int]) -> bool:
        """Tell whether a part of an answer's tokens is not served."""
        return not self._hidden.isdisjoint(tokens)

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
        self._require_places(said, len(tools), is_asked=is_asked)
        for message in said:
            if not _holds(text, message):
                raise no_tools() if message["role"] == "tool" else _left_out(message["role"])
        return text

    def _require_places(self, said: Sequence[Message], tools: int, *, is_asked: bool) -> None:
        """Require that the template has a place for each message, call and tool of such a conversation.

        Tried with words that stand nowhere else, once for each form of conversation: that a text is found in what was
        rendered proves nothing, for the user's own words may hold it.
        """
        parts = tuple((m["role"], bool(m["content"]), len(m.get("tool_calls", ()))) for m in said)
        shape = (parts, tools, is_asked)
        if shape not in self._lost:
            if len(self._lost) >= _SHAPES:
                self._lost.clear()
            self._lost[shape] = self._find_lost(shape)
        if lost := self._lost[shape]:
            raise no_tools() if lost in ("tool", "tools") else _left_out(lost)

    def _find_lost(self, shape: Shape) -> str:
        """Return the role of the first message that does not come out of the template in its place, "" for none."""
        parts, tools, is_asked = shape
        functions = [{**_FUNCTION, "name": f"{_TOOL}{number}x"} for number in range(tools)]
        messages = [
            _marked(number, role, says=says, calls=calls) for number, (role, says, calls) in enumerate(parts)
        ]
        try:
            text = self._apply(messages, functions, is_asked=is_asked)
        except Exception:  # noqa: BLE001 - it takes the conversation itself, and other words of it not: it cannot be tried
            return ""
        if any(function["name"] not in text for function in functions):
            return "tools"
        at = 0
        for message in messages:
            for word in _marks(message):
                found = text.find(word, 0 if message["role"] == "system" else at)
                if found < 0:
                    return "tools" if message.get("tool_calls") else str(message["role"])
                at = max(at, found) if message["role"] != "system" else at
        return ""

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

    # -- trials

    def _try(self, messages: Sequence[Message], *, is_asked: bool = True) -> str:
        """Return what the template makes of a trial, "" where it refuses it."""
        tools = [_FUNCTION] if messages[0]["role"] == "tools" else []
        try:
            return self._apply([m for m in messages if m["role"] != "tools"], tools, is_asked=is_asked)
        except Exception as error:  # noqa: BLE001 - a template may fail of anything: it is a program
            self._failure = self._failure or f"{type(error).__name__}: {error}"
            return ""

    @functools.cached_property
    def _finished(self) -> str:
        """What the template makes of a question and its answer."""
        return self._try([_ASKED, _ANSWERED], is_asked=False)

    @property
    def _head(self) -> str:
        return self._finished.rpartition(_ANSWER)[0]

    @functools.cached_property
    def is_faithful(self) -> bool:
        """Whether questions and answers stand in what the template writes as they are, whatever they hold."""
        odd = self._try(
            [{"role": "user", "content": _ODD}, {"role": "assistant", "content": _ODD}], is_asked=False
        )
        return odd.count(_ODD) == len(("question", "answer"))

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
        asked, head = self._try([_ASKED]), self._head
        if not head or _USER not in head:
            told = "a question and its answer do not both come out of the template"
            told += f" ({self._failure})" if self._failure else ""
            return Trial(name="opening", status="broken", detail=told)
        if head.rstrip() == asked.rstrip():
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
        is_bare = self._head.rstrip() != self._try([_ASKED]).rstrip() or self._head == self._try([_ASKED])
        if self.is_faithful and is_bare:
            return Trial(name="answer", status="ok", detail="answers are written as they are")
        told = (
            "the template trims, changes or decorates answers; they are trained and served as they were given"
        )
        return Trial(name="answer", status="worked around", detail=told)

    def _look_at_system(self) -> Trial:
        if self._written([_SAID, _ASKED]) is None:
            told = "has no place for a system message: rows and questions with one are refused"
            return Trial(name="system", status="unsupported", detail=told)
        return Trial(name="system", status="ok", detail="has a place for a system message")

    def _look_at_turns(self) -> Trial:
        if self._written([_ASKED, _ANSWERED] * 3 + [_ASKED]) is None:
            told = "loses earlier turns: rows and conversations of several turns are refused"
            return Trial(name="turns", status="unsupported", detail=told)
        return Trial(name="turns", status="ok", detail="keeps several turns in order")

    def _look_at_tools(self) -> Trial:
        heard = [_ASKED, _CALL, {"role": "tool", "content": _RESULT}]
        tried = {
            "tools": self._written([_TOOLS, _ASKED]),
            "calls": self._written([_TOOLS, _ASKED, _CALL], is_asked=False),
            "tool results": self._written([_TOOLS, *heard]),
        }
        missing = [name for name, found in tried.items() if found is None]
        if not missing:
            told = "has a place for tools, calls and tool results"
            return Trial(name="tools", status="ok", detail=told)
        told = f"has no place for {', '.join(missing)}: rows and questions with them are refused"
        return Trial(name="tools", status="unsupported", detail=told)

    def _written(self, messages: Sequence[Message], *, is_asked: bool = True) -> str | None:
        """Return what the template makes of a trial, ``None`` where it refuses it or leaves something out."""
        try:
            return self._render(messages, is_asked=is_asked)
        except SampleError:
            return None

    def _look_at_date(self) -> Trial:
        template = self._tokenizer.get_chat_template(tools=None)
        if not _ASKS_FOR_DATE.search(template):
            return Trial(name="date", status="ok", detail="the same from day to day")
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


@functools.lru_cache(maxsize=64)  # asked for at every rendering
def pinned(text: str) -> str:
    """Return a template that writes ``PINNED_DATE`` where it would write today's."""
    plain = _CALL_FOR_DATE.sub(lambda call: repr(PINNED_DATE.strftime(call[2])), text)
    if not _ASKS_FOR_DATE.search(plain):
        return plain
    # it asks in some other way: it gets a clock of its own that stands still
    days = "".join(f' | replace("{name}", "{PINNED_DATE.strftime(name)}")' for name in (*_DIRECTIVES, "%%"))
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{days} }}}}{{%- endmacro %}}{{{{ '' }}}}{text}"


def _marked(number: int, role: str, *, says: bool, calls: int) -> dict[str, Any]:
    """Return a message made of words that stand nowhere else."""
    message: dict[str, Any] = {"role": role, "content": f"Q{number}q" if says else ""}
    if calls:
        message["tool_calls"] = [
            {"name": f"qcall{number}x{call}x", "arguments": {"at": f"Qat{number}x{call}q"}}
            for call in range(calls)
        ]
    return message


def _marks(message: Message) -> list[str]:
    calls = [[call["name"], call["arguments"]["at"]] for call in message.get("tool_calls", ())]
    return [*([message["content"]] if message["content"] else []), *(word for pair in calls for word in pair)]


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


def _left_out(role: str) -> SampleError:
    return SampleError(
        f"the base model's chat template leaves out or changes what the {role} says here; take another "
        "base model, or remove such rows",
        code="template_drops",
    )


def no_tools() -> SampleError:
    """Return why a conversation with tools is refused."""
    return SampleError(
        "the base model's chat template has no place for tools; remove such rows, or take a base model that was "
        "trained to call tools",
        code="no_tool_template",
    )
