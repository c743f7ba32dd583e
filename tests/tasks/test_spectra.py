"""The spectra task: candidates, what is held out, questions and answers."""

from collections import defaultdict

import pytest
import tiny_encoder
import tiny_smiles
import torch

from lorad.errors import ConfigError, SampleError
from lorad.models import bases, heads
from lorad.models.spectrum_matcher import MATCHER
from lorad.records import Example
from lorad.tasks import encode, find, molecules
from lorad.tasks.spectra import CANDIDATES, LONGEST_TOKENS, MOST_PEAKS

TASK = find("spectra")
WORDS = tiny_smiles.tokenizer()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    place = tmp_path_factory.mktemp("base")
    folder = tiny_smiles.store(place / "source", place / "stored")
    loaded = bases.load_base(folder, torch.float32, head=MATCHER)
    heads.build(loaded.model, MATCHER, ["match"])
    return loaded


def examples(smiles, dataset="d", spectra=2):
    return [
        Example(
            task="spectra",
            input={name: value for name, value in row.items() if name != "smiles"},
            target=row["smiles"],
            dataset=dataset,
            line=at + 1,
        )
        for at, row in enumerate(tiny_smiles.rows(smiles, spectra))
    ]


def rows(given):
    usable, unusable = encode(TASK, WORDS, given)
    assert not unusable
    return [row for _, row in usable]


def chain(length):
    return "C" * length


def plain(lengths, spectra=3):
    """Return examples of chains, whose spectra say nothing."""
    return [
        Example(
            task="spectra",
            input={"mzs": [float(length), 1000.0 + number], "intensities": [1.0, 1.0]},
            target=chain(length),
            dataset="d",
        )
        for length in lengths
        for number in range(spectra)
    ]


# candidates


def test_candidates_are_of_near_mass_and_the_right_one_stands_anywhere():
    found = rows(examples([chain(length) for length in range(3, 23)]))
    for row in found:
        assert len(row.candidates) == len(set(row.candidates)) == CANDIDATES
        lengths = sorted(len(each) for each in row.candidates)
        assert lengths == list(range(lengths[0], lengths[0] + CANDIDATES))
        assert row.tokens[row.right] == tuple(WORDS(row.candidates[row.right])["input_ids"])
    assert [row.candidates[row.right] for row in found] == [
        each.target for each in examples([chain(n) for n in range(3, 23)])
    ]
    assert len({row.right for row in found}) > 3


def test_an_older_dataset_keeps_its_candidates_when_another_one_comes():
    old = examples([chain(length) for length in range(3, 13)])
    before = rows(old)
    after = rows([*old, *examples(tiny_smiles.ISOMERS, "new")])
    assert after[: len(old)] == before


def test_a_dataset_of_few_molecules_is_filled_up_from_others():
    found = rows([*examples(["CCO", "CCN"]), *examples(tiny_smiles.ISOMERS, "other")])
    assert all(len(row.candidates) == CANDIDATES for row in found[:4])
    assert {"CCO", "CCN"} <= set(found[0].candidates)


def test_one_molecule_alone_cannot_be_matched():
    found = rows(examples(["CCO"]))
    assert TASK.chance(found) == 1
    with pytest.raises(SampleError, match="of one molecule") as caught:
        TASK.labels(found)
    assert caught.value.code == "one_molecule"


def test_stereoisomers_are_one_molecule():
    found = rows(examples(["CC(N)C(=O)O", "OC(=O)C(N)C"]))
    assert {row.candidates for row in found} == {("CC(N)C(=O)O",)}


@pytest.mark.parametrize("smiles", ["[13CH3]CO", "[2H]OC", "CCO CCN", "CCO\nCCN"])
def test_what_the_masses_would_be_wrong_of_is_refused(smiles):
    with pytest.raises(SampleError) as caught:
        TASK.check(WORDS, examples([smiles])[0])
    assert (caught.value.code, caught.value.data["field"]) == ("bad_smiles", "smiles")


def test_a_candidate_that_is_no_molecule_is_named():
    asked = {"candidates": ["CCO", "C1"], "mzs": [29.0], "intensities": [1.0]}
    with pytest.raises(SampleError) as caught:
        TASK.question(WORDS, asked)
    assert caught.value.data["field"] == "candidates[1]"


def test_an_adduct_cannot_take_more_than_there_is():
    asked = {"candidates": ["CCO"], "mzs": [29.0], "intensities": [1.0], "adduct": "[M-Ca9]-"}
    with pytest.raises(SampleError, match="takes more than") as caught:
        TASK.question(WORDS, asked)
    assert caught.value.data["field"] == "adduct"


# what is held out


def test_whole_molecules_are_held_out():
    given = plain(range(1, 71))
    apart = TASK.held_out(given)
    by_molecule = defaultdict(set)
    for each in given:
        by_molecule[each.target].add(each.id in apart)
    assert all(len(said) == 1 for said in by_molecule.values())
    assert 5 < sum(True in said for said in by_molecule.values()) < 25
    assert TASK.held_out(given) == apart


def test_of_few_molecules_none_is_held_out():
    few = plain(range(1, 20))

    assert not TASK.held_out(few)
    assert TASK.held_out(few, {few[0].id, "gone"}) == {few[0].id}  # but what was never trained stays so
    assert not TASK.held_out(few, {each.id for each in few})


# rows


@pytest.mark.parametrize(
    ("smiles", "code"), [("C1CC", "bad_smiles"), ("CCO.O", "several_molecules"), (chain(500), "too_long")]
)
def test_a_row_whose_molecule_cannot_be_read_is_told_by_its_field(smiles, code):
    given = Example(task="spectra", input={"mzs": [1.0], "intensities": [1.0]}, target=smiles, line=7)
    for check, begins in ((TASK.check, ""), (TASK.encode, "row 7: ")):
        with pytest.raises(SampleError) as caught:
            check(WORDS, given)
        assert (caught.value.code, caught.value.data["field"]) == (code, "smiles")
        assert caught.value.message.startswith(begins)


def test_the_strongest_peaks_are_read():
    mzs = [float(mz) for mz in range(50, 150)]
    given = {"mzs": mzs, "intensities": mzs, "smiles": "CCO"}
    row = TASK.question(WORDS, given)
    assert row.mzs == tuple(mzs[-MOST_PEAKS:])
    assert row.intensities[-1] == 1
    assert len(row) == MOST_PEAKS + len("CCO") + 2
    assert LONGEST_TOKENS + MOST_PEAKS < 512


SPECTRUM = {"mzs": [31.02], "intensities": [1.0]}


@pytest.mark.parametrize(
    ("asked", "field", "says"),
    [
        ("CCO", "", "must be an object"),
        (SPECTRUM, "smiles", "one of both"),
        (SPECTRUM | {"smiles": "C", "candidates": ["C"]}, "smiles", "one of both"),
        (SPECTRUM | {"candidates": []}, "candidates", "1 to 64"),
        (SPECTRUM | {"candidates": ["C"] * 65}, "candidates", "1 to 64"),
        (SPECTRUM | {"candidates": [7]}, None, "'7' is no SMILES"),
        (SPECTRUM | {"smiles": "C1C"}, "smiles", "no SMILES"),
        (SPECTRUM | {"smiles": "C", "mzs": []}, "intensities", "there are 0"),
        (SPECTRUM | {"smiles": "C", "colour": "red"}, "colour", "unknown here"),
        ({"smiles": "C", "mzs": [1.0]}, "intensities", "is missing"),
        (SPECTRUM | {"smiles": "C", "adduct": "[M]"}, "adduct", "write an adduct"),
    ],
)
def test_what_cannot_be_asked_is_told_by_its_field(asked, field, says):
    with pytest.raises(SampleError, match=says.replace("(", "\\(")) as caught:
        TASK.question(WORDS, asked)
    assert field is None or caught.value.data["field"] == field


def test_a_base_that_reads_no_smiles_is_refused():
    with pytest.raises(ConfigError, match="rxnmapper") as caught:
        TASK.check_tokenizer(tiny_encoder.tokenizer())
    assert caught.value.code == "no_smiles_base"
    TASK.check_tokenizer(WORDS)


# answers


def test_answers_are_sorted_and_say_what_each_peak_says(base):
    spectrum = tiny_smiles.spectrum("CCCCCO")
    asked = TASK.question(WORDS, spectrum | {"candidates": list(tiny_smiles.ISOMERS)})
    with torch.inference_mode():
        (said,) = TASK.predict(base.model, [asked])
    matches = said["matches"]
    assert [each["match"] for each in matches] == sorted((each["match"] for each in matches), reverse=True)
    assert sum(each["share"] for each in matches) == pytest.approx(1)
    own = next(each for each in matches if each["smiles"] == "CCCCCO")
    assert [peak["mz"] for peak in own["peaks"]] == spectrum["mzs"]
    known = molecules.fragments("CCCCCO", 1).formulas
    assert sum(peak["fragment"] in known for peak in own["peaks"]) >= 5
    assert all(peak["explained"] == (peak["evidence"] > 0) for peak in own["peaks"])


def test_what_is_alike_ranks_last(base):
    given = rows(examples(tiny_smiles.ISOMERS[:4]))
    with torch.inference_mode():
        for name, weight in base.model.fusion.evidence.named_parameters():
            del name
            weight.zero_()
        assert TASK.metrics(base.model, given) == {"mrr": 0.25, "top1": 0.0}
