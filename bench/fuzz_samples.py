"""Generated and damaged files through the dataset reader: everything is read or refused with a reason.

What lives here: making files, counting what became of them, keeping those that broke the reader.
What never does: judging whether what was read is right (``tests/test_samples*.py``).

Run ``python bench/fuzz_samples.py [--files 100000] [--seed 1]``; it exits with 1 when anything else than a reading
or a ``SampleError`` came out, or a file took more than ``SLOW`` seconds of the processor.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import report
from lorad import annotations, samples
from lorad.config import InboxSettings
from lorad.errors import SampleError

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / "cache" / "fuzz_samples"
SLOW = 5.0

NAMES = (
    "a.conll",
    "a.json",
    "a.jsonl",
    "a.ndjson",
    "a.csv",
    "a.tsv",
    "a.txt",
    "a.md",
    "a",
    "a.json.gz",
    "a.csv.gz",
)
TOKENS = (
    *b'" { } [ ] , ; : NaN -Infinity null 1e999 PAR1 "" \\ \\u \\ud800 \\u0000'.split(),
    *(b"", b" ", b"\n", b"\r", b"\t", b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b"[" * 1200, b"9" * 5000, b"x" * 70_000, b"\n" * 300),
    # what patterns tried in every division, marks without end, and JSON in texts that is read again
    *(
        b" " * 70_000,
        b"|-" * 5000,
        b"<" + b"a" * 5000,
        b"# " * 5000,
        b"," * 5000,
        "\u0315\u0316".encode() * 2000,
    ),
    *(b"1e400", b'"' + b"[" * 300 + b"]" * 300 + b'"', b'"{\\"a\\": 1e999}"', "【†".encode() * 2000),
)
WORDS = (
    "Where is the mill?",
    "By the river.",
    "",
    " ",
    "\x00",
    "\ud800",
    "[1]",
    "[" * 300 + "]" * 300,
    '{"name": "f", "arguments": {"a": 1e400}}',
    '{"\\ud800": 1}',
    '[{"role": "user"',
    "é😀",
    "x" * 500,
)
KEYS = (
    *(
        "instruction",
        "input",
        "output",
        "question",
        "answer",
        "prompt",
        "completion",
        "response",
        "generation",
    ),
    *(
        "messages",
        "conversations",
        "system",
        "history",
        "role",
        "content",
        "from",
        "value",
        "weight",
        "tools",
    ),
    *("text", "label", "type", "id", "metadata", "", "\ud800"),
    *("chosen", "rejected", "preferred_output", "kto_tag", "data", "annotations", "result", "start", "end"),
)
ANNOTATED = tuple(name for names in annotations.FIELDS.values() for name in names)
LABELS = ((), ("O", "B-PER", "I-PER"), ("good", "bad"))
ROLES = ("user", "assistant", "system", "human", "gpt", "tool", "observation")


def value(chance: random.Random, depth: int = 0) -> object:
    kind = chance.randrange(9 if depth < 4 else 4)
    if kind < 2:
        return chance.choice(WORDS)
    if kind < 4:
        return chance.choice([None, True, 0, -1, 1e300, 10**30])
    if kind == 4:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 5:
        return turns(chance)
    if kind > 6:
        return tags(chance) if kind == 7 else spans(chance)
    return {chance.choice(KEYS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def tags(chance: random.Random) -> list[object]:
    known = ("O", "B-PER", "I-PER", "E-X", "PER", 0, 1, 2, -1)
    return [chance.choice(known) for _ in range(chance.randrange(4))]


def spans(chance: random.Random) -> list[object]:
    span = {"start": chance.randrange(-1, 9), "end": chance.randrange(20), "label": chance.choice(("X", 1))}
    return [chance.choice((span, list(span.values()))) for _ in range(chance.randrange(3))]


def turns(chance: random.Random) -> list[dict[str, object]]:
    role, text = chance.choice([("role", "content"), ("from", "value")])
    found = [{role: chance.choice(ROLES), text: chance.choice(WORDS[:2])} for _ in range(chance.randrange(5))]
    if found and chance.random() < 0.3:
        found[-1][chance.choice(KEYS)] = value(chance)
    return found


def row(chance: random.Random) -> object:
    _, question, answer = chance.choice(samples.PAIRS)
    made: dict[str, object] = {question: chance.choice(WORDS[:2]), answer: chance.choice(WORDS[:2])}
    if chance.random() < 0.3:
        made = {chance.choice(("messages", "conversations")): turns(chance)}
    elif chance.random() < 0.5:
        made = {chance.choice(ANNOTATED): value(chance) for _ in range(chance.randrange(1, 4))}
        made |= {"text": chance.choice(WORDS[:2])} if chance.random() < 0.5 else {}
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        made[chance.choice(KEYS)] = value(chance)
    return made if chance.random() < 0.95 else value(chance)


def generated(chance: random.Random) -> bytes:
    rows = [row(chance) for _ in range(chance.choice((0, 1, 2, 5, 30)))]
    kind = chance.randrange(4)
    if kind == 0:
        return json.dumps(rows, indent=chance.choice((None, 2))).encode()
    if kind == 1:
        return json.dumps({chance.choice(("data", "rows", "x")): rows, "version": value(chance)}).encode()
    if kind == 2:
        return "\n".join(map(json.dumps, rows)).encode()
    delimiter = chance.choice(",;\t")
    cells = [
        ["question", "answer", chance.choice(KEYS)],
        *([str(value(chance))[:50] for _ in "abc"] for _ in rows),
    ]
    lines = (
        delimiter.join(f'"{cell}"' if chance.random() < 0.5 else cell for cell in line) for line in cells
    )
    return "\r\n".join(lines).encode(errors="replace")


def damaged(chance: random.Random, content: bytes) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = chance.randrange(len(content) + 1)
        length = chance.choice((0, 0, 1, 2, 10, 1000))
        content = content[:at] + chance.choice(TOKENS) + content[at + length :]
    if chance.random() < 0.2:
        content = content[: chance.randrange(len(content) + 1)]
    return content * chance.choice((1, 1, 1, 1, 2, 20))


def one_file(chance: random.Random, corpus: list[bytes]) -> bytes:
    source = chance.choice(corpus) if chance.random() < 0.4 else generated(chance)
    content = chance.randbytes(chance.randrange(300)) if chance.random() < 0.05 else damaged(chance, source)
    if chance.random() < 0.2:
        content = gzip.compress(content, 1)
        content = damaged(chance, content) if chance.random() < 0.3 else content
    return content


def outcome(path: Path, limits: InboxSettings, chance: random.Random) -> str:
    limits = limits.model_copy(update={"preferences": chance.choice(("refuse", "learn_chosen"))})
    try:
        reading = samples.read(path, limits, chance.choice(samples.TASKS), labels=chance.choice(LABELS))
    except SampleError as error:
        json.dumps(error.as_dict())
        return error.code
    assert reading.examples
    assert len(reading.digest) == 64
    return "read" if not reading.problems else "read in part"


def run(files: int, seed: int, tell: Callable[[str], None]) -> int:
    chance = random.Random(seed)
    has_parquet = find_spec("pyarrow") is not None
    found = sorted((ROOT / "tests" / "data").iterdir())
    corpus = [path.read_bytes() for path in found if has_parquet or path.suffix != ".parquet"]
    counts: Counter[str] = Counter()
    slowest, began = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            path = Path(folder) / chance.choice(NAMES)
            path.write_bytes(one_file(chance, corpus))
            rows = chance.choice((20, 10_000))
            limits = InboxSettings(
                max_rows=rows, max_row_bytes=50_000, max_unpacked_bytes=500_000, max_bad_share=0.5
            )
            start = time.process_time()
            try:
                counts[outcome(path, limits, chance)] += 1
            except Exception:  # noqa: BLE001 - this is what we are looking for
                counts["BROKEN"] += 1
                KEPT.mkdir(parents=True, exist_ok=True)
                (KEPT / f"{seed}-{number}-{path.name}").write_bytes(path.read_bytes())
                tell(f"file {number}, kept in {KEPT}:\n{traceback.format_exc()}")
            slowest = max(slowest, time.process_time() - start)
            path.unlink()
    took = time.perf_counter() - began
    tell(f"{files} files in {took:.0f} s, seed {seed}; the slowest took {slowest:.2f} s")
    for name, count in counts.most_common():
        tell(f"{count:>8}  {name}")
    table = ["| what became of it | files |", "|---|---|"]
    table += [f"| {name} | {count} |" for name, count in counts.most_common()]
    draw(counts)
    figures = {"files": files, "seed": seed, "broken": counts["BROKEN"], "slowest_s": round(slowest, 2)}
    report.save("fuzz_samples", figures, (__doc__ or "").splitlines(), tables=table)
    return 1 if counts["BROKEN"] or slowest > SLOW else 0


def draw(counts: Counter[str]) -> None:
    plt = report.pyplot()

    figure, axes = plt.subplots(figsize=(8, 4))
    names, numbers = zip(*counts.most_common(), strict=True)
    axes.barh(names, numbers, color=["#cc3311" if name == "BROKEN" else "#4477aa" for name in names])
    axes.bar_label(axes.containers[0], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("files")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "fuzz_samples.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    sys.exit(run(asked.files, asked.seed, print))


if __name__ == "__main__":
    main()
