"""Web pages, PDF, DOCX and EPUB: read with their headings and pages, or refused by name."""

import sys

import packed_files
import pytest

from lorad.config import InboxSettings
from lorad.datasets import documents, reader
from lorad.errors import ConfigError, SampleError

PAGE = """<!doctype html><html><head><title>Village — mill</title><style>p {}</style></head><body>
<nav>Home</nav><div role="main"><h1>The mill<a class="headerlink" href="#x">¶</a></h1>
<p>It stands <b>by</b> the <a href="river.html">river</a>.<script>alert(1)</script></p>
<h2>Hours</h2><table><tr><th>day</th><th>from</th></tr><tr><td>Mon</td><td>9</td></tr></table>
<pre>price = sacks * 2
# no heading</pre></div><footer>2026</footer></body></html>"""


@pytest.fixture
def read(tmp_path):
    def read(content, name, **limits):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (example,) = reader.read(path, InboxSettings(**limits), "retrieval").examples
        return documents.of_example(example, name)

    return read


@pytest.fixture
def refused(read):
    def refused(*given, **limits):
        with pytest.raises(SampleError) as caught:
            read(*given, **limits)
        return caught.value

    return refused


def test_a_web_page_is_read_as_markdown_without_what_is_around_its_text(read):
    page = read(PAGE, "mill.html")

    assert (page.title, page.name, page.markup) == ("The mill", "mill.html", "markdown")
    assert page.text == (
        "# The mill\n\nIt stands **by** the river.\n\n## Hours\n\n| day | from |\n| --- | --- |\n| Mon | 9 |\n\n"
        "```\nprice = sacks * 2\n# no heading\n```"
    )


def test_a_page_nested_without_end_is_refused(refused):
    assert refused("<html><body>" + "<div>" * 100_000 + "x", "deep.html").code in {"damaged", "row_too_long"}


def test_a_pdf_has_its_pages(read):
    book = read(packed_files.pdf("The mill stands\nby the river.", "The ford"), "mill.pdf")

    assert (book.title, book.markup) == ("mill", "plain")
    assert [book.text[at:].split()[1] for at in book.pages] == ["mill", "ford"]


def test_a_word_document_has_its_headings(read):
    book = read(packed_files.docx("# The mill", "It stands by the river."), "mill.docx")

    assert (book.title, book.markup) == ("The mill", "markdown")
    assert book.text == "# The mill\n\nIt stands by the river."


def test_a_book_has_its_chapters_in_their_order(read):
    book = read(packed_files.epub("Village", "<h1>The mill</h1><p>a</p>", "<h1>The ford</h1>"), "v.epub")

    assert (book.title, book.markup) == ("Village", "markdown")
    assert book.text == "# The mill\n\na\n\n# The ford"


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (packed_files.pdf("", ""), "scan.pdf", "scanned_pdf"),
        (packed_files.pdf("x")[:60], "torn.pdf", "damaged"),
        (packed_files.zipped({"a.txt": "x"}), "some.zip", "unknown_format"),
        (packed_files.zipped({"xl/workbook.xml": "x"}), "sheet.xlsx", "unknown_format"),
        (packed_files.docx(), "empty.docx", "no_text"),
        (packed_files.docx("x")[:-40], "torn.docx", "unknown_format"),
        (packed_files.epub("Empty"), "empty.epub", "no_text"),
        (packed_files.zipped({"mimetype": "application/epub+zip"}), "hollow.epub", "damaged"),
        ("It grinds\0 there.", "nul.txt", "bad_rows"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(refused, content, name, code):
    error = refused(content, name)

    assert error.code == code
    assert name in error.message


def test_an_encrypted_pdf_is_refused_by_name(refused):
    error = refused(packed_files.encrypted_pdf("secret"), "secret.pdf")

    assert error.code == "encrypted"
    assert "without a password" in error.message


def test_an_archive_that_unpacks_to_too_much_or_is_encrypted_is_refused(refused):
    bomb = packed_files.docx("x" * 200_000)
    assert refused(bomb, "bomb.docx", max_unpacked_bytes=100_000).code == "too_large"

    locked = bytearray(packed_files.docx("x"))
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        locked[locked.index(mark) + place] |= 1
    assert refused(bytes(locked), "locked.docx").code == "encrypted"


def test_a_text_longer_than_a_row_may_become_is_refused(refused):
    book = packed_files.docx(*(f"Line {number}." for number in range(200)))

    assert refused(book, "long.docx", max_expanded_row_bytes=1000).code == "row_too_long"


@pytest.mark.parametrize(
    ("module", "content", "name"),
    [("pypdf", packed_files.pdf("x"), "a.pdf"), ("mammoth", packed_files.docx("x"), "a.docx")],
)
def test_a_missing_extra_is_named(refused, monkeypatch, module, content, name):
    monkeypatch.setitem(sys.modules, module, None)

    error = refused(content, name)

    assert error.code == "needs_documents"
    assert "pip install 'lorad[documents]'" in error.message


def test_a_row_of_documents_may_have_tags_and_a_date(read, refused):
    row = '{"title": "Mill", "text": "It stands.", "tags": ["b", "a"], "date": "2026-05-01", "markup": "markdown"}'
    document = read(row, "rows.jsonl")

    assert (document.tags, document.date, document.markup) == (("a", "b"), "2026-05-01", "markdown")
    assert "must be a list of texts" in refused('{"text": "x", "tags": [1]}', "rows.jsonl").message


def test_a_folder_is_read_in_order_and_names_its_files_by_their_place(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.md").write_text("# One\n\nText.")
    (tmp_path / "a.rst").write_text("Two\n===\n\nText two.")
    (tmp_path / "b" / "two.rst.txt").write_text("Three\n=====\n\nText three.")
    (tmp_path / "c.py").write_text("pass")
    (tmp_path / ".hidden.txt").write_text("x")

    found = list(documents.read_folder(tmp_path))

    assert [(each.name, each.title, each.markup) for each in found] == [
        ("a.rst", "Two", "rst"),
        ("b/one.md", "One", "markdown"),
        ("b/two.rst.txt", "Three", "rst"),
    ]
    with pytest.raises(ConfigError):
        list(documents.read_folder(tmp_path / "none"))
