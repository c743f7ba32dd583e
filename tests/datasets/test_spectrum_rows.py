"""Rows and files of spectra: what is read, and what is told of what cannot be. No chemistry: that is the task's."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError

ROW = {"smiles": "c1ccccc1", "mzs": [51.02, 78.05], "intensities": [0.3, 1.0]}
KEPT = {"mzs": [51.02, 78.05], "intensities": [0.3, 1.0]}


def read(tmp_path, text, name="rows.jsonl", **limits):
    path = tmp_path / name
    path.write_text(text)
    return reader.read(path, InboxSettings(**limits), "spectra")


def said(reading):
    return [(example.input, example.target) for example in reading.examples]


def test_rows_of_json_are_kept_as_they_are(tmp_path):
    full = ROW | {"precursor_mz": 79.05, "adduct": "[M+H]+", "name": "benzene"}
    reading = read(tmp_path, json.dumps(ROW) + "\n" + json.dumps(full))
    assert said(reading) == [
        (KEPT, "c1ccccc1"),
        (KEPT | {"precursor_mz": 79.05, "adduct": "[M+H]+", "charge": 1}, "c1ccccc1"),
    ]
    assert reading.formats == {"spectrum": 2}


def test_one_row_alone_is_a_file(tmp_path):
    assert said(read(tmp_path, json.dumps(ROW), "one.json")) == [(KEPT, "c1ccccc1")]


def test_a_table_holds_lists_as_json_or_with_blanks(tmp_path):
    table = 'smiles,mzs,intensities\nc1ccccc1,"[51.02, 78.05]","[0.3, 1.0]"\nC,51.02 78.05,0.3 1.0\n'
    reading = read(tmp_path, table, "t.csv")
    # Then both are the same spectrum, of two molecules: the later one counts
    assert said(reading) == [(KEPT, "C")]
    assert reading.contradictions == 1


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"intensities": [0.3]}, "intensities", "has 1 numbers, and there are 2 in mzs"),
        ({"mzs": [78.05, 51.02]}, "mzs[1]", "sort the peaks"),
        ({"mzs": [-51.02, 78.05]}, "mzs[0]", "lies between 0.5 and"),
        ({"mzs": [51.02, 78050.0]}, "mzs[1]", "lies between 0.5 and"),
        ({"mzs": ["a", 78.05]}, "mzs[0]", "no number"),
        ({"mzs": "twenty"}, "mzs[0]", "no number"),
        ({"mzs": 78.05}, "mzs", "list of numbers"),
        ({"intensities": [0.3, 0]}, "intensities[1]", "leave the peak out"),
        ({"intensities": [-0.3, 1]}, "intensities[0]", "leave the peak out"),
        ({"intensities": [True, 1]}, "intensities[0]", "no number"),
        ({"mzs": [], "intensities": []}, "mzs", "at least one peak"),
        ({"smiles": " "}, "smiles", "is empty"),
        ({"smiles": "C" * 2001}, "smiles", "at most 2000"),
        ({"charge": 0}, "charge", "1 to 10 are known"),
        ({"charge": 11}, "charge", "1 to 10 are known"),
        ({"charge": "one"}, "charge", "whole number"),
        ({"adduct": "M+H"}, "adduct", "[M+H]+"),
        ({"charge": "-1-"}, "charge", "whole number"),
        ({"charge": "1+-"}, "charge", "whole number"),
        ({"adduct": "[M+H]+", "charge": 2}, "charge", "says 1"),
        ({"adduct": "[M+H]+", "charge": -1}, "charge", "says 1"),
        ({"adduct": "[M+H" + "9" * 400 + "]+"}, "adduct", "at most 64"),
        ({"adduct": "[M+Ca9999]+"}, "adduct", "no formula"),
        ({"charge": 1, "ion_mode": "N"}, "charge", "ion mode"),
        ({"precursor_mz": 1e-320}, "precursor_mz", "lies between 0.5 and"),
        ({"mzs": [1e-320, 78.05]}, "mzs[0]", "lies between 0.5 and"),
        ({"smiles": "CCO ether"}, "smiles", "without a name"),
        ({"smiles": "CCO\nCCN"}, "smiles", "without a name"),
        ({"precursor_mz": 0}, "precursor_mz", "lies between 0.5 and"),
        ({"label": "x"}, "label", "unknown here"),
        ({"smiles": None}, "smiles", "missing"),
    ],
)
def test_what_no_spectrum_has_is_told_with_its_field(tmp_path, change, field, says):
    with pytest.raises(SampleError) as caught:
        read(tmp_path, json.dumps(ROW | change))
    assert caught.value.code == "bad_rows"
    assert (caught.value.data["row"], caught.value.data["field"]) == (1, field)
    assert says in caught.value.message


MGF = """\
# a library
BEGIN IONS
PEPMASS=79.0542 12.5
CHARGE=1+
ADDUCT=[M+H]1+
NAME=benzene
SMILES=c1ccccc1
51.02 0.3
78.05 1.0
END IONS

BEGIN IONS
SMILES=O=C=O
CHARGE=0
43.99 7
END IONS
"""


def test_mgf_is_read(tmp_path):
    reading = read(tmp_path, MGF, "library.mgf")
    assert said(reading) == [
        (KEPT | {"precursor_mz": 79.0542, "charge": 1, "adduct": "[M+H]1+"}, "c1ccccc1"),
        ({"mzs": [43.99], "intensities": [7.0]}, "O=C=O"),
    ]
    assert [example.line for example in reading.examples] == [2, 12]


MSP = """\
Name: benzene
PrecursorMZ: 79.0542
Precursor_type: [M+H]+
SMILES: c1ccccc1
Num Peaks: 2
51.02 0.3; 78.05 1.0;

Name: methanol
Comment: [Marker]
QI=74.05
SMILES: CO
Num peaks: 2
31.02\t0.5 "CH3O+"
32.03\t1
Name: water
SMILES: O
Num Peaks: 1
(18,999)
"""


def test_msp_is_read(tmp_path):
    assert said(read(tmp_path, MSP, "library.msp")) == [
        (KEPT | {"precursor_mz": 79.0542, "adduct": "[M+H]+", "charge": 1}, "c1ccccc1"),
        ({"mzs": [31.02, 32.03], "intensities": [0.5, 1.0]}, "CO"),
        ({"mzs": [18.0], "intensities": [999.0]}, "O"),
    ]


@pytest.mark.parametrize(
    ("text", "name", "row", "field", "says"),
    [
        (MGF.replace("51.02 0.3", "51.02"), "a.mgf", 2, "mzs", "line 8 is no peak"),
        (
            MGF.replace("PEPMASS", "SMILES=CC\nPEPMASS"),
            "a.mgf",
            2,
            "smiles",
            "told twice, 'CC' and 'c1ccccc1'",
        ),
        (MGF.replace("51.02 0.3", "a" + " " * 30_000 + "("), "a.mgf", 2, "mzs", "line 8 is no peak"),
        (MGF.replace("51.02 0.3", "51.02 0"), "a.mgf", 2, "intensities[0]", "leave the peak out"),
        (MGF.replace("SMILES=O=C=O\n", "SMILES=N/A\n"), "a.mgf", 12, "smiles", "missing"),
        (MGF.replace("END IONS\n\n", "\n"), "a.mgf", 2, "", "has no END IONS"),
        (MSP.replace("Num Peaks: 2", "Num Peaks: 3"), "a.msp", 1, "mzs", "Num Peaks says 3"),
    ],
)
def test_a_spectrum_of_a_file_that_cannot_be_used_is_named_by_its_line(
    tmp_path, text, name, row, field, says
):
    with pytest.raises(SampleError) as caught:
        read(tmp_path, text, name)
    assert (caught.value.data["row"], caught.value.data["field"]) == (row, field)
    assert says in caught.value.message


@pytest.mark.parametrize("text", [MGF[:-10], MSP[: MSP.index("Num Peaks: 1")]])
def test_half_a_file_is_told(tmp_path, text):
    with pytest.raises(SampleError) as caught:
        read(tmp_path, text, "half.mgf")
    assert caught.value.code == "cut_off"


def test_a_file_without_spectra_is_told(tmp_path):
    with pytest.raises(SampleError, match="BEGIN IONS") as caught:
        read(tmp_path, "a letter to a friend\n", "letter.txt")
    assert caught.value.code == "plain_text"


def test_a_spectrum_longer_than_a_row_may_be_is_passed_and_told(tmp_path):
    peaks = "".join(f"{mz / 10:.1f} 1.0\n" for mz in range(500, 9000))
    long = MGF.replace("51.02 0.3\n", peaks)
    with pytest.raises(SampleError, match="max_row_bytes"):
        read(tmp_path, long, "long.mgf", max_row_bytes=20_000)


def test_rows_of_other_tasks_are_told(tmp_path):
    with pytest.raises(SampleError, match="spectra"):
        read(tmp_path, json.dumps({"text": "a", "label": "b"}))


@pytest.mark.parametrize(
    ("row", "charge"),
    [
        ({"ionmode": "negative"}, -1),
        ({"ion_mode": "P"}, None),
        ({"ion_mode": "-", "charge": "2-"}, -2),
        ({"ion_mode": "Negative", "adduct": "[M-H]-"}, -1),
        ({"charge": "1", "adduct": "[M-H]-"}, -1),  # many files write a charge without its sign
        ({"ion_mode": "unknown"}, None),
    ],
)
def test_the_ion_mode_says_the_sign_where_nothing_else_does(tmp_path, row, charge):
    ((given, _),) = said(read(tmp_path, json.dumps(ROW | row)))
    assert given.get("charge") == charge


def test_a_charge_before_the_first_spectrum_holds_for_those_that_say_nothing(tmp_path):
    reading = read(tmp_path, "CHARGE=1-\n" + MGF.replace("ADDUCT=[M+H]1+\n", ""), "library.mgf")
    assert [given.get("charge") for given, _ in said(reading)] == [1, -1]


def test_an_msp_says_its_ion_mode(tmp_path):
    reading = read(tmp_path, MSP.replace("Comment: [Marker]", "Ion_mode: N"), "library.msp")
    assert [given.get("charge") for given, _ in said(reading)] == [1, -1, None]
