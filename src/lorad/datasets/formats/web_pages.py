"""Web pages as Markdown: a page in, its title and its words out.

What lives here: which parts of a page are its text. What never does: HTML itself, which Beautiful Soup reads and markdownify
writes as Markdown, so that headings, tables and code stay what they are.
"""

import re
from typing import NamedTuple

SUFFIXES = frozenset({".html", ".htm", ".xhtml"})

#: What is around a page's text, or is none.
_ASIDE = (
    "script, style, template, noscript, svg, nav, footer, form, button, iframe, object, a.headerlink, "
    "[role=navigation], [role=search], [role=banner], [role=contentinfo]"
)
_GAPS = re.compile(r"[ \t]*\n(?:[ \t]*\n){2,}")


class Page(NamedTuple):
    """What a page says."""

    title: str
    """Empty where it has none."""
    text: str
    """In Markdown, without links' targets and pictures."""


def read(html: str) -> Page:
    """Return what a page says, without what only leads to other pages."""
    # slow to import, and most files are no pages
    from bs4 import BeautifulSoup  # noqa: PLC0415
    from markdownify import MarkdownConverter  # noqa: PLC0415

    soup = BeautifulSoup(html, "html.parser")
    named = soup.title.get_text() if soup.title else ""
    for part in soup.select(_ASIDE):
        part.decompose()
    main = soup.select_one("main") or soup.select_one("[role=main]") or soup.body or soup
    heading = main.find("h1")
    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        strip=["a", "img", "title"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    text = _GAPS.sub("\n\n", converter.convert_soup(main)).strip()
    return Page(_line(heading.get_text() if heading else "") or _line(named), text)


def _line(text: str) -> str:
    return " ".join(text.split())
