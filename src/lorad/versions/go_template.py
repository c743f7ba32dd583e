"""Running the part of Go's ``text/template`` that lorad writes for Ollama.

What lives here: text, ``{{- -}}``, fields, variables, ``if``, ``range``, ``eq`` and ``slice``, as Go reads and runs them.
What never does: guessing. Anything else that Go knows is refused, and so is whatever Go itself stops at.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BLANK = " \t\r\n"
"""What ``{{-`` and ``-}}`` take away."""
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_ACTION = re.compile(r"\{\{(-(?=\s))?((?:" + _STRING + r'|[^"])*?)((?<=\s)-)?\}\}')
_WORD = re.compile(r"\s*(" + _STRING + r"|\d+|\$\w*|\.\w+|:=|=|\w+)")
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


class GoError(ValueError):
    """What Go would stop at, or what is not read here."""


@dataclass(frozen=True, slots=True)
class _Node:
    """``text``, ``print``, ``let``, ``if`` or ``range``: its words, what it holds, what stands behind ``else``."""

    kind: str
    words: tuple[str, ...] = ()
    inside: list["_Node"] = field(default_factory=list)
    otherwise: list["_Node"] = field(default_factory=list)


def quote(text: str) -> str:
    """Return a Go string that any program can carry: one line, nothing that cannot be seen."""
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(sign: str) -> str:
    for name, meant in _ESCAPED.items():
        if sign == meant:
            return f"\\{name}"
    if sign.isprintable() and sign not in "{}":
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08x}"


def render(template: str, data: Mapping[str, Any]) -> str:
    """Return what Go makes of a template; raise ``GoError`` where it stops or where this reader knows no more."""
    nodes = _parse(template)
    return "".join(_Run(data).walk(nodes, data))


# -- reading


def _parse(template: str) -> list[_Node]:
    parts = list(_parts(template))
    nodes, ended = _block(parts)
    if ended is not None or parts:
        raise GoError(f"unexpected {{{{ {ended} }}}}")
    return nodes


def _parts(template: str) -> Iterator[_Node]:
    """Yield text and actions in order, the first of which is taken next."""
    at, trims = 0, False
    for action in _ACTION.finditer(template):
        yield _text(template[at : action.start()], trims, bool(action[1]))
        yield _Node("action", tuple(_words(action[2])))
        at, trims = action.end(), bool(action[3])
    yield _text(template[at:], trims, False)


def _text(text: str, left: bool, right: bool) -> _Node:
    text = text.lstrip(BLANK) if left else text
    text = text.rstrip(BLANK) if right else text
    if "{{" in text:
        raise GoError("an action does not end")
    return _Node("text", (text,))


def _words(action: str) -> Iterator[str]:
    at = 0
    while action[at:].strip():
        found = _WORD.match(action, at)
        if not found:
            raise GoError(f"cannot read {{{{{action}}}}}")
        yield found[1]
        at = found.end()


def _block(parts: list[_Node]) -> tuple[list[_Node], str | None]:
    """Take parts up to ``else`` or ``end``; return them and which it was."""
    nodes: list[_Node] = []
    while parts:
        part = parts.pop(0)
        head = part.words[:1]
        if part.kind == "text":
            nodes.append(part)
        elif head in {("end",), ("else",)}:
            return nodes, " ".join(part.words)
        elif head in {("if",), ("range",)}:
            nodes.append(_branch(head[0], part.words[1:], parts))
        elif part.words[1:2] in {(":=",), ("=",)}:
            nodes.append(_Node("let", part.words))
        else:
            nodes.append(_Node("print", part.words))
    return nodes, None


def _branch(kind: str, words: tuple[str, ...], parts: list[_Node]) -> _Node:
    inside, ended = _block(parts)
    otherwise: list[_Node] = []
    if ended == "else":
        otherwise, ended = _block(parts)
    elif ended and ended.startswith("else if "):
        return _Node(kind, words, inside, [_branch("if", tuple(_words(ended[len("else if ") :])), parts)])
    if ended != "end":
        raise GoError(f"{{{{ {kind} }}}} does not end")
    return _Node(kind, words, inside, otherwise)


# -- running


class _Run:
    """One execution: the data and the variables so far, the newest last."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._variables: list[tuple[str, Any]] = [("$", data)]

    def walk(self, nodes: Sequence[_Node], dot: Any) -> Iterator[str]:
        """Yield what each node prints."""
        for node in nodes:
            if node.kind == "text":
                yield node.words[0]
            elif node.kind == "print":
                yield str(self._value(node.words, dot))
            elif node.kind == "let":
                self._let(node.words, dot)
            else:
                known = len(self._variables)
                yield from self._branch(node, dot)
                del self._variables[known:]

    def _branch(self, node: _Node, dot: Any) -> Iterator[str]:
        value = self._value(node.words, dot)
        if node.kind == "range" and value:
            for item in value:
                yield from self.walk(node.inside, item)
        else:
            yield from self.walk(node.inside if value else node.otherwise, dot)

    def _let(self, words: tuple[str, ...], dot: Any) -> None:
        name, sign, *rest = words
        value = self._value(tuple(rest), dot)
        if sign == ":=":
            self._variables.append((name, value))
            return
        at = self._find(name)
        self._variables[at] = name, value

    def _find(self, name: str) -> int:
        for at in reversed(range(len(self._variables))):
            if self._variables[at][0] == name:
                return at
        raise GoError(f"undefined variable {name}")

    def _value(self, words: tuple[str, ...], dot: Any) -> Any:
        if words and words[0] in _FUNCTIONS:
            return _FUNCTIONS[words[0]](*(self._one(word, dot) for word in words[1:]))
        if len(words) != 1:
            raise GoError(f"cannot run {{{{ {' '.join(words)} }}}}")
        return self._one(words[0], dot)

    def _one(self, word: str, dot: Any) -> Any:
        if word.startswith('"'):
            return _ESCAPE.sub(_meant, word[1:-1])
        if word.isdigit():
            return int(word)
        if word.startswith("$"):
            return self._variables[self._find(word)][1]
        if word.startswith(".") and isinstance(dot, Mapping) and word[1:] in dot:
            return dot[word[1:]]
        raise GoError(f"can't evaluate {word}")


def _meant(escape: re.Match[str]) -> str:
    if len(escape[1]) > 1:
        return chr(int(escape[1][1:], 16))
    if escape[1] not in _ESCAPED:
        raise GoError(f"cannot read {escape[0]} in a string")
    return _ESCAPED[escape[1]]


def _eq(first: Any, *others: Any) -> bool:
    """Compare as Go does: the first with each other, and never across types."""
    if not others or any(type(other) is not type(first) for other in others):
        raise GoError("error calling eq: incompatible types for comparison")
    return first in others


def _slice(whole: str, begin: int) -> str:
    if begin > len(whole.encode()):
        raise GoError(f"{whole} (error calling slice: index out of range: {begin})")
    return whole.encode()[begin:].decode()


_FUNCTIONS: dict[str, Callable[..., Any]] = {"eq": _eq, "slice": _slice}
