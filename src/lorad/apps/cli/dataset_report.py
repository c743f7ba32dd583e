"""The report of ``lorad check`` on a dataset file.

What lives here: statistics of what ``reader`` read, and the report as text. What never does: reading files, loading
models; ``measure`` gets a tokenizer.
"""

import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lorad import records, wordings
from lorad.apps.screens.state_text import plural
from lorad.datasets.reader import Reading
from lorad.records import Encoded, Example
from lorad.tasks import Generating, Row, Task, encode

#: Maximum number of bad rows, contradictions and so on in a printed report.
LISTED = 20
PERCENTILES = (50, 90, 95, 99)

#: End-of-answer tokens of common models; of another model than the track's own they are ordinary text.
_END_TOKEN = re.compile("(?:</s>|<eos>|<end_of_turn>|<\\|\\w+\\|>|\\[\\|\\w+\\|]|<\uff5c\\S+\uff5c>)$")

#: Characters of an input or a target in a printed report; a document may be very long.
_SHOWN = 300


def summarize(name: str, reading: Reading) -> dict[str, Any]:
    """Return the part of the report that needs no tokenizer."""
    asked = {example.input_id for example in reading.contradicted}
    newest = {e.input_id: e for e in reading.examples if e.input_id in asked} if asked else {}
    return {
        "file": name,
        "rows": reading.rows,
        "examples": len(reading.examples),
        "formats": reading.formats,
        "repeated": reading.repeated,
        "contradicted": reading.contradictions,
        "contradictions": [_contradiction(old, newest[old.input_id]) for old in reading.contradicted],
        "left_out": reading.left_out,
        "wordings": _wordings(reading.examples),
        "end_tokens": _end_tokens(reading.examples),
        "problems": [records.as_json(problem) for problem in reading.problems],
        "first": _first(reading.examples),
    }


def _wordings(examples: Iterable[Example]) -> dict[str, int]:
    """Count the examples whose question has other wordings, and the wordings that are trained and held out."""
    found = Counter(rows=0, trained=0, held_out=0)
    for example in examples:
        found.update(
            rows=bool(wordings.of(example)), trained=len(example.also_asked), held_out=len(example.held_out)
        )
    return dict(found)


def _first(examples: Sequence[Example]) -> dict[str, Any] | None:
    if not examples:
        return None
    first = examples[0]
    return {"line": first.line, "question": first.input, "answer": first.target}


def _end_tokens(examples: Iterable[Example]) -> dict[str, int]:
    """Count the answers that end with a model's end token; some datasets append one to each."""
    found: Counter[str] = Counter()
    for example in examples:
        if example.task == "chat":
            said = records.as_message(example.target)["content"].rstrip()
            found.update(_END_TOKEN.findall(said))
    return dict(found)


def _contradiction(old: Example, new: Example) -> dict[str, Any]:
    return {
        "question": old.input,
        "rows": [old.line, new.line],
        "answers": [old.target, new.target],
        "counts": new.line,
    }


def measure(
    examples: Sequence[Example], task: Task, tokenizer: Any, longest: Callable[[Sequence[int]], int]
) -> dict[str, Any]:
    """Return what the base model's tokenizer makes of the examples: lengths, ends, and the first one in full.

    Begin and end tokens are looked at where the task answers in text.

    ``longest`` returns a plan's limit for these lengths: a longer example is left out and reported, never cut.
    """
    lengths: list[int] = []
    marks = {"begin_twice": 0, "end_missing": 0, "end_inside": 0}
    sample = None
    end = task.stop_tokens(tokenizer)[0] if isinstance(task, Generating) else None
    usable, unusable = encode(task, tokenizer, examples)
    for example, encoded in usable:
        lengths.append(len(encoded))
        if end is not None:
            for mark, is_so in _marks(encoded, tokenizer.bos_token_id, end).items():
                marks[mark] += is_so
        sample = sample or _sample(example, encoded, tokenizer)
    return {
        "tokens": _lengths(lengths, longest(lengths) if lengths else 0),
        "begin_token": tokenizer.bos_token,
        "end_token": None if end is None else tokenizer.convert_ids_to_tokens(end),
        **marks,
        "trials": [records.as_json(trial) for trial in task.trials(tokenizer)],
        "unusable": [{"line": example.line, "message": error.message} for example, error in unusable],
        "sample": sample,
    }


def _marks(encoded: Encoded, begin: int | None, end: int) -> dict[str, bool]:
    answer = encoded.target
    return {
        "begin_twice": begin is not None and encoded.tokens[:2] == (begin, begin),
        "end_missing": answer[-1:] != (end,),
        "end_inside": end in answer[:-1],
    }


def _lengths(lengths: list[int], longest: int) -> dict[str, Any]:
    ordered = sorted(lengths)
    over = sum(length > longest for length in ordered)
    percentiles = {
        f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in PERCENTILES if ordered
    }
    return {
        **percentiles,
        "max": ordered[-1] if ordered else 0,
        "mean": round(statistics.fmean(ordered), 1) if ordered else 0.0,
        "total": sum(ordered),
        "longest_that_is_learned": longest,
        "too_long": over,
        "share_too_long": round(over / len(ordered), 4) if ordered else 0.0,
    }


def _sample(example: Example, encoded: Row, tokenizer: Any) -> dict[str, Any]:
    if not isinstance(encoded, Encoded):
        asked, taught = records.as_line(example.input), records.as_line(example.target)
        sizes = {"tokens": len(encoded), "trained_tokens": encoded.weight}
        return {"line": example.line, **sizes, "prompt": asked, "trained": taught}
    return {
        "line": example.line,
        "tokens": len(encoded),
        "trained_tokens": len(encoded.target),
        "prompt": tokenizer.decode(encoded.tokens[: encoded.start], skip_special_tokens=False),
        "trained": tokenizer.decode(encoded.target, skip_special_tokens=False),
    }


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a report as headings and texts, for people; ⟦ ⟧ enclose what is trained."""
    formats = ", ".join(f"{count} {name}" for name, count in report["formats"].items())
    rows = [
        ("file", f"{report['file']}, for {_reader(report)}"),
        ("rows", f"{report['rows']}: {formats}"),
        ("examples", f"{report['examples']} to learn, {plural(report['repeated'], 'duplicate')}"),
    ]
    if report.get("description"):
        rows.append(("about", report["description"]))
    if (given := report["wordings"])["rows"]:
        told = f"{given['trained']} are trained, {given['held_out']} held out for tests"
        rows.append(("wordings", f"{plural(given['rows'], 'example')} with other wordings: {told}"))
    rows += [("left out", f"{often} {reason}") for reason, often in report["left_out"].items()]
    rows += [("end token", each) for each in _foreign_ends(report)]
    rows += [("contradiction", _contradiction_text(each)) for each in report["contradictions"][:LISTED]]
    rows += [
        ("bad row", f"line {each['line']}, field {each['field'] or '-'}: {each['message']}")
        for each in report["problems"][:LISTED]
    ]
    rows += _more(report)
    if report["model"]:
        return rows + _model_lines(report["model"])
    if first := report["first"]:
        rows.append((f"line {first['line']}", f"{_brief(first['question'])} ⟦{_brief(first['answer'])}⟧"))
    return [*rows, ("tokens", report["no_model"])]


def _foreign_ends(report: dict[str, Any]) -> list[str]:
    """Return warnings about end tokens of other models; the own model's is appended to every answer anyway."""
    own = report["model"]["end_token"] if report["model"] else None
    whose = "another model's end token" if own else "an end token that may be another model's"
    return [
        f"{often} {'answer ends' if often == 1 else 'answers end'} with {token}, {whose}; "
        "it would be learned as text, so remove it"
        for token, often in report["end_tokens"].items()
        if token != own
    ]


def _reader(report: dict[str, Any]) -> str:
    return f"the track {report['track']}" if report["track"] else f"the task {report['task']}"


def _brief(value: Any) -> str:
    """Return an input or a target of any task in one line; of messages the text of the last one."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and "content" in value[-1]:
        value = value[-1]["content"]
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} … ({len(text)} characters)"


def _more(report: dict[str, Any]) -> list[tuple[str, str]]:
    over = {
        "contradictions": report["contradicted"] - LISTED,
        "problems": len(report["problems"]) - LISTED,
    }
    return [("", f"and {count} more {name}; all with --json") for name, count in over.items() if count > 0]


def _contradiction_text(contradiction: dict[str, Any]) -> str:
    (first, second), (old, new) = contradiction["rows"], map(_brief, contradiction["answers"])
    question = _brief(contradiction["question"])
    return f"{question}: line {first} says {old}, line {second} {new}; the later one counts"


def _model_lines(model: dict[str, Any]) -> list[tuple[str, str]]:
    tokens, sample = model["tokens"], model["sample"]
    spread = ", ".join(
        f"{name} {tokens[name]}" for name in (*(f"p{p}" for p in PERCENTILES), "max") if name in tokens
    )
    faults = [
        (model["begin_twice"], f"begin twice with {model['begin_token']}"),
        (model["end_missing"], f"do not end with {model['end_token']}"),
        (model["end_inside"], f"contain {model['end_token']} inside the answer"),
    ]
    ended = f"each answer ends with one {model['end_token']}, which is trained"
    wrong = "; ".join(f"{count} examples {what}" for count, what in faults if count)
    over = f"{tokens['too_long']} ({tokens['share_too_long']:.1%})"
    rows = [
        ("tokens", f"{spread}; {tokens['total']} in all"),
        ("too long", f"{over} over {tokens['longest_that_is_learned']} tokens; they would be left out"),
        *([("begin, end", wrong or ended)] if model["end_token"] else []),
    ]
    rows += [
        ("template", f"{each['name']}: {each['detail']}")
        for each in model["trials"]
        if each["status"] != "ok"
    ]
    rows += [
        ("unusable", f"line {each['line']}: {each['message']}")
        for each in itertools.islice(model["unusable"], LISTED)
    ]
    if sample:
        rows.append((f"line {sample['line']}", f"{sample['prompt']}⟦{sample['trained']}⟧"))
    return rows


def refusal(report: dict[str, Any]) -> dict[str, str] | None:
    """Return an error if nothing in a file can be learned; ``None`` if something can, or without a model."""
    model = report["model"]
    if model is None or report["examples"] > len(model["unusable"]) + model["tokens"]["too_long"]:
        return None
    if model["unusable"]:
        first = model["unusable"][0]
        message = f"nothing in {report['file']} can be learned; the first is line {first['line']}: {first['message']}"
        return {"code": "unusable", "message": message}
    longest = model["tokens"]["longest_that_is_learned"]
    message = (
        f"nothing in {report['file']} can be learned: every row is longer than {longest} tokens; shorten them"
    )
    return {"code": "too_long", "message": message}
