"""The values of a row, whatever its format."""

import pytest

from lorad import cells
from lorad.rows import BadRow


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1, 2]", [1, 2]),
        (" [1]", [1]),
        ([1], [1]),
        ("[1", "[1"),
        ("[NaN]", "[NaN]"),
        ("x", "x"),
        (None, None),
    ],
)
def test_a_list_may_be_the_text_of_its_json(value, expected):
    assert cells.unpacked({"a": value}, "a") == expected


def test_of_unknown_fields_the_one_with_a_reason_is_told():
    with pytest.raises(BadRow) as caught:
        cells.refuse_unknown(
            {"a": 1, "b": 2, "c": 3, "id": 4, "d": ""}, {"a"}, "x.", reasons={"c": "because"}
        )

    assert (caught.value.field, str(caught.value)) == ("x.c", "because")
    cells.refuse_unknown({"a": 1, "id": 4, "d": "[]"}, {"a"}, reasons={})
