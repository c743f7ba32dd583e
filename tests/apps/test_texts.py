"""Texts that a command sends: what of standard input is one text."""

import io

from lorad.apps.cli import texts


def test_each_line_is_a_text_whatever_else_ends_a_line_in_it(monkeypatch):
    piped = "one\u2028still one\n \ntwo\x0cstill two\u0085\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(piped))

    assert texts.given([], "lorad classify TEXT") == ["one\u2028still one", "two\x0cstill two\u0085"]
