"""Public manuals with real questions in them, for the retrieval benchmark.

What lives here: fetching Debian's documentation packages, reading their files as documents, and finding in them the
questions and where each is answered. What never does: searching, scoring, or installing what it fetches.

- python: ``python3.11-doc`` (PSF licence), the reStructuredText of all its pages. The questions are the headings of its FAQ;
  the right place of each is its own section.
- debian: ``debian-faq`` (GPL) among ``debian-reference-en``, ``debian-policy`` and ``developers-reference`` (GPL), in HTML.
  The questions are the FAQ's headings again.

A question is the heading of the section that answers it, word for word, so whoever indexes the heading finds it by that
alone. Each corpus therefore has two forms. ``headed`` is as it came: that measures finding what is written there. In
``bare`` each heading that is a question reads "Entry 17" instead, and tables of contents are left out: the section
must be found by what it says. A chunk is right where it and the section share half of the shorter of both; the heading itself
is no part of the section, so that a chunk of headings is not right.

Run ``python bench/corpora.py`` for counts and samples.
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import domains
from lorad.datasets import documents as files_of_documents
from lorad.storage.documents import Document

CACHE = Path(__file__).resolve().parent / "cache"
CORPORA = ("python", "debian")
SHORTEST_ANSWER = 40
"""Characters of a section that answers anything."""


class Asked(NamedTuple):
    """A question, and the part of a document's text that answers it."""

    question: str
    document: str
    """Its name."""
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A corpus as it is indexed."""

    documents: dict[str, Document]
    """By name."""
    asked: tuple[Asked, ...]


class Heading(NamedTuple):
    """A heading, where it stands, and where its text ends."""

    title: str
    start: int
    end: int
    level: int
    behind: int
    """Where the next heading of its level or a higher one begins."""


def is_right(asked: Asked, document: str, start: int, end: int) -> bool:
    """Tell whether a chunk of a document is the place that answers a question."""
    shared = min(end, asked.end) - max(start, asked.start)
    return document == asked.document and shared * 2 >= min(end - start, asked.end - asked.start) > 0


@lru_cache
def corpus(name: str) -> dict[str, Form]:
    """Return a corpus in both forms, ``headed`` and ``bare``, with the same questions in both."""
    return {"python": _python, "debian": _debian}[name]()


def _forms(
    documents: dict[str, Document],
    faq: Callable[[str], bool],
    headings: Callable[[str], Iterator[Heading]],
    renamed: Callable[[str, Heading, str], str],
) -> dict[str, Form]:
    """Find the questions of a corpus, and make its form without them.

    ``faq`` tells which documents hold questions, ``renamed`` writes another title over a heading of a text.
    """
    headed, bare = list[Asked](), list[Asked]()
    seen = set[str]()
    titles = {
        _plain(each.title)
        for name in filter(faq, documents)
        for each in headings(documents[name].text)
        if "?" in each.title
    }
    stripped = {name: replace(each, text=_without(each.text, titles)) for name, each in documents.items()}
    for name in filter(faq, documents):
        found = [each for each in headings(documents[name].text) if "?" in each.title]
        text = stripped[name].text
        moved = [each for each in headings(text) if "?" in each.title]
        for number, each in reversed(list(enumerate(moved, start=1))):
            text = renamed(text, each, f"Entry {number}")
        again = [each for each in headings(text) if each.title.startswith("Entry ")]
        stripped[name] = replace(documents[name], text=text)
        for before, after in zip(found, again, strict=True):
            question = _plain(before.title)
            if before.behind - before.end < SHORTEST_ANSWER or question in seen:
                continue
            seen.add(question)
            headed.append(Asked(question, name, before.end, before.behind))
            bare.append(Asked(question, name, after.end, after.behind))
    return {
        "headed": Form(documents=documents, asked=tuple(headed)),
        "bare": Form(documents=stripped, asked=tuple(bare)),
    }


def _without(text: str, titles: set[str]) -> str:
    """Return a text without the lines of its tables of contents that are one of these titles."""
    kept = [
        line
        for line in text.splitlines(keepends=True)
        if not (found := _LISTED.match(line)) or _plain(found["title"]) not in titles
    ]
    return "".join(kept)


def _with_ends(text: str, found: list[tuple[str, int, int, int]]) -> Iterator[Heading]:
    for number, (title, start, end, level) in enumerate(found):
        above = (other[1] for other in found[number + 1 :] if other[3] <= level)
        yield Heading(title, start, end, level, next(above, len(text)))


# -- Python


_LISTED = re.compile(r"(?:[ \t]*[-*+] |(?=\d))(?P<title>.*)")
_NUMBER = re.compile(r"(Chapter )?\d+(\.\d+)*\.? ")
_UNDERLINED = re.compile(r"^(?P<title>\S[^\n]*)\n(?P<rule>([=~^\"*+#-])\3{2,})[ \t]*$", re.MULTILINE)
_ROLE = re.compile(r":[\w:]+:`(?:[^`<]*<)?!?([^`>]*)>?`|`{1,2}([^`]*)`{1,2}")


def _python() -> dict[str, Form]:
    folder = _fetched("python3.11-doc", "doc/python3.11/html/_sources")
    documents = {
        name: Document(text=path.read_text(encoding="utf-8"), title=name, name=name, markup="rst")
        for path in sorted(folder.rglob("*.rst.txt"))
        if (name := str(path.relative_to(folder)).removesuffix(".txt")) and path.stat().st_size
    }
    return _forms(documents, lambda name: name.startswith("faq/"), _rst_headings, _rst_renamed)


def _rst_headings(text: str) -> Iterator[Heading]:
    levels: list[tuple[str, bool]] = []
    found = []
    for each in _UNDERLINED.finditer(text):
        if len(each["rule"]) < len(each["title"]) or re.fullmatch(r"(\W)\1+", each["title"]):
            continue
        before = text[: each.start()].rpartition("\n")[0].rpartition("\n")[2].strip()
        kind = (each["rule"][0], before == each["rule"])
        if kind not in levels:
            levels.append(kind)
        found.append((each["title"].strip(), each.start(), each.end(), levels.index(kind)))
    return _with_ends(text, found)


def _rst_renamed(text: str, heading: Heading, title: str) -> str:
    rule = text[heading.start : heading.end].partition("\n")[2]
    return f"{text[: heading.start]}{title}\n{rule[0] * max(3, len(title))}{text[heading.end :]}"


def _plain(title: str) -> str:
    """Return a heading as somebody would type it."""
    bare = _ROLE.sub(lambda found: found[1] or found[2] or "", _NUMBER.sub("", title.strip(), count=1))
    return " ".join(re.sub(r"[*\\]", "", bare).split())


# -- Debian


_ATX = re.compile(r"^(?P<level>#{1,6}) +(?P<title>[^\n]*)$", re.MULTILINE)

MANUALS = {
    "debian-faq": ("doc/debian/FAQ", "*.en.html"),
    "debian-reference-en": ("debian-reference", "*.en.html"),
    "debian-policy": ("doc/debian-policy/policy.html", "*.html"),
    "developers-reference": ("developers-reference", "*.html"),
}
"""Debian's manuals by package, each with its folder below /usr/share, and its pages there."""

WHOLE = frozenset({"developers-reference.html", "search.html"})
"""A manual's pages once more in one, and no page."""


def _debian() -> dict[str, Form]:
    documents = {}
    for package, (under, pages) in MANUALS.items():
        for path in sorted(_fetched(package, under).glob(pages)):
            name = f"{package}/{path.name}"
            if path.name not in WHOLE:
                (page,) = files_of_documents.read_file(path, name=name)
                documents[name] = replace(page, label=name)
    return _forms(
        documents, lambda name: name.startswith("debian-faq/"), _markdown_headings, _markdown_renamed
    )


def _markdown_headings(text: str) -> Iterator[Heading]:
    found = [
        (each["title"].strip(), each.start(), each.end(), len(each["level"])) for each in _ATX.finditer(text)
    ]
    return _with_ends(text, found)


def _markdown_renamed(text: str, heading: Heading, title: str) -> str:
    return f"{text[: heading.start]}{'#' * heading.level} {title}{text[heading.end :]}"


# -- fetching


def _fetched(package: str, under: str) -> Path:
    """Return the cached part of a Debian package; ``under`` is its folder below /usr/share."""
    kept = CACHE / package
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            shutil.move(domains.unpacked(package, "", Path(folder)) / under, kept)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what each corpus holds, and show some questions.")
    parser.add_argument("--samples", type=int, default=8, metavar="N")
    options = parser.parse_args()
    for name in CORPORA:
        for form, found in corpus(name).items():
            size = sum(len(each.text) for each in found.documents.values())
            print(
                f"{name}, {form}: {len(found.documents)} documents, {size:,} characters, {len(found.asked)} questions"
            )
            for asked in found.asked[:: max(1, len(found.asked) // options.samples)]:
                text = found.documents[asked.document].text[asked.start : asked.end].strip()
                print(f"  {asked.question}\n    {asked.document}: {text[:70]!r} … {text[-40:]!r}")


if __name__ == "__main__":
    main()
