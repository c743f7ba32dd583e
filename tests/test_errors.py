"""One root, one subclass per reaction, and what people and machines see of an error."""

import pytest

from lorad import errors
from lorad.errors import LoradError, ProtocolError, SampleError, describe

REACTIONS = LoradError.__subclasses__()


def test_the_root_names_no_reaction_so_it_cannot_be_raised():
    with pytest.raises(TypeError, match="subclass names the reaction"):
        LoradError("something went wrong")


@pytest.mark.parametrize("kind", REACTIONS, ids=lambda kind: kind.__name__)
def test_every_reaction_can_be_raised_and_tells_its_code_and_sentence(kind):
    error = kind("do this instead")

    assert str(error) == error.message == "do this instead"
    assert error.as_dict() == {"code": kind.code, "message": "do this instead"}


def test_every_reaction_has_its_own_code():
    codes = [kind.code for kind in REACTIONS]

    assert len(set(codes)) == len(codes) == 6
    assert LoradError.code not in codes


def test_a_place_may_be_more_exact_than_the_reaction():
    error = SampleError("no rows", code="no_rows", row=3)

    assert error.as_dict() == {"code": "no_rows", "message": "no rows", "row": 3}
    assert SampleError.code == "sample"
    assert SampleError("again").code == "sample"


@pytest.mark.parametrize(("given", "status"), [({}, 400), ({"status": 404}, 404)])
def test_an_answer_to_a_client_has_a_status_that_is_not_part_of_its_body(given, status):
    error = ProtocolError("no such job", **given)

    assert error.status == status
    assert "status" not in error.as_dict()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            errors.TransientError("the disk is full", code="disk"),
            {"code": "disk", "message": "the disk is full"},
        ),
        (KeyError("x"), {"code": "internal", "message": "KeyError: 'x'"}),
        (KeyboardInterrupt(), {"code": "internal", "message": "KeyboardInterrupt: "}),
    ],
)
def test_whatever_is_not_ours_is_internal(error, told):
    assert describe(error) == told
