"""Annotated texts and documents. One row of any labelling tool in, examples of a task out.

What lives here: telling these formats apart, and the one form in which each task's examples are kept:

- ``tagging``: the text, and ``[[start, end, label], …]`` in order, in characters, the end exclusive;
- ``classify``: the text, and its label; or the list of its labels in order where a text may have several; or the share of
  the ratings that each label got;
- ``retrieval``: what names a document (title, url, source, id) and is known of it (tags, date, markup, pages), and its text;
- ``spectra``: a spectrum, and its molecule's SMILES (``spectra``).

What never does: chat (``reader``), containers (``file_rows``), learning.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from lorad.datasets import label_names
from lorad.datasets.containers.file_rows import BadRow, Packed, Plain, shown
from lorad.datasets.formats import packed_documents, row_values, spectra, spectrum_files
from lorad.datasets.formats.row_values import Row, unpacked
from lorad.datasets.formats.text_formats import TAG, Document, Sentence, document, sentences
from lorad.records import Example

Span = tuple[int, int, str]


class Labels(tuple[str, ...]):  # noqa: SLOT001 - a tuple cannot have slots beside its values
    """What a sidecar names, by number, and found by name as fast however many they are: a row may have as many tags."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        del names  # the tuple has them
        self._known = frozenset(self)

    def __contains__(self, name: object) -> bool:
        return name in self._known


#: What a row of each task must have, for errors.
NEEDS = {
    "chat": "a row needs a question and its answer",
    "tagging": "a row needs tokens and their tags, or a text and its spans",
    "classify": "a row needs a text and its label (or a list of labels, or the probability of each)",
    "retrieval": "a row needs a text, and may have a title, url, source, id, date and tags",
    "spectra": "a row needs smiles, mzs and intensities, and may have precursor_mz, charge and adduct",
}

#: What reads a task's text files that are neither JSON nor tables.
PLAIN: dict[str, Plain] = {"tagging": sentences, "retrieval": document, "spectra": spectrum_files.spectra}

#: What reads a task's files that are no text.
PACKED: dict[str, Packed] = {"retrieval": packed_documents.find}

#: Columns of a table as errors show them.
EXAMPLE = {
    "tagging": ("tokens", "ner_tags"),
    "classify": ("text", "label"),
    "retrieval": ("title", "text"),
    "spectra": ("smiles", *spectra.PEAKS),
}

_TAGS = ("ner_tags", "tags", "labels")
_SPANS = ("spans", "entities", "label", "labels")
_TEXTS = ("text", "sentence", "content")
_LABELS = ("label", "labels")
_BODIES = ("text", "content", "document", "body", "passage")
_NAMES = ("title", "url", "source", "id", "_id", "date", "markup")

#: lorad's names of fields, which a sidecar may map, by task.
FIELDS = {
    "tagging": ("tokens", *_TAGS, "text", "spans", "entities", "label", "tokenized_text", "ner"),
    "classify": (*_TEXTS, *_LABELS),
    "retrieval": (*_BODIES, *_NAMES, "tags"),
    "spectra": ("smiles", *spectra.PEAKS, *spectra.BESIDE),
}

#: What tools write beside their annotations: who, when, and remarks.
REMARKS = {"meta", "Comments", "comments", "annotation_approver", "annotator", "annotation_id"}
REMARKS |= {"created_at", "updated_at", "lead_time", "idx"}

#: From as many labels on, a list of numbers cannot be mistaken for 0 or 1 for each.
_CLEAR = 3

#: Makes one emoji of two.
_JOINER = "\u200d"

#: Probabilities are often written with two or three digits.
_INEXACT = 0.011

#: A list or an object as a program prints it where a label should be; JSON's lists were unpacked before.
_PRINTED = re.compile(r"""\s*[\[{]\s*['"\d]""")

#: A number in a table's cell; with more digits it is no label's.
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.0+)?")

#: What goes on with the character before it, beside accents: the inner letters of a Korean syllable, the colour of an emoji's skin,
#: the letters of a region's flag.
_INNER = re.compile("[\u1160-\u11ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")

#: The letters that make the flags of countries, two each.
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")

#: A tag of a token, as tagging schemes write it.
_TAG = re.compile(r"O$|[BI]-\S")

_PAIR = "pairs of texts are not learned; put both into one text"
_COMPLETIONS = "is how Label Studio before 1.0 wrote annotations; export with 1.0 or newer"

#: Fields of formats that are known and cannot be learned from, and why.
REFUSED = {
    **dict.fromkeys(("text_pair", "sentence1", "sentence2", "premise", "hypothesis"), _PAIR),
    **dict.fromkeys(("query", "positive", "negative"), "pairs of questions and passages are not read"),
    "title": "a text in two fields is not learned; put title and text into one",
    "relations": "relations between spans are not learned",
    "completions": _COMPLETIONS,
    "input_ids": "token ids of another program are not learned; give their text",
}


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a row."""

    name: str
    task: str
    what: str
    """The subject of "… for a tagging track"."""
    field: Callable[[Any], str | None]
    """Returns the field by which a row is known to be of this format, None when it is not."""
    read: Callable[[Any, Labels], Example]


def find(row: Any, task: str) -> Format | None:
    """Return the format of a row, one of this task's own if it could be of several."""
    found = [each for each in FORMATS if each.field(row) is not None]
    return next((each for each in found if each.task == task), found[0] if found else None)


def convert(row: Any, task: str, labels: Sequence[str]) -> tuple[str, list[Example]]:
    """Return the name of a row's format and its examples; raise ``BadRow``."""
    if isinstance(row, BadRow):
        raise row
    found = find(row, task)
    if found is None or found.task != task:
        raise foreign(row, task) or _no_format(row, task)
    return found.name, [found.read(row, labels if isinstance(labels, Labels) else Labels(labels))]


def foreign(row: Any, task: str) -> BadRow | None:
    """Return what a row of another task's format is told, None when it is of no known one."""
    found = find(row, task)
    if found is None or found.task == task:
        return None
    told = f"{found.what} for a {found.task} track; in a {task} track {NEEDS[task]}"
    return BadRow(found.field(row) or "", told)


def _no_format(row: Any, task: str) -> BadRow:
    if not isinstance(row, Mapping):
        return BadRow("", f"a row must be an object with named fields, not a {type(row).__name__}")
    if refused := next((key for key in row if key in REFUSED and key not in FIELDS[task]), None):
        return BadRow(refused, REFUSED[refused])
    if chat := next(
        (key for key in ("messages", "conversations", "instruction", "question", "prompt") if key in row),
        None,
    ):
        return BadRow(chat, f"questions and answers are for a chat track; in a {task} track {NEEDS[task]}")
    known = (*FIELDS[task], *row_values.IGNORED, *REMARKS)
    strange = next((str(key) for key in row if key not in known), None)
    if strange is not None:
        return BadRow(strange, f"the field is unknown here; {NEEDS[task]}")
    missing = next(name for name in FIELDS[task] if row_values.is_empty(row.get(name)))
    return BadRow(missing, f"the field is missing or empty; {NEEDS[task]}")


def is_header(columns: Collection[str], task: str) -> bool:
    """Tell whether a table with these columns holds rows for a task."""
    names = set(columns)
    if task == "tagging":
        by_words = "tokens" in names and not names.isdisjoint(_TAGS)
        return (
            by_words
            or ("text" in names and not names.isdisjoint(_SPANS))
            or {"tokenized_text", "ner"} <= names
        )
    if task == "classify":
        return not names.isdisjoint(_TEXTS) and not names.isdisjoint(_LABELS)
    if task == "spectra":
        return {"smiles", *spectra.PEAKS} <= names
    return not names.isdisjoint(_BODIES)


def _refuse_unknown(row: Row, known: Collection[str], where: str = "") -> None:
    row_values.refuse_unknown(row, known, where, ignored=row_values.IGNORED | REMARKS, reasons=REFUSED)


def _only(row: Row, names: Iterable[str]) -> str:
    """Return which one of several names is used; raise ``BadRow`` when that is not clear."""
    there = [name for name in names if name in row]
    found = [name for name in there if not row_values.is_empty(row[name])]
    if len(found) > 1:
        raise BadRow(found[1], f"conflicts with {found[0]}; choose one in the sidecar's fields")
    return (found or [name for name in there if row[name] is not None] or there)[0]


def _list(row: Row, key: str) -> list[Any]:
    value = unpacked(row, key)
    if not isinstance(value, list):
        raise BadRow(key, "must be a list, in a table its JSON")
    return value


# labels


def _name(value: Any, where: str, labels: Labels) -> str:
    """Return a label's name; a number, also in the text of a table's cell, counts the sidecar's labels."""
    if isinstance(value, str) and value.strip() in labels:
        return value.strip()
    if (number := _number(value)) is not None:
        if not labels:
            raise BadRow(
                where,
                f"is the number {number}; say what it stands for in the sidecar: labels: [name of 0, …]",
            )
        if not 0 <= number < len(labels):
            raise BadRow(where, f"is {number}, and the sidecar names the labels 0 to {len(labels) - 1}")
        return labels[number]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(where, "must be the name of a label, or its number")
    if labels:
        raise BadRow(where, f"is {value!r}, which is not among the sidecar's labels")
    if _PRINTED.match(value):
        raise BadRow(where, f"is {value!r}, which is no name; write several labels as a list in JSON")
    row_values.check_text(where, value)
    if len(value) > label_names.LONGEST:
        raise BadRow(where, f"has {len(value)} characters; a label has {label_names.LONGEST} at most")
    return value.strip()


def _number(value: Any) -> int | None:
    """Return the number that stands for a label; tables write 1 as 1.0 where another cell of the column is empty."""
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _NUMBER.fullmatch(value.strip()) else None
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if (isinstance(value, int) and not isinstance(value, bool)) or is_whole else None


# tagging


def entities(tags: Sequence[str]) -> list[Span]:
    """Return what tags say, in words (first, behind the last, label), as seqeval and conlleval read them.

    IOB1, IOB2, BIOES and BILOU alike: an I- that follows nothing of its kind begins an entity.
    """
    found: list[Span] = []
    begin, open_label = 0, ""
    for at, tag in enumerate([*tags, "O"]):
        sign, _, label = tag.partition("-")
        is_new = sign in ("B", "S", "U") or label != open_label
        if open_label and is_new:
            found.append((begin, at, open_label))
        if is_new:
            begin, open_label = at, label
        if open_label and sign in ("E", "L", "S", "U"):
            found.append((begin, at + 1, open_label))
            open_label = ""
    return found


def _joined(tokens: Sequence[Any], field: str) -> tuple[str, list[int]]:
    """Return tokens with one blank between them, and where each begins."""
    starts: list[int] = []
    at = 0
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            raise BadRow(f"{field}[{index}]", "must be text that is not empty")
        starts.append(at)
        at += len(token) + 1
    if not starts:
        raise BadRow(field, "holds no token")
    return " ".join(tokens), starts


def _of_words(tokens: Sequence[Any], field: str, spans: Iterable[Span]) -> Example:
    text, starts = _joined(tokens, field)
    row_values.check_text(field, text)
    ends = [start + len(token) for start, token in zip(starts, tokens, strict=True)]
    answer = [[starts[first], ends[end - 1], label] for first, end, label in spans]
    return Example(task="tagging", input=text, target=sorted(answer))


def _tokens(row: Row, labels: Labels) -> Example:
    key = _only(row, _TAGS)
    _refuse_unknown(row, {"tokens", key, "pos_tags", "chunk_tags"})
    return _tagged(_list(row, "tokens"), _list(row, key), key, labels)


def _tagged(tokens: Sequence[Any], tags: Sequence[Any], key: str, labels: Labels) -> Example:
    if len(tokens) != len(tags):
        raise BadRow(key, f"has {len(tags)} tags, and there are {len(tokens)} tokens")
    names = [_name(tag, f"{key}[{index}]", labels) for index, tag in enumerate(tags)]
    for index, name in enumerate(names):
        if not TAG.fullmatch(name):
            raise BadRow(f"{key}[{index}]", f"is {name!r}; a tag is O, or a label after B-, I-, E- or S-")
    return _of_words(tokens, "tokens", entities(names))


def _gliner(row: Row, labels: Labels) -> Example:
    _refuse_unknown(row, {"tokenized_text", "ner"})
    tokens, spans = _list(row, "tokenized_text"), []
    for index, item in enumerate(_list(row, "ner")):
        first, last, label = _span(item, f"ner[{index}]", labels)
        if not 0 <= first <= last < len(tokens):
            raise BadRow(f"ner[{index}]", f"names the tokens {first} to {last}, and there are {len(tokens)}")
        spans.append((first, last + 1, label))
    _refuse_overlap(sorted(spans), "ner")
    return _of_words(tokens, "tokenized_text", sorted(set(spans)))


def _spans(row: Row, labels: Labels) -> Example:
    key = _only(row, _SPANS)
    _refuse_unknown(row, {"text", key})
    text = _Text(row_values.text(row, "text"))
    return _of_text(text, [(f"{key}[{i}]", item) for i, item in enumerate(_list(row, key))], key, labels)


class _Text:
    """A text in which many spans are looked up, each as fast as what it says of itself is long."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._pressed = ""
        self._places: list[int] = []
        """Where each character stands in the text without white space."""

    def says(self, start: int, end: int, told: str) -> bool:
        """Tell whether a span says this, white space aside."""
        if len(told) == end - start and self.text.startswith(told, start):
            return True
        if not self._places:
            spaced = _without_escapes(self.text)
            self._pressed = "".join(spaced.split())
            self._places = list(accumulate((not sign.isspace() for sign in spaced), initial=0))
        pressed, first = "".join(_without_escapes(told).split()), self._places[start]
        return self._places[end] - first == len(pressed) and self._pressed.startswith(pressed, first)


def _without_escapes(text: str) -> str:
    return text.replace("\\n", "\n\n")  # Label Studio writes line breaks as \n in a span's text


def _of_text(text: _Text, items: Iterable[tuple[str, Any]], field: str, labels: Labels) -> Example:
    spans: set[Span] = set()  # twice the same says nothing new
    size = len(text.text)
    for where, item in items:
        start, end, label = _span(item, where, labels)
        if _TAG.match(label):
            raise BadRow(
                where,
                f"has the label {label!r}, a tag of tokens; name the label alone, and leave out what is O",
            )
        if not 0 <= start < end <= size:
            raise BadRow(where, f"goes from {start} to {end}, and the text has {size} characters")
        said = item.get("text") if isinstance(item, Mapping) else None
        if isinstance(said, str) and not text.says(start, end, said):
            told = (
                f"says {shown(said)!r}, and at {start} to {end} the text says {shown(text.text[start:end])!r}"
            )
            raise BadRow(where, f"{told}; count characters from 0, the end exclusive")
        start, end = _without_blanks(text.text, start, end)
        if start == end:
            raise BadRow(where, "marks nothing but blanks")
        if cut := next((at for at in (start, end) if _is_inside_character(text.text, at)), None):
            told = f"begins or ends inside the character {text.text[cut - 1 : cut + 1]!r}, at {cut}"
            raise BadRow(where, f"{told}; count code points, and mark whole characters")
        spans.add((start, end, label))
    _refuse_overlap(sorted(spans), field)
    return Example(task="tagging", input=text.text, target=[list(span) for span in sorted(spans)])


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the blanks at its edges, which people mark by accident."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def _is_inside_character(text: str, at: int) -> bool:
    """Tell whether what people see as one character is cut here: before an accent, beside a joiner, or in a flag."""
    if not 0 < at < len(text):
        return False
    if unicodedata.category(text[at]).startswith("M") or _JOINER in text[at - 1 : at + 1]:
        return True
    if _INNER.match(text[at]):
        return not text[at - 1].isspace()
    begin = at
    while begin and _FLAG.match(text, begin - 1):
        begin -= 1
    return _FLAG.match(text, at) is not None and (at - begin) % 2 == 1


def _refuse_overlap(spans: Sequence[Span], field: str) -> None:
    for one, other in pairwise(sorted(set(spans))):
        if other[0] < one[1]:
            told = f"{one[2]} ({one[0]} to {one[1]}) and {other[2]} ({other[0]} to {other[1]})"
            raise BadRow(field, f"{told} overlap; a character can have one label")


def _span(item: Any, where: str, labels: Labels) -> Span:
    """Return a span that is an object or a list of three, with start and end as they are written."""
    if isinstance(item, Mapping):
        known = {"start", "end", "start_offset", "end_offset", "label", "labels", "text", "score"}
        _refuse_unknown(item, known, f"{where}.")
        label = item.get("label")
        if label is None and isinstance(several := item.get("labels"), list) and len(several) == 1:
            label = several[0]
        item = [item.get("start", item.get("start_offset")), item.get("end", item.get("end_offset")), label]
    if not isinstance(item, list) or len(item) != 3:  # noqa: PLR2004 - start, end, label
        raise BadRow(where, "must be start, end and label")
    start, end, label = item
    if not (type(start) is int and type(end) is int):
        raise BadRow(where, "start and end must be whole numbers")
    return start, end, _name(label, where, labels)


def _spacy(row: Any, labels: Labels) -> Example:
    text, said = row
    _refuse_unknown(said, {"entities"}, "[1].")
    return _spans({"text": text, "entities": said["entities"]}, labels)


def _label_studio(row: Row, labels: Labels) -> Example:
    """Read one task of Label Studio's JSON export; its other fields are the tool's bookkeeping."""
    text = _Text(_task_text(row["data"]))
    given = [(f"annotations[{at}]", each) for at, each in enumerate(_list(row, "annotations"))]
    kept = [(where, each) for where, each in given if _result(each, where) is not None]
    kept = [(where, each) for where, each in kept if each.get("ground_truth")] or kept
    found = [_of_text(text, _regions(each, where), where, labels) for where, each in kept]
    if not found:
        raise BadRow("annotations", "holds no annotation; export only the tasks that were annotated")
    if any(other.target != found[0].target for other in found):
        raise BadRow("annotations", "holds several that differ; mark one of them as ground truth")
    return found[0]


def _task_text(data: Row) -> str:
    """Return the text that a task shows: its only one, whatever the project calls it."""
    names = [key for key, value in data.items() if isinstance(value, str)]
    name = "text" if "text" in data else names[0] if len(names) == 1 else None
    if name is None:
        raise BadRow("data.text", "is missing, and there is no other single text")
    try:
        return row_values.text(data, name)
    except BadRow as problem:
        raise BadRow(f"data.{problem.field}", str(problem)) from None


def _result(annotation: Any, where: str) -> list[Any] | None:
    """Return what an annotation holds, None when it was skipped."""
    result = annotation.get("result") if isinstance(annotation, Mapping) else None
    if not isinstance(result, list):
        raise BadRow(f"{where}.result", "must be a list")
    return None if annotation.get("was_cancelled") else result


def _regions(annotation: Row, where: str) -> Iterator[tuple[str, Any]]:
    for index, region in enumerate(annotation["result"]):
        place = f"{where}.result[{index}]"
        value = region.get("value") if isinstance(region, Mapping) else None
        if not isinstance(value, Mapping) or "labels" not in value:
            raise BadRow(place, "is no labelled span; choices, relations and ratings are not read")
        yield (
            f"{place}.value",
            {key: value[key] for key in ("start", "end", "text", "labels") if key in value},
        )


# classify


def _classified(row: Row, labels: Labels) -> Example:
    body, key = _only(row, _TEXTS), _only(row, _LABELS)
    _refuse_unknown(row, {body, key})
    value = unpacked(row, key)
    if isinstance(value, Mapping):
        answer: Any = _shares(value, key, labels)
    else:
        answer = _several(value, key, labels) if isinstance(value, list) else _name(value, key, labels)
    return Example(task="classify", input=row_values.text(row, body), target=answer)


def _shares(values: Mapping[Any, Any], key: str, labels: Labels) -> dict[str, float]:
    """Return the share of the ratings that each label got, in the labels' order."""
    found: dict[str, float] = {}
    for label, share in values.items():
        where = f"{key}.{label}"
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise BadRow(where, "must be a probability, 0 to 1")
        name = _name(label, where, labels)
        if name in found:
            raise BadRow(where, f"names {name} a second time")
        found[name] = float(share)
    total = sum(found.values())
    if abs(total - 1) > _INEXACT:
        raise BadRow(key, f"must be probabilities that sum to 1, and these sum to {total:.6g}")
    return {name: found[name] for name in sorted(found) if found[name]}


def _several(values: list[Any], key: str, labels: Labels) -> list[str]:
    """Return the names of a text's labels: given as names, as 0 or 1 for each label, or as numbers."""
    if values and all(isinstance(value, int | float) for value in values):
        if not labels:
            raise BadRow(key, "holds numbers; say what they stand for in the sidecar: labels: [name of 0, …]")
        if len(values) == len(labels) and all(value in (0, 1) for value in values):
            return sorted(name for name, is_so in zip(labels, values, strict=True) if is_so)
        # of three labels or more, two different numbers below two are all that could be taken for the former
        if len(labels) < _CLEAR or len(set(values)) < len(values):
            raise BadRow(
                key, f"must be 0 or 1 for each of the sidecar's {len(labels)} labels, or their numbers"
            )
    return sorted({_name(value, f"{key}[{index}]", labels) for index, value in enumerate(values)})


# retrieval


def _document(row: Row, labels: Labels) -> Example:
    """Read a document; without an url its text is part of its name, because ids and titles are given twice."""
    del labels
    body = _only(row, _BODIES)
    _refuse_unknown(row, {body, *_NAMES, "tags"})
    text = row_values.text(row, body)
    name: dict[str, Any] = {
        key.lstrip("_"): _written(row, key) for key in _NAMES if not row_values.is_empty(row.get(key))
    }
    if not row_values.is_empty(row.get("tags")):
        name["tags"] = _tags(row)
    if "url" not in name:
        name["digest"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Example(task="retrieval", input=name, target=text)


def _tags(row: Row) -> list[str]:
    value = unpacked(row, "tags")
    tags = [value] if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
        raise BadRow("tags", "must be a list of texts")
    return sorted({tag.strip() for tag in tags})


def _written(row: Row, key: str) -> str:
    value = row[key]
    return str(value) if type(value) is int else row_values.text(row, key)


def _file(row: Document, labels: Labels) -> Example:
    del labels
    row_values.check_text("text", row.text)
    known: dict[str, Any] = {"title": row.title, "source": row.source}
    if row.markup:
        known["markup"] = row.markup
    if row.pages:
        known["pages"] = list(row.pages)
    return Example(task="retrieval", input=known, target=row.text)


# which is which


def _has(*names: str) -> Callable[[Any], str | None]:
    """Return what knows a row by fields that all hold something; the last names the format."""
    return lambda row: (
        names[-1] if isinstance(row, Mapping) and all(row.get(name) is not None for name in names) else None
    )


def _is_tokens(row: Any) -> str | None:
    return "tokens" if any(_has("tokens", name)(row) for name in _TAGS) else None


def _is_spacy_row(row: Any) -> str | None:
    is_it = isinstance(row, list) and len(row) == len(("text", "said")) and isinstance(row[0], str)
    return "entities" if is_it and isinstance(row[1], Mapping) and "entities" in row[1] else None


def _is_task(row: Any) -> str | None:
    return (
        _has("data", "annotations")(row)
        if isinstance(row, Mapping) and isinstance(row.get("data"), Mapping)
        else None
    )


def _is_spans(names: Sequence[str], kind: type | tuple[type, ...], row: Any) -> str | None:
    """Return the field that holds a text's spans, each of this kind; there may be none."""
    for name in names:
        if _has("text", name)(row) and isinstance(spans := unpacked(row, name), list):
            return name if all(isinstance(span, kind) for span in spans) else None
    return None


def _is_classified(row: Any) -> str | None:
    if not isinstance(row, Mapping) or not any(name in row for name in _TEXTS):
        return None
    key = next((name for name in _LABELS if row.get(name) is not None), None)
    value = unpacked(row, key) if key else None
    is_spans = isinstance(value, list) and any(isinstance(each, list | Mapping) for each in value)
    return next((name for name in _LABELS if name in row), None) if not is_spans else None


def _is_document(row: Any) -> str | None:
    return next((name for name in _BODIES if _has(name)(row)), None)


#: All formats; of several that a row could be of, the first one of the track's own task.
FORMATS = (
    Format(
        "conll",
        "tagging",
        "sentences in columns are",
        lambda row: "tokens" if isinstance(row, Sentence) else None,
        lambda row, labels: _tagged(row.tokens, row.tags, "tags", labels),
    ),
    Format("tokens", "tagging", "tokens and tags are", _is_tokens, _tokens),
    Format("gliner", "tagging", "tokens and entities are", _has("ner", "tokenized_text"), _gliner),
    Format("spacy", "tagging", "a text and its entities are", _is_spacy_row, _spacy),
    Format("label studio", "tagging", "Label Studio's annotations are", _is_task, _label_studio),
    Format(
        "spacy", "tagging", "a text and its entities are", partial(_is_spans, ("entities",), list), _spans
    ),
    Format("spans", "tagging", "a text and its spans are", _has("text", "spans"), _spans),
    Format("spans", "tagging", "a text and its entities are", _has("text", "entities"), _spans),
    Format(
        "doccano", "tagging", "a text and its spans are", partial(_is_spans, _LABELS, (list, dict)), _spans
    ),
    Format("classification", "classify", "a text and its label are", _is_classified, _classified),
    Format(
        "file",
        "retrieval",
        "a whole text is",
        lambda row: "text" if isinstance(row, Document) else None,
        _file,
    ),
    Format("document", "retrieval", "a document is", _is_document, _document),
    Format(
        "spectrum",
        "spectra",
        "spectra of molecules are",
        _has("smiles", *spectra.PEAKS),
        lambda row, _: spectra.read(row),
    ),
)

#: Where a row of each format has its labels, for what is wrong with them in its track or beside other rows.
LABELLED_IN = {
    "conll": "tags",
    "tokens": "tags",
    "gliner": "ner",
    "spacy": "entities",
    "label studio": "annotations",
    "spans": "spans",
    "doccano": "label",
    "classification": "label",
}

TASKS = tuple(FIELDS)
