"""Documents that are no text files: PDF, DOCX and EPUB. A file in, its text, its title and its pages out.

What lives here: telling them apart by what they hold, and what cannot be read of them. What never does: the formats
themselves: pypdf reads PDF, mammoth DOCX (both come with the extra ``documents``), and an EPUB is a zip of web pages.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.formats import web_pages
from lorad.datasets.formats.text_formats import Document
from lorad.errors import SampleError
from lorad.storage.source import Source

PDF, ZIP = b"%PDF", b"PK\x03\x04"
_WORD, _EPUB = "word/document.xml", b"application/epub+zip"
_CONTAINER = "META-INF/container.xml"

#: What no text needs, and what cannot be stored.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def find(source: Source, limits: InboxSettings) -> Iterator[tuple[int, Document]] | None:
    """Return what reads a file that is a PDF, a DOCX or an EPUB, ``None`` for any other."""
    with source.open() as stream:
        head = stream.read(len(ZIP))
        if head == PDF:
            return _read(source, limits, "a PDF", _pdf)
        if head != ZIP:
            return None
        try:
            with zipfile.ZipFile(stream) as archive:
                names = set(archive.namelist())
                is_epub = "mimetype" in names and archive.open("mimetype").read(len(_EPUB)) == _EPUB
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError):
            return None
    if _WORD in names:
        return _read(source, limits, "a Word document", _docx)
    return _read(source, limits, "an EPUB", _epub) if is_epub else None


def _read(source: Source, limits: InboxSettings, what: str, read: Any) -> Iterator[tuple[int, Document]]:
    name = source.name.encode(errors="replace").decode()  # it is kept, and a name need not be UTF-8
    try:
        with source.open() as stream:
            if what != "a PDF":
                _check_archive(stream, name, limits)
            title, text, pages = read(stream, name, limits)
    except SampleError:
        raise
    except ImportError as error:
        raise SampleError(
            f"{name} is {what}, which needs {error.name}; run pip install 'lorad[documents]', or save it as text",
            code="needs_documents",
        ) from None
    except Exception as error:  # noqa: BLE001 - what these libraries raise of a damaged file is anything
        raise SampleError(
            f"{name} is {what} that cannot be read ({type(error).__name__}: {str(error)[:300]}); save it anew",
            code="damaged",
        ) from None
    if not text.strip():
        raise SampleError(f"{name} is {what} without any text", code="no_text")
    size = len(text.encode())
    if size > limits.max_expanded_row_bytes:
        raise SampleError(
            f"the text of {name} has {size} bytes, more than inbox.max_expanded_row_bytes "
            f"({limits.max_expanded_row_bytes}); split it, or raise the limit",
            code="row_too_long",
        )
    yield 1, Document(title or Path(name).stem, name, text, "" if pages else "markdown", tuple(pages))


def _pdf(stream: Any, name: str, limits: InboxSettings) -> tuple[str, str, list[int]]:
    from pypdf import PdfReader  # noqa: PLC0415 - optional
    from pypdf.errors import DependencyError, FileNotDecryptedError  # noqa: PLC0415

    reader = PdfReader(stream)
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            raise _encrypted(name)
        parts, pages, length = list[str](), list[int](), 0
        for page in reader.pages:
            part = _UNSTORABLE.sub("", page.extract_text()).strip()
            pages.append(length)
            parts.append(part)
            length += len(part) + len("\n\n")
            if length > limits.max_expanded_row_bytes:
                break  # the caller tells
    except (DependencyError, FileNotDecryptedError):
        raise _encrypted(name) from None
    text = "\n\n".join(parts)
    if not text.strip() and any("/XObject" in (page.get("/Resources") or {}) for page in reader.pages):
        raise SampleError(
            f"{name} is a PDF of pictures, a scan perhaps, without any text; recognise it first (ocrmypdf, for example)",
            code="scanned_pdf",
        )
    title = str(reader.metadata.title or "") if reader.metadata else ""
    return _UNSTORABLE.sub("", title).strip(), text, pages


def _encrypted(name: str) -> SampleError:
    return SampleError(f"{name} is encrypted; save it without a password", code="encrypted")


def _check_archive(stream: Any, name: str, limits: InboxSettings) -> None:
    """Raise ``SampleError`` for an archive that is encrypted, or unpacks to more than may be."""
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
    stream.seek(0)
    if any(part.flag_bits & 1 for part in parts):
        raise _encrypted(name)
    unpacked = sum(part.file_size for part in parts)
    if unpacked > limits.max_unpacked_bytes:
        raise SampleError(
            f"{name} unpacks to {unpacked} bytes, more than inbox.max_unpacked_bytes ({limits.max_unpacked_bytes}); split it",
            code="too_large",
        )


def _docx(stream: Any, name: str, limits: InboxSettings) -> tuple[str, str, list[int]]:
    import mammoth  # noqa: PLC0415 - optional

    del name, limits
    # pictures are left out: they would be text of a hundred times their words
    made = mammoth.convert_to_html(stream, convert_image=mammoth.images.img_element(lambda _: {"src": ""}))
    page = web_pages.read(made.value)
    return page.title, page.text, []


def _epub(stream: Any, name: str, limits: InboxSettings) -> tuple[str, str, list[int]]:
    del name, limits
    with zipfile.ZipFile(stream) as archive:
        package = str(_xml(archive, _CONTAINER).find("rootfile")["full-path"])
        opf = _xml(archive, package)
        items = {str(item["id"]): str(item["href"]) for item in opf.find_all("item")}
        folder = package.rpartition("/")[0]
        chapters = [items[str(ref["idref"])] for ref in opf.find_all("itemref") if str(ref["idref"]) in items]
        texts = []
        for chapter in chapters:
            path = f"{folder}/{chapter}" if folder else chapter
            texts.append(web_pages.read(archive.read(path).decode(errors="replace")).text)
    title = opf.find("dc:title")
    return (" ".join(title.get_text().split()) if title else ""), "\n\n".join(texts), []


def _xml(archive: zipfile.ZipFile, name: str) -> Any:
    """Return a part of a book; read leniently, by what declares no entities and so expands none."""
    from bs4 import BeautifulSoup  # noqa: PLC0415 - slow to import

    return BeautifulSoup(archive.read(name).decode(errors="replace"), "html.parser")
