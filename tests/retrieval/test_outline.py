"""What a text is made of: nothing is lost, headings are above what they are above, tables and code are whole."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.retrieval.outline import blocks, heading_text

MARKDOWN = """---
title: Mills
---
# The mill

It stands by the river.
Its wheel is of oak.

## Hours ##

| day | from |
|-----|------|
| Mon | 9    |

```python
# no heading

print("grain")
```

### `open()` and [close](http://example.org)

    indented code

The ford
--------
- below the weir

- above it
"""

RST = """
========
The mill
========

It stands by the river::

    # no heading
    grind(

        grain)

Hours
-----

+-----+------+
| day | from |
+-----+------+

=====  =====
a      b
=====  =====
1      2
=====  =====

.. code-block:: python

   print("grain")

Prices
------
Two pence.

Wheel
~~~~~
Oak.

========
The ford
========
Below.
"""


def found(text, markup):
    return [(each.kind, each.heading, text[each.start : each.end]) for each in blocks(text, markup)]


def test_markdown_is_read_as_commonmark_with_tables():
    hours = ("The mill", "Hours")
    assert found(MARKDOWN, "markdown") == [
        ("text", (), "---\ntitle: Mills\n---"),
        ("heading", ("The mill",), "# The mill"),
        ("text", ("The mill",), "It stands by the river.\nIts wheel is of oak."),
        ("heading", hours, "## Hours ##"),
        ("table", hours, "| day | from |\n|-----|------|\n| Mon | 9    |"),
        ("code", hours, '```python\n# no heading\n\nprint("grain")\n```'),
        ("heading", (*hours, "open() and close"), "### `open()` and [close](http://example.org)"),
        ("code", (*hours, "open() and close"), "    indented code"),
        ("heading", ("The mill", "The ford"), "The ford\n--------"),
        ("text", ("The mill", "The ford"), "- below the weir\n\n- above it"),
    ]


def test_restructured_text_is_read_by_its_underlines_and_indents():
    hours = ("The mill", "Hours")
    assert found(RST, "rst") == [
        ("heading", ("The mill",), "========\nThe mill\n========"),
        ("text", ("The mill",), "It stands by the river::"),
        ("code", ("The mill",), "    # no heading\n    grind(\n\n        grain)"),
        ("heading", hours, "Hours\n-----"),
        ("table", hours, "+-----+------+\n| day | from |\n+-----+------+"),
        ("table", hours, "=====  =====\na      b\n=====  =====\n1      2\n=====  ====="),
        ("code", hours, '.. code-block:: python\n\n   print("grain")'),
        ("heading", ("The mill", "Prices"), "Prices\n------"),
        ("text", ("The mill", "Prices"), "Two pence."),
        ("heading", ("The mill", "Prices", "Wheel"), "Wheel\n~~~~~"),
        ("text", ("The mill", "Prices", "Wheel"), "Oak."),
        ("heading", ("The ford",), "========\nThe ford\n========"),
        ("text", ("The ford",), "Below."),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("markup", ["plain", "markdown", "rst"])
def test_lines_may_end_as_any_system_ends_them(markup, end):
    text = f"One.{end}Still one.{end}{end} \t{end}Two.{end}"

    assert [each for *_, each in found(text, markup)] == [f"One.{end}Still one.", "Two."]


@pytest.mark.parametrize(
    "text", ["[:]:a", "[mill]: https://mill.example\n\nIt grinds.", 'It grinds.\n\n[a]: b "c"\nd']
)
def test_what_a_links_name_stands_for_is_text(text):
    parts = blocks(text, "markdown")

    assert " ".join(text[part.start : part.end] for part in parts).split() == text.split()


@pytest.mark.parametrize("markup", ["plain", "markdown", "rst"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab #=-~`|+:.\n\r\t>*[]()\u2028é", max_size=120))
def test_no_word_of_a_text_is_lost_or_twice(markup, text):
    parts = blocks(text, markup)

    assert all(a.end <= b.start for a, b in itertools.pairwise(parts))
    inside = {place for part in parts for place in range(part.start, part.end)}
    lost = {text[place] for place in range(len(text)) if place not in inside}
    assert not any(each.isalnum() for each in lost)


@pytest.mark.parametrize("markup", ["plain", "markdown", "rst"])
@pytest.mark.parametrize(
    "text", [" " * 50_000, "\n \t" * 20_000, "=" * 50_000, "a\n" * 20_000, "> " * 500 + "x"]
)
def test_a_hostile_text_takes_no_long_time(markup, text):
    blocks(text, markup)


@pytest.mark.parametrize("signs", ["_", "#", "¶", "*", "`"])
def test_a_heading_of_signs_takes_no_long_time(signs):
    assert len(heading_text(f"a{signs * 200_000}a")) <= 200
    assert len(heading_text(f"{signs * 200_000}x")) <= 200


def test_a_heading_is_told_as_people_read_it():
    assert heading_text("`os.path` — **join** [it](x) ¶") == "os.path — join it"
    assert heading_text("snake_case stays __so__") == "snake_case stays so"
    assert len(heading_text("x" * 5000)) == 200
