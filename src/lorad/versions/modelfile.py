"""The Modelfile with which Ollama makes the prompt that lorad trains and answers with.

What lives here: trying the base's chat template, writing what it does as an Ollama template, making a prompt by
Ollama's rules, comparing both token by token. What never does: weights; knowing any template by its name.

A template is tried with conversations of marks that cannot be mistaken. What it writes between two marks is taken to
depend on who said the one before and who says the next: nothing, for the first, and nobody, for the end. That holds
default system messages, system messages inside the user's turn and most else; where it does not hold, the comparison
says so, and there is no Modelfile rather than one that makes another prompt.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from lorad.errors import ConfigError, SampleError
from lorad.tasks import chat_template
from lorad.tasks.chat import Chat
from lorad.versions import go_template
from lorad.versions.go_template import GoError, quote
from lorad.versions.llamacpp import Asked

NAME = "Modelfile"
ROLES = ("system", "user", "assistant")
START, END = "", "end"
TAKING_TURNS = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user"),
)
"""What every chat is made of: where Ollama's prompt must be the base's."""
UNUSUAL = (
    ("user", "assistant"),
    ("user", "system", "user"),
    ("user", "assistant", "system", "user"),
    ("assistant", "user"),
    ("system", "assistant", "user"),
    ("system",),
)
"""What some programs ask: taken where the base's template does, and else refused by Ollama's too."""
LONGER = (
    ("user", "assistant") * 2 + ("user",),
    ("system", *("user", "assistant") * 3, "user"),
    ("user", "system", "user", "assistant", "user"),
)
SAID = (
    "You answer briefly: names, numbers (3,75 or 12-4) and links.",
    "Who keeps the key of room B-217?",
    "Maren Óskarsdóttir, 9 to 17 h; see https://keys.example/b?217#now",
    "And «why» is that so,\n- in two lines,\n\n- or in three?",
)
SPACED = "  two  blanks before,\tone tab and a line break behind \n"
WHITE_SPACE = "white space"
Message = Mapping[str, str]
Gaps = dict[tuple[str, str], str]
"""What stands between who spoke before and who speaks next."""


# -- the base's own prompt


def adds_begin(tokenizer: Any) -> bool:
    """Tell whether the begin token is the tokenizer's to add, before what the template writes."""
    begin = tokenizer.bos_token_id
    if begin is None:
        return False
    adds = bool(getattr(tokenizer, "add_bos_token", False)) or tokenizer("a")["input_ids"][:1] == [begin]
    return adds and (not tokenizer.chat_template or asked(tokenizer, _marked(("user",)))[:1] == [begin])


def controls(tokenizer: Any) -> set[int]:
    """Return the special tokens that lorad ever makes: of the template, of ends, and of words that people write."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not tokenizer.chat_template:
        return special
    words = " ".join(str(tokenizer.added_tokens_decoder[number]) for number in special)
    chats = [_marked(roles) for roles in TAKING_TURNS] + [[{"role": "user", "content": words}]]
    made = {token for messages in chats for token in asked(tokenizer, messages)}
    source = str(tokenizer.chat_template)
    written = {number for number in special if str(tokenizer.added_tokens_decoder[number]) in source}
    named = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    return special & (made | written | named | set(Chat().stop_tokens(tokenizer)))


def asked(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the prompt that lorad makes of messages, nothing where the base's template refuses them."""
    try:
        return list(Chat().prompt(tokenizer, messages))
    except SampleError:
        return []


def text_of(tokenizer: Any, prompt: Sequence[int]) -> str:
    """Return a prompt's text, without the begin token where that is the tokenizer's to add."""
    written = prompt[adds_begin(tokenizer) :]
    return str(tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _marked(roles: Sequence[str]) -> list[Message]:
    return [{"role": role, "content": f"qzx{number}xzq"} for number, role in enumerate(roles)]


# -- trying it


def derive(tokenizer: Any) -> Gaps:
    """Return what the base's chat template writes between messages; raise ``ConfigError`` where that is not all it does."""
    if not tokenizer.chat_template:
        raise _unlike("there is no chat template")
    gaps: Gaps = {}
    for roles in TAKING_TURNS:
        try:
            found = _between(tokenizer, roles)
        except SampleError as error:
            if roles[0] == "system":  # some take none: then Ollama's refuses it too
                continue
            raise _unlike(f"it refuses {' and '.join(roles)}: {error.message}") from error
        if any(gaps.get(pair, text) != text for pair, text in found.items()):
            raise _unlike("what it writes depends on more than who spoke before and who speaks next")
        gaps |= found
    for roles in UNUSUAL:
        gaps |= _more(tokenizer, roles, gaps)
    return gaps


def _more(tokenizer: Any, roles: Sequence[str], gaps: Gaps) -> Gaps:
    """Return what an unusual conversation adds, if it agrees with what is known."""
    try:
        found = _between(tokenizer, roles)
    except (SampleError, ConfigError):
        return {}
    return found if all(gaps.get(pair, text) == text for pair, text in found.items()) else {}


def _between(tokenizer: Any, roles: Sequence[str]) -> Gaps:
    messages = _marked(roles)
    text = text_of(tokenizer, Chat().prompt(tokenizer, messages))
    gaps = {}
    for pair, message in zip(pairwise((START, *roles)), messages, strict=True):
        before, found, text = text.partition(message["content"])
        if not found or message["content"] in text:
            raise _unlike(f"it moves, repeats or leaves out what was said ({', '.join(roles)})")
        gaps[pair] = before
    return gaps | {(roles[-1], END): text}


def _unlike(reason: str) -> ConfigError:
    return ConfigError(
        f"no Modelfile was written, since Ollama would not make the prompt of this base's chat template: {reason}. "
        "Answer from the GGUF with the template that it carries: llama-server --jinja -m FILE.gguf",
        code="no_modelfile",
    )


# -- writing it


def write(tokenizer: Any, file: str) -> str:
    """Return the Modelfile for a GGUF file, compared; raise ``ConfigError`` where no Modelfile makes the base's prompt."""
    ends = [tokenizer.convert_ids_to_tokens(token) for token in Chat().stop_tokens(tokenizer)]
    lines = [
        f"FROM ./{file}",
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",  # older Ollamas' own is 1.1, which turns taught answers into others
        *(f'PARAMETER stop "{end}"' for end in ends),
        f'TEMPLATE """{_template(derive(tokenizer))}"""',
    ]
    text = "\n".join(lines) + "\n"
    compare(tokenizer, text)
    return text


def _template(gaps: Gaps) -> str:
    """Return Go's text/template; all text stands in strings, so that nothing is trimmed, cut or taken for an action."""
    lines = ['{{- $last := "" }}', "{{- range .Messages }}"]
    for number, role in enumerate(ROLES):
        lines += [f'{{{{- {"else " * (number > 0)}if eq .Role "{role}" }}}}', *_choice(gaps, role)]
    lines += [_refusal("else", "this model's chat template knows no such role"), "{{- end }}{{ .Content }}"]
    return "\n".join([*lines, "{{- $last = .Role }}", "{{- end }}", *_choice(gaps, END)])


def _choice(gaps: Gaps, role: str) -> list[str]:
    """Return what to write before a role, by who spoke before; what the base's template refuses, Ollama's refuses."""
    texts = sorted((text, before) for (before, after), text in gaps.items() if after == role)
    lines = []
    for number, (text, group) in enumerate(groupby(texts, key=lambda pair: pair[0])):
        speakers = " ".join(f'"{before}"' for _, before in group)
        lines.append(f"{{{{- {'else ' * (number > 0)}if eq $last {speakers} }}}}{{{{ {quote(text)} }}}}")
    told = "end here" if role == END else f"take {role} here"
    refusal = _refusal("else" if texts else 'if eq "" ""', f"this model's chat template does not {told}")
    return [*lines, refusal, "{{- end }}"]


def _refusal(condition: str, reason: str) -> str:
    """Return what stops Go with an error that quotes the reason: it has no other way to refuse."""
    return f"{{{{- {condition} }}}}{{{{ slice {quote(reason)} 999 }}}}"


# -- Ollama's rules


def render(text: str, messages: Sequence[Message]) -> str:
    """Return the text that Ollama makes of messages with a Modelfile; raise ``GoError`` where it answers an error.

    After ``template.go`` and ``prompt.go`` of ollama/ollama at fb3076099: consecutive messages of one role become one.
    """
    found = re.search(r'^TEMPLATE """(.*?)"""$', text, re.MULTILINE | re.DOTALL)
    if not found:
        raise GoError("the Modelfile has no TEMPLATE")
    merged = [
        {"Role": role, "Content": "\n\n".join(message["content"] for message in group)}
        for role, group in groupby(messages, key=lambda message: message["role"])
    ]
    return go_template.render(found[1], {"Messages": merged})


def tokens(tokenizer: Any, text: str) -> list[int]:
    """Return a prompt's tokens as llama.cpp makes them: of special tokens those that are controls, and one begin token."""
    known = {str(tokenizer.convert_ids_to_tokens(number)): number for number in controls(tokenizer)}
    longest = sorted(map(re.escape, known), key=len, reverse=True)
    made = [tokenizer.bos_token_id] if adds_begin(tokenizer) else []
    for piece in re.split(f"({'|'.join(longest)})", text) if known else [text]:
        if piece in known:
            made.append(known[piece])
        else:
            made += chat_template.of(tokenizer).markup.encode_text(piece)
    return made


# -- comparing


def conversations() -> Iterator[tuple[str, list[Message]]]:
    """Yield what both are compared on: one and several turns, with and without system, and odd white space."""
    for roles in (*TAKING_TURNS, *UNUSUAL, *LONGER):
        said = {role: SAID[number] for number, role in enumerate(ROLES)}
        messages = [{"role": role, "content": said[role]} for role in roles]
        yield ", ".join(roles), [*messages[:-1], {"role": roles[-1], "content": SAID[3]}]
    for roles in TAKING_TURNS:
        yield WHITE_SPACE, [{"role": role, "content": SPACED} for role in roles]


def prompts(tokenizer: Any) -> Iterator[Asked]:
    """Yield the base's own prompts of conversations in which people take turns."""
    for name, messages in conversations():
        made = asked(tokenizer, messages) if _takes_turns(messages) else []
        if made:
            yield Asked(name=name, messages=messages, text=text_of(tokenizer, made), tokens=made)


def compare(tokenizer: Any, text: str) -> int:
    """Compare a Modelfile's prompts with the base's token by token; return how many, or raise ``ConfigError``.

    What the base's template refuses must be refused; what is unusual may be.
    """
    equal = 0
    for name, messages in conversations():
        wanted, made = asked(tokenizer, messages), _made(tokenizer, text, messages)
        if made != wanted and (made or _takes_turns(messages)):
            raise _unlike(
                "it trims or changes white space, which Ollama's templates cannot"
                if name == WHITE_SPACE  # all others were equal before
                else f"the prompts of a conversation differ ({name})"
            )
        equal += bool(made)
    return equal


def _takes_turns(messages: Sequence[Message]) -> bool:
    roles = "".join(message["role"][0] for message in messages)
    return bool(re.fullmatch("s?(ua)*u", roles))


def _made(tokenizer: Any, text: str, messages: Sequence[Message]) -> list[int]:
    try:
        return tokens(tokenizer, render(text, messages))
    except GoError:
        return []


def asked_through(tokenizer: Any, text: str, probes: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return probes with each question asked through the Modelfile, and how many are: others are no conversation."""
    found = [_through(tokenizer, text, probe) for probe in probes["probes"]]
    either = [new or old for new, old in zip(found, probes["probes"], strict=True)]
    return {**probes, "probes": either}, sum(probe is not None for probe in found)


def _through(tokenizer: Any, text: str, probe: Mapping[str, Any]) -> dict[str, Any] | None:
    messages = _read_back(tokenizer, probe["tokens"][: probe["start"]])
    if messages is None or _holds_control(tokenizer, messages):
        return None
    made = _made(tokenizer, text, messages)
    return {**probe, "tokens": [*made, *probe["tokens"][probe["start"] :]], "start": len(made)}


def _holds_control(tokenizer: Any, messages: Sequence[Message]) -> bool:
    """Tell whether people wrote what llama.cpp takes for a token of the template, wherever it stands."""
    words = [str(tokenizer.convert_ids_to_tokens(number)) for number in controls(tokenizer)]
    return any(word in message["content"] for message in messages for word in words)


def _read_back(tokenizer: Any, tokens: list[int]) -> list[Message] | None:
    """Return the messages of which lorad made a prompt, or none."""
    written, gaps = text_of(tokenizer, tokens), derive(tokenizer)
    for roles in (roles for roles in TAKING_TURNS if (START, roles[0]) in gaps):
        between = [re.escape(gaps[pair]) for pair in pairwise((START, *roles, END))]
        found = re.fullmatch("(.*?)".join(between), written, re.DOTALL)
        said = found.groups() if found else ()
        messages: list[Message] = [
            {"role": role, "content": words} for role, words in zip(roles, said, strict=bool(found))
        ]
        if found and asked(tokenizer, messages) == tokens:
            return messages
    return None
