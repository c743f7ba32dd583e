"""Files of doubling size through the dataset reader: how the time grows with what a person may make larger.

    python bench/doubling.py [--only NAME]

Each case makes one file five times, each twice as large as the one before, in one direction alone: the turns of a
chat, the columns of a table, blanks in a row. A file is read three times and the best time of the processor counts (once, where that
takes half a second).
``exponent`` is the slope of log(time) over log(size) for the last three sizes, where what every file costs counts least:
1 is linear, 2 is quadratic. ``peak`` is what Python had in use at most for the third file (tracemalloc), which stands
beside the bytes of that file. What is refused counts as what is read: the sentence has to come in time too.
A case that takes longer than ``SLOW`` seconds for one reading is not made larger.
"""

import argparse
import gc
import io
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import report
from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar
from lorad.errors import SampleError

#: Seconds; a case that takes longer is clear, and is not made larger.
SLOW = 1.5

#: The size, by its place, at which memory is traced.
PEAK_STEP = 2

#: Seconds; what takes longer than this is read once.
CERTAIN = 0.5

#: Exponents above it are told.
LINEAR = 1.3

Q, A = "Where is the mill?", "By the river."
PAIR = {"question": Q, "answer": A}
TOOL = {"role": "tool", "content": "6:40"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What grows, and how a file with that much of it is made."""

    name: str
    file: str
    begin: int
    """The smallest size."""
    make: Callable[[int], bytes]
    task: str = "chat"
    labels: Callable[[int], Sequence[str]] = lambda size: ()  # noqa: ARG005
    steps: int = 5
    growth: int = 2


# what grows


def _json(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _turns(count: int, *, first: Sequence[Any] = (), weight: int | None = None) -> list[Any]:
    said = [
        {"role": ("user", "assistant")[at % 2], "content": f"turn {at}"}
        | ({"weight": weight} if weight is not None and at % 2 and at < count - 2 else {})
        for at in range(count)
    ]
    return [*first, *said]


def _calls(count: int, *, distinct: bool) -> bytes:
    called = [
        {"id": f"c{at}", "function": {"name": f"f{at if distinct else 0}", "arguments": {}}}
        for at in range(count)
    ]
    results = [{**TOOL, "tool_call_id": f"c{at}"} for at in range(count)]
    tools = [{"name": f"f{at}"} for at in range(count if distinct else 1)]
    turns = [{"role": "user", "content": Q}, {"role": "assistant", "tool_calls": called}, *results]
    return _json({"messages": [*turns, {"role": "assistant", "content": A}], "tools": tools})


def _chatgpt(count: int, part: str = "x", *, alone: bool = False) -> bytes:
    def node(at: int) -> dict[str, Any]:
        role = "assistant" if alone and at else ("user", "assistant")[at % 2]
        content = {"content_type": "text", "parts": [part]}
        return {
            "parent": str(at - 1) if at else None,
            "children": [str(at + 1)],
            "message": {"author": {"role": role}, "content": content, "weight": 0 if at < count - 4 else 1},
        }

    return json.dumps(
        [{"mapping": {str(at): node(at) for at in range(count)}, "current_node": str(count - 1)}]
    ).encode()


def _claude(count: int) -> bytes:
    listed = [
        {
            "uuid": f"u{at}",
            "parent_message_uuid": f"u{at - 1}",
            "sender": ("human", "assistant")[at % 2],
            "text": "x" if at > count - 5 else "",
        }
        for at in range(count)
    ]
    return json.dumps([{"chat_messages": listed}]).encode()


def _squad(count: int) -> bytes:
    asked = [{"question": f"q{at}?", "answers": [{"text": "a"}]} for at in range(count)]
    return _json({"paragraphs": [{"context": "c" * 20 * count, "qas": asked}]})


def _batch(count: int) -> bytes:
    body = {"choices": [{"message": {"role": "assistant", "content": A}, "finish_reason": "stop"}]}
    return _json({"custom_id": "1", "body": {"messages": _turns(count - 1)}, "response": {"body": body}})


def _preferred(count: int) -> bytes:
    begun = _turns(count - 1)
    return _json(
        {
            "chosen": [*begun, {"role": "assistant", "content": "x"}],
            "rejected": [*begun, {"role": "assistant", "content": "y"}],
        }
    )


def _wide(count: int, delimiter: str = ",") -> bytes:
    names = delimiter.join(["question", "answer", *(f"c{at}" for at in range(count))])
    return f"{names}\n{delimiter.join(['x'] * (count + 2))}\n".encode()


def _quoted(count: int) -> bytes:
    return f'question,answer\n"{" ".join(["a b"] * count)}",c\n'.encode()


def _blank_cells(count: int) -> bytes:
    """Return cells that begin with a blank and hold quotes, none of them with a blank before its quotes."""
    names = ",".join(["question", "answer", *("" for _ in range(count))])
    return f"{names}\nq,a,{','.join([chr(34) + ' ' + chr(34) * 2 + 'x' + chr(34) * 3] * count)}\n".encode()


def _lines_in_a_quote(count: int) -> bytes:
    return b'question,answer\n"' + b"a,b\n" * count


def _tagged(count: int, tag: Any = "O", tokens: str = "w") -> bytes:
    return _json({"tokens": [tokens] * count, "ner_tags": [tag] * count})


def _spans(count: int) -> bytes:
    spans = [{"start": 2 * at, "end": 2 * at + 1, "label": "X", "text": "a"} for at in range(count)]
    return _json({"text": "a " * count, "spans": spans})


def _long_spans(count: int) -> bytes:
    """Return spans as long as a text of blanks, which say no more than they do."""
    spans = [{"start": 1, "end": 20 * count - at, "label": "X", "text": " "} for at in range(count)]
    return _json({"text": "a" + " " * 20 * count, "spans": spans})


def _studio(count: int) -> bytes:
    region = {"value": {"start": 0, "end": 1, "text": "a", "labels": ["X"]}}
    return json.dumps(
        [{"data": {"text": "a" * count}, "annotations": [{"result": [region]}] * count}]
    ).encode()


def _places(count: int) -> bytes:
    """Return an object with many keys, and then many lists of rows."""
    keys = ",".join(f'"k{at}":1' for at in range(count))
    lists = ",".join(['"data":[{"a":1}]'] * count)
    return f"{{{keys},{lists}}}".encode()


def _columns(count: int) -> bytes:
    return json.dumps({"question": [f"q{at}" for at in range(count)], "answer": ["a"] * count}).encode()


def _nested(count: int) -> bytes:
    return b'{"question":"q","answer":"a","metadata":' + b"[" * count + b"]" * count + b"}"


def _nested_text(count: int) -> bytes:
    call = {"name": "f", "arguments": '{"a":' + "[" * count + "]" * count + "}"}
    turns = [{"role": "user", "content": Q}, {"role": "assistant", "tool_calls": [{"function": call}]}]
    return _json({"messages": turns})


def _listed(count: int) -> bytes:
    return json.dumps([{**PAIR, "question": f"q{at}"} for at in range(count)]).encode()


def _open_lines(count: int) -> bytes:
    return b'{"question": "q",\n' * count


def _broken_lines(count: int) -> bytes:
    return b'{"question": "q" "answer": "a"}\n' * count


def _parquet(columns: int, rows: int = 10) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # noqa: PLC0415

    table = {"question": [f"q{at}" for at in range(rows)], "answer": ["a"] * rows}
    table |= {f"c{at}": [0.5] * rows for at in range(columns)}
    return _written(pa.table(table), parquet)


def _parquet_repeated(size: int) -> bytes:
    """Return a text that is kept once and stands in each of a thousand rows."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    return _written(pa.table({"question": ["q" * size] * 1000, "answer": ["a"] * 1000}), parquet)


def _parquet_list(size: int) -> bytes:
    """Return a list in one cell, of which every value is the same."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    return _written(pa.table({"question": ["q"], "answer": ["a"], "metadata": [["x" * 100] * size]}), parquet)


def _written(table: Any, parquet: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


CASES = (
    Case(name="chat, turns that are learned", file="a.jsonl", begin=60, make=lambda n: _json({"messages": _turns(n)})),
    Case(name="chat, many more turns", file="a.jsonl", begin=1000, make=lambda n: _json({"messages": _turns(n)}), steps=4),
    Case(name="chat, turns of which one is learned", file="a.jsonl", begin=1000, make=lambda n: _json({"messages": _turns(n, weight=0)})),
    Case(name="chat, answers before any question", file="a.jsonl", begin=1000, make=lambda n: _json({"messages": [{"role": "system", "content": "s"}] + [{"role": "assistant", "content": "x"}] * n})),
    Case(name="chat, results of one call", file="a.jsonl", begin=600, make=lambda n: _json({"messages": [{"role": "user", "content": Q}, {"role": "assistant", "tool_calls": [{"name": "f"}]}, *[TOOL] * n, {"role": "assistant", "content": A}]})),
    Case(name="chat, calls and results with ids", file="a.jsonl", begin=300, make=lambda n: _calls(n, distinct=False)),
    Case(name="chat, functions and calls of each", file="a.jsonl", begin=300, make=lambda n: _calls(n, distinct=True)),
    Case(name="chat, content in parts", file="a.jsonl", begin=2000, make=lambda n: _json({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * n}, {"role": "assistant", "content": A}]})),
    Case(name="chat, history", file="a.jsonl", begin=2000, make=lambda n: _json({**PAIR, "history": [["a", "b"]] * n})),
    Case(name="chat, chosen and rejected", file="a.jsonl", begin=600, make=_preferred),
    Case(name="ChatGPT's turns", file="a.json", begin=200, make=_chatgpt),
    Case(name="ChatGPT's answers without questions", file="a.json", begin=200, make=lambda n: _chatgpt(n, alone=True)),
    Case(name="ChatGPT's marks of sources", file="a.json", begin=1000, make=lambda n: _chatgpt(4, "【†" * n)),
    Case(name="Claude's turns", file="a.json", begin=400, make=_claude),
    Case(name="SQuAD, questions on a passage", file="a.jsonl", begin=100, make=_squad),
    Case(name="OpenAI's batch, turns", file="a.jsonl", begin=600, make=_batch),
    Case(name="JSON, keys of a row", file="a.jsonl", begin=2000, make=lambda n: _json({**PAIR, **{f"k{at}": 1 for at in range(n)}})),
    Case(name="JSON, keys that nobody knows", file="a.jsonl", begin=2000, make=lambda n: _json({f"k{at}": "x" for at in range(n)})),
    Case(name="JSON, rows a line", file="a.jsonl", begin=500, make=lambda n: _json(*({**PAIR, "question": f"q{at}"} for at in range(n)))),
    Case(name="JSON, rows of a list", file="a.json", begin=500, make=_listed),
    Case(name="JSON, columns of cells", file="a.json", begin=1000, make=_columns),
    Case(name="JSON, lists of rows behind keys", file="a.json", begin=500, make=_places),
    Case(name="JSON, numbers", file="a.jsonl", begin=4000, make=lambda n: _json({**PAIR, "metadata": [0.5] * n})),
    Case(name="JSON, digits of one number", file="a.jsonl", begin=20_000, make=lambda n: b'{"question":"q","answer":' + b"9" * n + b"}"),
    Case(name="JSON, nesting", file="a.jsonl", begin=1000, make=_nested),
    Case(name="JSON, nesting inside a text", file="a.jsonl", begin=1000, make=_nested_text),
    Case(name="JSON, one long text", file="a.jsonl", begin=10_000, make=lambda n: _json({**PAIR, "question": "ab " * n})),
    Case(name="JSON, one long word", file="a.jsonl", begin=10_000, make=lambda n: _json({**PAIR, "question": "Ab" * n})),
    Case(name="JSON, a text of accents", file="a.jsonl", begin=2000, make=lambda n: json.dumps({**PAIR, "question": "a" + "\u0315\u0316" * n}, ensure_ascii=False).encode()),
    Case(name="JSON, lines that stay open", file="a.jsonl", begin=2000, make=_open_lines),
    Case(name="JSON, lines that are broken", file="a.jsonl", begin=1000, make=_broken_lines),
    Case(name="JSON, blank lines", file="a.jsonl", begin=100_000, make=lambda n: _json(PAIR) + b"\n" * n + _json(PAIR)),
    Case(name="JSON, blanks in a first line", file="a.jsonl", begin=600, make=lambda n: b'{"a":' + b" " * n + b"," * n + b'"x":1' + b"x" * 2_000_000),
    Case(name="CSV, columns", file="a.csv", begin=2000, make=_wide),
    Case(name="CSV, columns that nobody knows", file="a.csv", begin=2000, make=lambda n: _wide(n).replace(b"question", b"x").replace(b"answer", b"y")),
    Case(name="TSV, columns", file="a.tsv", begin=2000, make=lambda n: _wide(n, "\t")),
    Case(name="CSV, rows", file="a.csv", begin=500, make=lambda n: b"question,answer\n" + b"".join(b"q%d,a\n" % at for at in range(n))),
    Case(name="CSV, quotes in a cell", file="a.csv", begin=4000, make=_quoted),
    Case(name="CSV, cells that begin with a blank", file="a.csv", begin=1000, make=_blank_cells),
    Case(name="CSV, lines inside a quote", file="a.csv", begin=2000, make=_lines_in_a_quote),
    Case(name="CSV, separators", file="a.csv", begin=4000, make=lambda n: b"question,answer\n" + b"," * n + b"\n"),
    Case(name="CSV, quoted separators", file="a.csv", begin=4000, make=lambda n: b"question,answer\n" + b'"",' * n + b"\n"),
    Case(name="CSV, one long cell", file="a.csv", begin=10_000, make=lambda n: b"question,answer\nq," + b"a" * n + b"\n"),
    Case(name="CSV, blank lines", file="a.csv", begin=4000, make=lambda n: b"question,answer\n" + b"\n" * n + b"q,a\n"),
    Case(name="CSV, blank lines before the header", file="a.csv", begin=100_000, make=lambda n: b"\n" * n + b"question,answer\nq,a\n"),
    Case(name="CSV, a long line before the header", file="a.csv", begin=20_000, make=lambda n: b"note " * n + b"\nquestion,answer\nq,a\n"),
    Case(name="CSV, blanks below a header with |", file="a.csv", begin=500, make=lambda n: b"question|answer\n" + b" " * n + b"x\nq|a\n"),
    Case(name="a header without an end", file="a.csv", begin=100_000, make=lambda n: b"question,answer," + b"x" * n),
    Case(name="text, a tag without an end", file="a.txt", begin=500, make=lambda n: b"<" + b"a" * n + b" "),
    Case(name="text, a dash and blanks", file="a.txt", begin=500, make=lambda n: b"- a" + b" " * n + b"x."),
    Case(name="text, dashes and blanks", file="a.txt", begin=500, make=lambda n: b"-" + b" " * n + b"."),
    Case(name="a heading with blanks", file="a.md", begin=60, make=lambda n: b"# x" + b" " * n + b"y\n", task="retrieval"),
    Case(name="a document", file="a.md", begin=20_000, make=lambda n: b"word\n" * n, task="retrieval"),
    Case(name="tokens", file="a.jsonl", begin=2000, make=_tagged, task="tagging"),
    Case(name="tokens and labels", file="a.jsonl", begin=250, make=lambda n: _tagged(n, "B-9"), task="tagging", labels=lambda n: [f"B-{at}" for at in range(n)][::-1]),
    Case(name="spans", file="a.jsonl", begin=1000, make=_spans, task="tagging"),
    Case(name="spans over one another", file="a.jsonl", begin=100, make=_long_spans, task="tagging"),
    Case(name="Label Studio's annotations", file="a.json", begin=500, make=_studio, task="tagging"),
    Case(name="a sentence in columns", file="a.conll", begin=2000, make=lambda n: b"w O\n" * n, task="tagging"),
    Case(name="labels of a text", file="a.jsonl", begin=250, make=lambda n: _json({"text": "a", "labels": list(range(n))}), task="classify", labels=lambda n: [f"l{at}" for at in range(n)]),
)  # fmt: skip
PARQUET = (
    Case(name="Parquet, columns", file="a.parquet", begin=125, make=_parquet),
    Case(name="Parquet, rows", file="a.parquet", begin=500, make=lambda n: _parquet(0, n)),
    Case(name="Parquet, a text in every row", file="a.parquet", begin=4000, make=_parquet_repeated),
    Case(name="Parquet, a list of one text", file="a.parquet", begin=4000, make=_parquet_list),
)  # fmt: skip
SIDECARS = {
    "sidecar, labels": (500, lambda n: b"labels: [" + b",".join(b"l%d" % at for at in range(n)) + b"]"),
    "sidecar, open lists": (3000, lambda n: b"labels: " + b"[" * n),
    "sidecar, keys": (300, lambda n: b"fields: {" + b",".join(b"k%d: v" % at for at in range(n)) + b"}"),
    "sidecar, aliases": (
        2,
        lambda n: (
            b"a0: &a0 [x, x]\n"
            + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (k + 1, k + 1, k, k) for k in range(n))
        ),
    ),
}


# measuring


def read(path: Path, limits: InboxSettings, case: Case, size: int) -> None:
    try:
        reader.read(path, limits, case.task, labels=case.labels(size))
    except SampleError:
        return


def beside(path: Path) -> None:
    try:
        sidecar.beside(path)
    except SampleError:
        return


def best(call: Callable[[], None]) -> float:
    times = []
    for _ in range(3):
        gc.collect()
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
        if times[-1] > CERTAIN:
            break
    return min(times)


def peak(call: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    logs = [(math.log(size), math.log(max(took, 1e-6))) for size, took in zip(sizes, times, strict=True)][-3:]
    if len(logs) < 2:
        return math.nan
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def arms() -> Iterator[tuple[str, int, int, int, str, Callable[[int], bytes], Callable[[Path, int], None]]]:
    limits = InboxSettings()
    for case in CASES + (PARQUET if find_spec("pyarrow") else ()):

        def call(path: Path, size: int, case: Case = case) -> None:
            read(path, limits, case, size)

        yield case.name, case.begin, case.steps, case.growth, case.file, case.make, call
    for name, (begin, make) in SIDECARS.items():
        yield name, begin, 5, 2, "a.jsonl.meta.yaml", make, lambda path, _: beside(path.with_name("a.jsonl"))


def measured(only: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for name, begin, steps, growth, file, make, call in arms():
            if only not in name:
                continue
            sizes, times = [], []
            for step in range(steps):
                size = begin * growth**step
                path = Path(folder) / file
                path.write_bytes(make(size))
                sizes.append(size)
                times.append(best(lambda: call(path, size)))  # noqa: B023 - called at once
                if step <= PEAK_STEP:  # tracing memory takes ten times as long
                    measured_bytes = path.stat().st_size
                    used = peak(lambda: call(path, size)) if step == PEAK_STEP or times[-1] > SLOW else 0  # noqa: B023
                if times[-1] > SLOW:
                    break
            yield {
                "name": name,
                "sizes": sizes,
                "seconds": [round(took, 4) for took in times],
                "exponent": round(slope(sizes, times), 2),
                "bytes": measured_bytes,
                "peak_bytes": used,
            }
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    asked = parser.parse_args()
    rows = []
    for found in measured(asked.only):
        rows.append(found)
        print(
            f"{found['exponent']:>6}  {found['seconds'][-1]:>8.3f} s  {found['peak_bytes'] / 2**20:>8.1f} MiB  {found['name']}",
            flush=True,
        )
    if asked.only:
        return
    above = [found["name"] for found in rows if not found["exponent"] <= LINEAR]
    table = ["| what grows | sizes | seconds | exponent | bytes | peak MiB |", "|---|---|---|---|---|---|"]
    table += [
        f"| {found['name']} | {found['sizes'][0]} to {found['sizes'][-1]} | {found['seconds'][0]} to {found['seconds'][-1]} "
        f"| {found['exponent']} | {found['bytes']} | {found['peak_bytes'] / 2**20:.1f} |"
        for found in rows
    ]
    figures = {
        "cases": len(rows),
        "above_linear": len(above),
        "largest_exponent": max(found["exponent"] for found in rows),
        "slowest_s": max(found["seconds"][-1] for found in rows),
        "largest_peak_mib": round(max(found["peak_bytes"] for found in rows) / 2**20, 1),
        **{f"{found['name']}: exponent": found["exponent"] for found in rows},
    }
    report.save("doubling", figures, (__doc__ or "").splitlines(), tables=table)


if __name__ == "__main__":
    main()
