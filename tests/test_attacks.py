"""The table of attacks (issue 15) and SECURITY.md, held against the tests that they name."""

import re
from pathlib import Path

import named_tests
import pytest

SECURITY = Path(__file__).parent.parent / "SECURITY.md"


@pytest.mark.parametrize("row", range(1, 23))
def test_every_row_of_the_table_has_a_test(row):
    assert [name for _, name in named_tests.defined() if re.match(rf"test_(a\d+_)*a{row}_", name)]


def test_every_test_that_the_security_table_names_is_there():
    text = SECURITY.read_text(encoding="utf-8")

    assert len(named_tests.named(text)) > 20
    assert named_tests.named(text) - named_tests.defined() == set()
    assert named_tests.misplaced(text) == set()


def test_no_line_of_the_security_table_lacks_its_test():
    lines = [
        line
        for line in SECURITY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| who")
    ]

    assert lines
    assert [line for line in lines if "::test_" not in line] == []
