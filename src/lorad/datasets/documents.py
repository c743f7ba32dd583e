"""From dataset files to documents for a store.

What lives here: what a row that names a document becomes, and reading a folder of such files in this process. What never
does: the formats (``reader``), storing (``storage.documents``), dividing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lorad.config import InboxSettings, SplitMethod
from lorad.datasets import reader
from lorad.datasets.formats import text_formats
from lorad.errors import ConfigError
from lorad.records import RETRIEVAL, Example
from lorad.storage.documents import Document

SUFFIXES = frozenset({*text_formats.DOCUMENTS, ".json", ".jsonl", ".ndjson", ".pdf", ".docx", ".epub"})
"""How the names of files end that ``read_folder`` reads."""


def of_example(
    example: Example,
    file: str,
    *,
    tags: Sequence[str] = (),
    date: str = "",
    method: SplitMethod | None = None,
) -> Document:
    """Return the document that a row of a file is; the row's own tags are added to the file's, and its date counts."""
    known, text = dict(example.input), str(example.target)
    name = str(known.get("source") or file)
    label = str(known.get("id") or known.get("title") or known.get("digest") or "")
    title = str(known.get("title") or known.get("id") or known.get("url") or Path(file).stem)
    return Document(
        text=text,
        title=title,
        name=name,
        url=str(known.get("url", "")),
        markup=str(known.get("markup") or text_formats.markup(name) or "plain"),
        method=method or "",
        pages=tuple(known.get("pages", ())),
        tags=tuple(dict.fromkeys([*tags, *known.get("tags", ())])),
        date=str(known.get("date") or date),
        label=label,
    )


def read_file(path: Path, limits: InboxSettings | None = None, name: str = "") -> Iterator[Document]:
    """Yield the documents of a file, in this process: of your own files; raise ``SampleError`` for one that cannot be read."""
    reading = reader.read(path, limits or InboxSettings(), RETRIEVAL)
    for example in reading.examples:
        document = of_example(example, path.name)
        yield replace(document, name=name) if name else document


def read_folder(folder: Path, limits: InboxSettings | None = None) -> Iterator[Document]:
    """Yield the documents of a folder's files and of those below it, in the order of their names; others are passed by.

    A document's name is its path in the folder. Raise ``ConfigError`` where there is no folder, ``SampleError`` for a file
    that cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", code="no_such_folder")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield from read_file(path, limits, str(path.relative_to(folder)))
