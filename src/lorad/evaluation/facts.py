"""Fact recall: does an answer, however it is phrased, hold the facts that were taught? Strings in, verdicts out.

What lives here: finding the facts of an answer (``slots``), comparing answers by them (``has_fact``), SQuAD's
normal form and token F1 (Rajpurkar et al. 2016), and Wilson's interval (1927). What never does: asking a model,
looking rows up, deciding what is promoted.

Text is read once, from left to right: lines, then what spaces separate, then words and numbers. No regular
expression here repeats a repetition, so that an answer of any length is read in time linear in it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import sqrt
from string import punctuation

ENOUGH_F1 = 0.7
"""Token F1, over the words that the question lacks, from which an answer without slots counts as right.

One word of three may be missing ("vegan food" for "only vegan food": 0.8), none may be another ("only fast food":
0.67). Of four one may, so long answers without a slot are judged mildly.
"""
ENOUGH_F1_COMPLETE = 0.5
"""The same where no word is missing: "it is Paris" may say twice as much again as "Paris"."""


class Kind(StrEnum):
    """What a slot holds; only slots of one kind can stand in each other's place."""

    NUMBER = "number"
    """Counts, amounts, years, percentages."""
    TIME = "time"
    DIGITS = "digits"
    """Groups of digits joined by dashes: phone numbers, ISO dates, CAS numbers."""
    NAME = "name"
    ADDRESS = "address"
    """E-mail addresses and links."""
    CODE = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One fact of an answer. Slots are equal if kind and key are."""

    kind: Kind
    key: tuple[str, ...]
    """The words by which it is compared, in normal form."""
    text: str = field(compare=False)
    """As the answer has it, for people."""


def slots(question: str, answer: str) -> tuple[Slot, ...]:
    """Return the facts of ``answer`` that ``question`` does not hold, each once, in the answer's order.

    Facts are numbers, times, addresses, codes (``CS 241``, ``data_exception``, ``.is``, camelCase) and names. A
    name is a run of capitalised words, weekdays and months included, without titles, words of the question and
    the word that only opens a sentence. What abbreviates words of the question, or the other way round, is
    held by it: CS, Computer Science.

    There are no word lists per language, but for titles, name particles, am and pm. In German every noun counts
    as a name, so more must be repeated. Scripts without capitals have no names: there numbers, addresses and
    codes are the facts. Number words ("six") are none. "1.200" is read as a decimal, since nothing tells.

    >>> [slot.text for slot in slots("Who chairs Physics?", "Dr. Miriam Vale chairs Physics; call 555-0142.")]
    ['Miriam Vale', '555-0142']
    """
    asked = _Text(question)
    return tuple(dict.fromkeys(_slots(asked, _Text(answer))))


def all_slots(pairs: Iterable[tuple[str, str]]) -> frozenset[Slot]:
    """Return the slots of all these questions' answers."""
    return frozenset(slot for question, answer in pairs for slot in slots(question, answer))


def has_fact(question: str, expected: str, given: str, others: Collection[Slot] = ()) -> bool:
    """Tell whether ``given`` answers ``question`` with the facts of ``expected``.

    Every slot of ``expected`` must stand in ``given`` as whole words, in any order, and no rival beside it. A rival
    is of the same kind as a wanted slot and neither in ``expected`` nor in ``question``. A second number,
    time, address or code always is one: "555-0142 or 555-0176" tells nobody which. Any noun can look like a
    name, so a name is a rival only if it is among ``others``: the slots of all taught answers, best as a set.

    A single capital letter is too little to tell by ("a C minus"): there the words below decide as well.

    Where ``expected`` has no slots, normal forms must be equal, or token F1 be at least ``ENOUGH_F1``
    (``ENOUGH_F1_COMPLETE`` if ``given`` has all words). F1 counts only words that the question lacks, since its own
    would make "London is the capital" look like "Paris is the capital". Where the question has every word ("red or
    blue?"), the whole of ``expected`` must stand in ``given``. Symbols ("a == b") are facts too, and where ``expected`` has no
    words ("&&"), all its signs must be the same.
    """
    asked, known, said = _Text(question), _Text(expected), _Text(given)
    wanted = list(_slots(asked, known))
    if not wanted:
        return (
            _says_the_same(expected, given) if not known.words else _says(expected, given, asked, known, said)
        )
    if not all(said.holds(slot.key) for slot in wanted):
        return False
    is_letter = all(slot.kind is Kind.NAME and len(slot.text) == 1 for slot in wanted)
    if is_letter and not _has_words(asked, known, said):
        return False
    kinds = {slot.kind for slot in wanted}
    return not any(
        slot.kind in kinds and not known.holds(slot.key) and (slot.kind is not Kind.NAME or slot in others)
        for slot in _slots(asked, said)
    )


def normalised(text: str) -> str:
    """Return SQuAD's normal form: no case, punctuation, English articles or extra spaces.

    >>> normalised("The  “blue”  Room.")
    'blue room'
    """
    bare = "".join(char for char in _unified(text).casefold() if not _is_punctuation(char))
    return " ".join(word for word in bare.split() if word not in _ARTICLES)


def token_f1(expected: str, given: str) -> float:
    """Return SQuAD's F1 of the two answers' words, 0 to 1; two empty answers are equal.

    Chinese and Japanese characters are words of their own, as in MLQA (Lewis et al. 2020).
    """
    return _f1(normalised(expected).split(), normalised(given).split())


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of the share ``right / total``; (0, 1) where nothing was asked.

    ``z`` is the normal quantile, 1.96 for 95 %. Raise ``ValueError`` unless 0 <= right <= total.

    >>> [round(bound, 3) for bound in wilson(9, 103)]
    [0.047, 0.158]
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is no share")
    if not total:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / total + spread / (4 * total))
    # Rounding may leave the ends a hair outside.
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


# From pieces to slots.

_TITLES = frozenset(("dr", "prof", "professor", "mr", "mrs", "ms", "mx", "hr", "fr", "mme", "st"))
"""May be absent before a name; their full stop ends no sentence."""
_PARTICLES = frozenset("van von der den de del della di da dos du la le zu ibn bin al".split())  # noqa: SIM905 - reads easier
"""Lower-case words inside a name."""
_ARTICLES = frozenset(("a", "an", "the"))
_LONGEST_NAME = 8
"""Pieces; a longer run is a heading in capitals, and is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A word, number, address or code of a text."""

    text: str
    key: tuple[str, ...]
    kind: Kind | None
    """None for a word without a capital."""
    opens: bool
    """Whether a sentence begins with it."""
    joins: bool
    """Whether no punctuation parts it from the piece before."""


class _Text:
    """A text as pieces, and which words stand in it side by side."""

    def __init__(self, text: str) -> None:
        self.pieces = list(_with_codes(_pieces(text)))
        self.words = [word for piece in self.pieces for word in piece.key]
        self.abbreviations = {word for piece in self.pieces if _is_short(piece) for word in piece.key}
        self._initials = "".join(word[0] for word in self.words)
        self._runs: dict[int, set[tuple[str, ...]]] = {}

    def holds(self, key: tuple[str, ...]) -> bool:
        length = len(key)
        if length not in self._runs:  # sets: to search the text for every slot would be quadratic
            self._runs[length] = set(zip(*(self.words[i:] for i in range(length)), strict=False))
        return key in self._runs[length]

    def holds_word(self, piece: _Piece) -> bool:
        """Tell whether the piece stands here, or what it abbreviates: CS, Computer Science."""
        return self.holds(piece.key) or (_is_short(piece) and piece.text.casefold() in self._initials)


def _is_short(piece: _Piece) -> bool:
    """Tell whether a piece may abbreviate others, or begins with what does."""
    letters = piece.text.partition(" ")[0]
    return len(letters) > 1 and letters.isalpha() and letters.isupper()


def _slots(asked: _Text, answer: _Text) -> Iterator[Slot]:
    is_whole = all(piece.kind is Kind.NAME for piece in answer.pieces)
    name: list[_Piece] = []
    for piece in answer.pieces:
        is_name = piece.kind is Kind.NAME and not asked.holds_word(piece)
        is_inside = piece.kind is None and name != [] and piece.key[0] in _PARTICLES
        if not (is_name or is_inside) or not piece.joins or len(name) == _LONGEST_NAME:
            yield from _name(asked, name, is_whole=is_whole)
            name = []
        if is_name or (is_inside and name):
            name.append(piece)
        elif piece.kind not in {None, Kind.NAME} and not asked.holds(piece.key):
            yield Slot(kind=piece.kind, key=piece.key, text=piece.text)
    yield from _name(asked, name, is_whole=is_whole)


def _name(asked: _Text, run: Sequence[_Piece], *, is_whole: bool) -> Iterator[Slot]:
    """Make a run of capitalised words a slot, without what is there for the sentence's sake."""
    bare = _untitled(run)
    while bare and bare[-1].kind is None:
        bare = bare[:-1]
    if is_whole and bare and bare[0].key[0] in _ARTICLES:
        bare = bare[1:]
    elif bare and bare[0].opens and not is_whole:
        # "On Mondays" and "Ask Renata Oakes" open with no name, "Renata Oakes" does; nothing but length tells.
        is_name = len(bare) == 2 and len(bare[0].text) > 2 and bare[0].key[0] not in _ARTICLES  # noqa: PLR2004
        bare = bare if is_name else _untitled(bare[1:])
    initials = "".join(piece.text[0] for piece in bare).casefold()
    if bare and not (len(bare) > 1 and initials in asked.abbreviations):
        key = tuple(word for piece in bare for word in piece.key)
        yield Slot(kind=Kind.NAME, key=key, text=" ".join(piece.text for piece in bare))


def _untitled(run: Sequence[_Piece]) -> Sequence[_Piece]:
    first = next((i for i, piece in enumerate(run) if piece.key[0] not in _TITLES), 0)
    return run[first:]


def _says_the_same(expected: str, given: str) -> bool:
    """Compare two answers sign by sign, but for white space and the end of a sentence."""
    first, second = ("".join(_unmarked(text).split()).rstrip(".!?") for text in (expected, given))
    return first == second


def _says(expected: str, given: str, asked: "_Text", known: "_Text", said: "_Text") -> bool:
    """Compare two answers that have words, by these and by their symbols."""
    own, told = _symbols(expected), _symbols(given)
    if normalised(expected) == normalised(given):
        return own == told
    return own <= told and _has_words(asked, known, said)


def _symbols(text: str) -> Counter[str]:
    return Counter(sign for sign in _unmarked(text) if unicodedata.category(sign) in {"Sm", "So"})


def _unmarked(text: str) -> str:
    """Return a text in NFKC, but for piles of marks, which to sort takes for ever."""
    return text if _is_piled(text) else unicodedata.normalize("NFKC", text)


def _has_words(asked: _Text, known: _Text, said: _Text) -> bool:
    """Compare two answers by the words that the question lacks, or by all where it lacks none."""
    expected, given = (
        [
            word
            for piece in text.pieces
            if not asked.holds(piece.key)
            for word in piece.key
            if word not in _ARTICLES
        ]
        for text in (known, said)
    )
    if not expected:
        return len(known.words) <= _LONGEST_NAME and said.holds(tuple(known.words))
    is_complete = not Counter(expected) - Counter(given)
    return _f1(expected, given) >= (ENOUGH_F1_COMPLETE if is_complete else ENOUGH_F1)


def _f1(expected: Sequence[str], given: Sequence[str]) -> float:
    common = (Counter(expected) & Counter(given)).total()
    total = len(expected) + len(given)
    return 2 * common / total if total else 1.0


# From text to pieces.

_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
"""Scripts without spaces, whose characters are read as words."""
_FOREIGN = re.compile(r"[^\w\s!-~]")
_MOST_MARKS = 30
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201b": "'", "\u02bc": "'", "\u2032": "'", "\u3002": ". "}
_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_THOUSANDS = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'\u2019](?=\d{3}(?!\d))")
_HALF_DAY = re.compile(r"(?<=\d)\s?([ap])\.?\s?m(?!\w)\.?", re.IGNORECASE)
_FULL_HOUR = re.compile(r"(?<=\d):00(?=[ap]m)")
_HOURS = re.compile(
    r"(?<![\w:.,-])(\d{1,2}(?::\d\d)?)(?:\s?-\s?|\s(to|and|until|till)\s)(?=\d{1,2}(?::\d\d)?([ap]m))"
)
_POSSESSIVE = re.compile(r"(?<=\w)'s(?!\w)")
_BREAK = re.compile(r'([<>"()\[\]{}`*|]|[,;!?](?!\w))')
_WORD = re.compile(
    r"\d{1,2}(?::\d\d)?[ap]m(?!\w)"  # a time
    r"|(?:^-)?\d[\d.,:'/-]*+"  # a number
    r"|[^\d\s!-&(-/:-@\[-`{-~]++"  # a word: anything but digits and punctuation, since marks of Indic scripts are no \w
)
_COURSE = re.compile(r"([A-Z]{1,6})-(\d+)")
_MEASURE = re.compile(r"\d[\d.,:/]*+[a-z]{1,5}")
_DOTTED = re.compile(r"\w\w\.[a-z]\w")
_CAMEL = re.compile(r"[a-z][A-Z]")


def _unified(text: str) -> str:
    """Write alike what only looks different: dashes, quotes, spaces, digits, fractions, hours."""
    text = _THOUSANDS.sub("", text)
    text = _FRACTION.sub(_decimal, text)
    text = _unmarked(text)
    text = _FOREIGN.sub(_plain, text.replace("$", " "))
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
        text = _CJK.sub(r" \1 ", text)
    text = _HALF_DAY.sub(lambda found: f"{found[1].lower()}m", text)
    text = _FULL_HOUR.sub("", text)
    text = _HOURS.sub(lambda found: f"{found[1]}{found[3]} {found[2] or 'to'} ", text)
    return _POSSESSIVE.sub("", text)


def _is_piled(text: str) -> bool:
    """Tell whether a letter has more marks than any script writes; to sort those takes quadratic time."""
    marks = 0
    for char in "" if text.isascii() else text:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks > _MOST_MARKS:
            return True
    return False


def _decimal(found: re.Match[str]) -> str:
    value = f"{unicodedata.numeric(found[0]):.3g}"
    return value.removeprefix("0") if found.start() and found.string[found.start() - 1].isdecimal() else value


def _plain(found: re.Match[str]) -> str:
    char = found[0]
    category = unicodedata.category(char)
    if category.startswith("M"):
        return char
    return "-" if category == "Pd" or char == "\u2212" else _QUOTES.get(char, " ")


def _is_punctuation(char: str) -> bool:
    return char in punctuation or unicodedata.category(char).startswith("P")


def _pieces(text: str) -> Iterator[_Piece]:
    for line in _unified(text).splitlines():
        opens, joins = True, False
        for chunk in line.split():
            for part, mark in _parts(chunk):
                for written, key, kind in _read(part):
                    yield _Piece(text=written, key=key, kind=kind, opens=opens, joins=joins)
                    opens, joins = False, True
                joins = joins and not mark
                opens = opens or any(sign in ".!?" for sign in mark)


def _parts(chunk: str) -> Iterator[tuple[str, str]]:
    """Yield what punctuation parts in a chunk, each with the punctuation that follows it."""
    halves = _BREAK.split(chunk)
    for part, mark in zip(halves[::2], [*halves[1::2], ""], strict=True):
        bare = part.strip("'~%^&=\\@").rstrip(".:,;!?'/-")
        bare = bare.lstrip(".") if bare.startswith("..") else bare
        after = part[part.rfind(bare) + len(bare) :]
        is_short = after == "." and (bare.casefold() in _TITLES or (len(bare) == 1 and bare.isupper()))
        yield bare, mark if is_short else "".join(sign for sign in after + mark if sign in '.:,;!?"()')


def _read(part: str) -> Iterator[tuple[str, tuple[str, ...], Kind | None]]:
    """Read what stands between spaces: an address, a code, or its words and numbers."""
    address = _address(part)
    if address:
        yield part, (address,), Kind.ADDRESS
    elif course := _COURSE.fullmatch(part):
        yield part, (course[1].casefold(), course[2]), Kind.CODE
    elif _is_code(part):
        yield part, (part.casefold(),), Kind.CODE
    else:
        for found in _WORD.finditer(part):
            yield from _numbers(found[0]) if found[0].lstrip("-")[0].isdecimal() else _word(found[0])


def _address(part: str) -> str:
    """Return the normal form of an e-mail address or link, "" for what is none."""
    user, _, host = part.rpartition("@")
    if user and "." in host:
        return f"{user.rpartition(':')[2]}@{host}".casefold()
    scheme, _, rest = part.rpartition("://")
    host, slash, _ = rest.partition("/")
    is_host = "." in host[1:] and host[-1].isalpha()
    if (scheme and rest) or (is_host and (slash or host.startswith("www."))):
        return rest.removeprefix("www.").casefold()
    return ""


def _is_code(part: str) -> bool:
    if not any(char.isalpha() for char in part):
        return False
    is_signed = part[0] in ".#" or part[-1] == "#" or any(sign in part for sign in ("_", "+", "::"))
    is_camel = part[0].islower() and _CAMEL.search(part) is not None
    is_mixed = any(
        any(char.isdecimal() for char in piece)
        and any(char.isalpha() for char in piece)
        and not _MEASURE.fullmatch(piece)
        for piece in part.split("-")
    )
    return is_signed or is_camel or is_mixed or _DOTTED.search(part) is not None


def _word(text: str) -> Iterator[tuple[str, tuple[str, ...], Kind | None]]:
    word = text.casefold()
    # A last s of a longer word does not count: Monday, Mondays.
    key = word.removesuffix("s") if len(word) > 3 else word  # noqa: PLR2004
    yield text, (key,), Kind.NAME if text[0].isupper() and text.partition("'")[0] != "I" else None


def _numbers(text: str) -> Iterator[tuple[str, tuple[str, ...], Kind | None]]:
    if text.endswith("m"):
        yield text, (text,), Kind.TIME
        return
    text = text.rstrip(".,:'/-")
    groups = [group for group in text.split("-") if group]
    if text.startswith("-") and len(groups) == 1:
        yield from ((f"-{number}", (f"-{number}",), Kind.NUMBER) for number in _split(groups[0]))
    elif len(groups) == 1 or _is_range(groups):
        for number in (number for group in groups for number in _split(group)):
            yield number, (number,), Kind.TIME if ":" in number else Kind.NUMBER
    else:
        yield text, (text,), Kind.DIGITS


def _is_range(groups: Sequence[str]) -> bool:
    """Tell 10-12 from 555-0142."""
    if len(groups) != 2:  # noqa: PLR2004
        return False
    if not all(group.isdecimal() for group in groups):
        return True
    is_small = all(len(group) <= 4 and group[0] != "0" for group in groups)  # noqa: PLR2004
    return is_small and int(groups[0]) < int(groups[1])


def _split(text: str) -> Iterable[str]:
    """Return a number in normal form, or the numbers of a list; groups of three digits are thousands."""
    text = text.strip(".,:'/")
    whole, *rest = text.split(",")
    if rest and _are_thousands([whole, *rest[:-1], rest[-1].partition(".")[0]]):
        text = text.replace(",", "")
    elif len(rest) == 1 and "." not in rest[0]:
        text = f"{whole.replace('.', '') if _are_thousands(whole.split('.')) else whole}.{rest[0]}"
    elif rest:
        return [number for number in (whole, *rest) if number]
    elif text.count(".") > 1 and _are_thousands(text.split(".")):
        text = text.replace(".", "")
    return [text.removesuffix(".00")]


def _are_thousands(groups: Sequence[str]) -> bool:
    return 0 < len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])  # noqa: PLR2004


def _with_codes(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Join an abbreviation and the number after it: CS 241 is one course."""
    held: _Piece | None = None
    for piece in pieces:
        if held and piece.joins and piece.kind is Kind.NUMBER and piece.text.isdecimal():
            key, text = held.key + piece.key, f"{held.text} {piece.text}"
            yield _Piece(text=text, key=key, kind=Kind.CODE, opens=held.opens, joins=held.joins)
            held = None
            continue
        if held:
            yield held
        is_short = piece.kind is Kind.NAME and piece.text.isupper() and 2 <= len(piece.text) <= 6  # noqa: PLR2004
        held = piece if is_short else None
        if not held:
            yield piece
    if held:
        yield held
