"""The labels of texts: targets of every kind, one head over whole paths, losses, answers, and sessions on a tiny encoder."""

import math
import shutil
from dataclasses import replace

import pytest
import tiny
import tiny_encoder
import torch
from peft import PeftModel
from test_toy_task import begin
from training_runs import PLAN
from transformers import AutoModelForSequenceClassification, pipeline

from lorad.errors import RegistryError, SampleError
from lorad.evaluation import calibration, metrics
from lorad.models import adapter_stack, bases, heads, peft_io, scoring
from lorad.records import Example
from lorad.storage import files
from lorad.tasks import find
from lorad.tasks.text_classification import MULTIPLE, Text
from lorad.training import session
from lorad.versions import calibrations, export, loader, papers

TASK = find("text_classification")
PATHS = {"fruit": "things/food/fruit", "metal": "things/metal", "bird": "animals/bird"}


def labelled(labels, dataset="things", verb="took", to=lambda label: label):
    return [
        replace(example, target=to(example.target))
        for example in tiny_encoder.texts(labels, dataset=dataset, verb=verb)
    ]


def as_path(label):
    return PATHS[label]


def learn(base, folder, new, old=(), parent=None, **plan):
    run = begin(base, folder, new, old, parent, **plan)
    made = session.Session(run.folder, replace(run.spec, task="text_classification"))
    made.run()
    return made.folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return tiny_encoder.store(folder / "source", folder / "encoder")


def headed(base, labels, problem_type=None, bias=None):
    """Return a base with a head for these labels that says the same of every text, and its tokenizer."""
    loaded = bases.load_base(base, torch.float32, head=heads.SEQUENCE)
    heads.build(loaded.model, heads.SEQUENCE, labels, problem_type)
    if bias is not None:
        with torch.no_grad():
            loaded.model.classifier.weight.zero_()
            loaded.model.classifier.bias.copy_(torch.tensor(bias))
    return loaded.model, loaded.tokenizer


def row(tokenizer, target, text="she took the fig"):
    return TASK.encode(tokenizer, Example(task="classify", input=text, target=target, line=1))


# -- rows


def test_the_rows_tell_of_which_kind_a_target_is(base):
    tokenizer = bases.load_tokenizer(base)

    one, several, rated = (
        row(tokenizer, target)
        for target in ("fruit", ["metal", "fruit"], {"fruit": 0.25, "metal": 0.75, "bird": 0})
    )

    assert (one.labels, one.shares, one.is_multiple, one.best) == (("fruit",), (1.0,), False, "fruit")
    assert (several.labels, several.is_multiple) == (("fruit", "metal"), True)
    assert (rated.labels, rated.shares, rated.best) == (("fruit", "metal"), (0.25, 0.75), "metal")
    assert TASK.labels([one, rated]) == ["fruit", "metal"]
    assert [TASK.problem_type(rows) for rows in ([one, rated], [several])] == [None, MULTIPLE]


@pytest.mark.parametrize(
    ("text", "target", "code", "field"),
    [
        ("she took the fig", "things//fruit", "bad_path", "label"),
        ("she took the fig", ["things/"], "bad_path", "label"),
        (" ", "fruit", "no_text", "text"),
        (7, "fruit", "no_text", "text"),
    ],
)
def test_what_cannot_be_learned_is_told_with_row_and_field(base, text, target, code, field):
    with pytest.raises(SampleError, match="row 3") as caught:
        TASK.encode(bases.load_tokenizer(base), Example(task="classify", input=text, target=target, line=3))

    assert (caught.value.code, caught.value.data["field"]) == (code, field)


def check_all(targets, known=(), named=()):
    check = TASK.checker(lambda: known, named)
    for number, target in enumerate(targets, start=1):
        check(Example(task="classify", input="x", target=target, line=number))


@pytest.mark.parametrize(
    ("targets", "known", "named", "code"),
    [
        (["fruit", ["metal"]], (), (), "other_labels"),
        (["fruit"], [["metal"]], (), "other_labels"),
        ([[]], ["metal"], (), "other_labels"),
        ([], ["fruit", "metal", "bird"], ("fruit", "metal"), "labels_shrink"),
        ([], ["fruit", "metal"], ("fruit", "bird"), "labels_shrink"),
    ],
)
def test_labels_that_do_not_fit_what_is_known_are_refused_by_name(targets, known, named, code):
    with pytest.raises(SampleError) as caught:
        check_all(targets, known, named)

    assert caught.value.code == code
    assert caught.value.data["field"] in {"label", "labels"}


@pytest.mark.parametrize(
    ("targets", "known", "named"),
    [
        (["fruit", "bird"], ["fruit"], ()),  # it grows
        ([{"fruit": 0.5, "metal": 0.5}, "fruit"], ["fruit"], ()),  # ratings and labels go together
        (["bird"], ["fruit"], ("bird", "fish")),  # another subject altogether
        (["bird"], ["fruit"], ("fruit", "bird")),
        ([[], ["fruit"]], [["fruit"]], ()),
    ],
)
def test_labels_that_grow_are_taken(targets, known, named):
    check_all(targets, known, named)


# -- learning


def test_a_soft_target_is_learned_whole_and_graded_by_its_largest_share(base):
    model, tokenizer = headed(base, ["bird", "fruit", "metal"], bias=[0.0, 1.0, 2.0])
    rows = [
        row(tokenizer, {"fruit": 0.3, "metal": 0.7}),
        row(tokenizer, {"fruit": 0.5, "metal": 0.5}),
        row(tokenizer, "fruit"),
    ]

    outputs = TASK.forward(model, rows)

    said = torch.tensor([0.0, 1.0, 2.0]).log_softmax(-1)
    assert float(TASK.loss(outputs)) == pytest.approx(
        float(-(0.3 * said[1] + 0.7 * said[2]) - (0.5 * said[1] + 0.5 * said[2]) - said[1]), rel=1e-5
    )
    assert TASK.grade(outputs) == [True, True, False]
    assert TASK.log_probabilities(outputs)[0] == pytest.approx(float(said[2]), rel=1e-5)


def test_a_label_that_the_model_does_not_know_is_wrong(base):
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[5.0, 0.0])
    several, _ = headed(base, ["fruit", "metal"], MULTIPLE, bias=[5.0, -5.0])

    outputs = TASK.forward(model, [row(tokenizer, "bird"), row(tokenizer, "fruit")])
    others = TASK.forward(
        several, [row(tokenizer, ["bird", "fruit"]), row(tokenizer, ["fruit"]), row(tokenizer, "fruit")]
    )

    assert TASK.grade(outputs) == [False, True]
    assert TASK.log_probabilities(outputs)[0] == -math.inf
    assert TASK.grade(others) == [False, True, False]
    assert [math.isinf(each) for each in TASK.log_probabilities(others)] == [True, False, True]
    assert outputs.targets[0] == scoring.UNKNOWN


def test_where_a_text_may_have_several_labels_each_is_a_yes_or_no(base):
    model, tokenizer = headed(base, ["bird", "fruit", "metal"], MULTIPLE, bias=[-1.0, 2.0, 3.0])
    rows = [row(tokenizer, ["fruit", "metal"]), row(tokenizer, ["fruit"]), row(tokenizer, [])]

    outputs = TASK.forward(model, rows)
    (answer, *_) = TASK.predict(model, rows)

    assert TASK.grade(outputs) == [True, False, False]
    likely = [1 / (1 + math.exp(-each)) for each in (-1.0, 2.0, 3.0)]
    whole = (1 - likely[0]) * likely[1] * likely[2]
    assert TASK.log_probabilities(outputs)[0] == pytest.approx(math.log(whole), rel=1e-5)
    assert TASK.confidences(model, tokenizer, rows)[0] == (pytest.approx(whole, rel=1e-5), True)
    assert (answer["label"], answer["labels"], answer["levels"]) == (None, ["metal", "fruit"], [])
    assert list(answer["probabilities"]) == ["metal", "fruit", "bird"]


def test_what_a_dataset_never_names_it_does_not_deny(base):
    # Given an old dataset whose labellers knew no birds, and a new one that is about them alone
    model, tokenizer = headed(base, ["fruit", "metal", "bird"], MULTIPLE, bias=[3.0, -3.0, 3.0])
    examples = [
        Example(task="classify", input="she took the fig", target=["fruit"], dataset="old"),
        Example(task="classify", input="she took the tin", target=["metal"], dataset="old"),
        Example(task="classify", input="she took the owl", target=["bird"], dataset="new"),
        Example(task="classify", input="she took the air", target=[], dataset="new"),
    ]

    rows = TASK.complete(examples, [TASK.encode(tokenizer, each) for each in examples])
    outputs = TASK.forward(model, rows[:1])

    assert [each.judged for each in rows] == [("fruit", "metal"), ("fruit", "metal"), ("bird",), ("bird",)]
    assert outputs.importance.tolist() == [[1, 1, 0]]
    assert TASK.grade(outputs) == [True]
    ((sure, is_right),) = TASK.confidences(model, tokenizer, rows[:1])
    likely = TASK.predict(model, rows[:1])[0]["probabilities"]
    told = [likely[label] for label in rows[0].judged]
    assert sure == pytest.approx(math.prod(max(each, 1 - each) for each in told), abs=1e-5)
    assert is_right
    without = TASK.forward(model, [replace(rows[0], judged=())])
    assert float(TASK.loss(without) - TASK.loss(outputs)) == pytest.approx(
        math.log1p(math.exp(3.0)), rel=1e-4
    )


def test_a_label_to_which_nothing_says_no_is_denied_by_the_other_datasets(base):
    tokenizer = bases.load_tokenizer(base)
    examples = [
        Example(task="classify", input="she took the fig", target=["fruit", "dead"], dataset="old"),
        Example(task="classify", input="she took the tin", target=["dead"], dataset="old"),
        Example(task="classify", input="she took the owl", target=["bird"], dataset="new"),
    ]

    rows = TASK.complete(examples, [TASK.encode(tokenizer, each) for each in examples])

    assert [each.judged for each in rows] == [("bird", "dead", "fruit")] * 2 + [("bird", "dead")]


def test_rare_labels_weigh_more_and_that_is_said():
    rows = [Text((1,), ("ham",), (1.0,))] * 90 + [Text((1,), ("spam",), (1.0,))] * 10
    examples = [Example(task="classify", input=str(at), target="x") for at in range(100)]

    weighed, even = TASK.complete(examples, rows), TASK.complete(examples[:20], rows[80:])
    (note,) = TASK.notes(weighed)

    (ham,), (spam,) = weighed[0].weights, weighed[-1].weights
    assert spam / ham == pytest.approx(3, rel=0.001)  # the square root of nine
    assert (90 * ham + 10 * spam) / 100 == pytest.approx(1, rel=0.001)
    assert "from 10 rows (spam) to 90 (ham)" in note
    assert (even[0].weights, TASK.notes(even)) == ((), ())
    assert TASK.notes(weighed[:90]) == ()  # all of the rare label is held out


def test_the_weight_of_a_label_counts_in_the_loss_and_nowhere_else(base):
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[0.0, 1.0])
    plain = row(tokenizer, "fruit")
    heavy = replace(plain, weights=(3.0,))

    once, thrice = (TASK.forward(model, [each]) for each in (plain, heavy))

    assert float(TASK.loss(thrice)) == pytest.approx(3 * float(TASK.loss(once)))
    assert TASK.log_probabilities(once) == TASK.log_probabilities(thrice)


def test_the_commonest_answer_is_right_by_chance():
    one = [Text((1,), (label,), (1.0,)) for label in ("ham", "ham", "ham", "spam")]
    several = [
        Text((1,), labels, (1.0,) * len(labels), is_multiple=True) for labels in ((), ("a", "b"), ("a",), ())
    ]

    assert (TASK.chance(one), TASK.chance(several), TASK.chance([])) == (0.75, 0.5, 0.0)


def test_a_share_of_a_large_dataset_is_held_out_the_same_at_every_call():
    large, medium, small = (
        [Example(task="classify", input=f"{name} {at}", target="a", dataset=name) for at in range(size)]
        for name, size in (("large", 1000), ("medium", 999), ("small", 99))
    )

    apart = TASK.held_out([*small, *medium, *large])

    ids = {name: {each.id for each in rows} for name, rows in (("large", large), ("medium", medium))}
    assert 70 < len(apart & ids["large"]) < 130
    assert 160 < len(apart & ids["medium"]) < 240
    assert apart == TASK.held_out(large[::-1]) | TASK.held_out(medium)
    # What a dataset that has grown still holds out, it held out before
    assert TASK.held_out(large) & {each.id for each in large[:-1]} < TASK.held_out(large[:-1])


def test_what_was_never_trained_stays_so_in_a_dataset_that_has_become_small():
    whole = [Example(task="classify", input=f"text {at}", target="a", dataset="b") for at in range(100)]
    already = TASK.held_out(whole)
    fewer = [each for each in whole if each is not next(one for one in whole if one.id not in already)]

    assert TASK.held_out(fewer, already) == already
    assert not TASK.held_out(fewer)
    # but a label that only such rows have is trained
    last = [each for each in whole if each.id in already][:3]
    assert len(TASK.held_out(last, already)) == 2


def test_a_label_is_never_held_out_whole():
    rows = [
        Example(task="classify", input=f"text {at}", target=f"kind {at // 2}", dataset="many")
        for at in range(400)
    ]

    apart = TASK.held_out(rows)

    assert 40 < len(apart) < 120
    assert {row.target for row in rows if row.id not in apart} == {row.target for row in rows}
    assert apart == TASK.held_out(rows[::-1])


# -- probabilities

FITTING = math.log(19) / math.log(7 / 3)
"""The temperature at which 95 % become 70 %."""


@pytest.fixture
def no_prior(monkeypatch):
    """Let the rows alone say the temperature."""
    monkeypatch.setattr(scoring, "SPREAD", None)


@pytest.mark.usefixtures("no_prior")
def test_the_temperature_is_that_at_which_it_is_as_right_as_it_is_sure(base):
    # Given a model that says 95 % of every text, and is right in seven of ten
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[math.log(19), 0.0])
    rows = [row(tokenizer, "fruit")] * 700 + [row(tokenizer, "metal")] * 300

    temperature = TASK.temperature(model, rows)

    assert temperature == pytest.approx(FITTING, rel=0.01)


@pytest.mark.usefixtures("no_prior")
def test_of_ratings_the_temperature_is_fitted_on_what_most_people_say(base):
    # Given a model that says 95 % of every text, and ratings that are 60 % for fruit in seven of ten texts
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[math.log(19), 0.0])
    rows = [row(tokenizer, {"fruit": 0.6, "metal": 0.4})] * 700
    rows += [row(tokenizer, {"fruit": 0.4, "metal": 0.6})] * 300

    assert TASK.temperature(model, rows) == pytest.approx(FITTING, rel=0.01)


@pytest.mark.usefixtures("no_prior")
def test_the_temperature_of_several_labels_is_fitted_on_each(base):
    model, tokenizer = headed(base, ["fruit", "metal"], MULTIPLE, bias=[math.log(19), math.log(19)])
    rows = [row(tokenizer, ["fruit", "metal"])] * 700 + [row(tokenizer, [])] * 300

    assert TASK.temperature(model, rows) == pytest.approx(FITTING, rel=0.01)


@pytest.mark.usefixtures("no_prior")
def test_where_all_is_right_it_does_not_become_certain(base):
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[2.0, 0.0])

    temperature = TASK.temperature(model, [row(tokenizer, "fruit")] * 50)

    sure = 1 / (1 + math.exp(-2.0 / temperature))
    assert sure == pytest.approx(1 - 1 / 102, abs=1e-3)


def test_few_rows_move_the_temperature_less_than_many(base):
    model, tokenizer = headed(base, ["fruit", "metal"], bias=[math.log(19), 0.0])
    rows = [row(tokenizer, "fruit")] * 7 + [row(tokenizer, "metal")] * 3

    assert 1 < TASK.temperature(model, rows) < TASK.temperature(model, rows * 20) < FITTING


def test_levels_are_sums_over_paths_and_never_contradict_the_answer(base):
    bias = {"animals/bird": 1.0, "things/food/fruit": 1.2, "things/food/nut": 0.5, "things/metal": 0.9}
    model, tokenizer = headed(base, list(bias), bias=list(bias.values()))

    (answer,) = TASK.predict(model, [TASK.question(tokenizer, "she took the fig")])

    chances = dict(zip(bias, torch.tensor(list(bias.values())).softmax(-1).tolist(), strict=True))
    food = chances["things/food/fruit"] + chances["things/food/nut"]
    assert answer["label"] == "things/food/fruit"
    assert [level["label"] for level in answer["levels"]] == ["things", "things/food", "things/food/fruit"]
    assert [level["probability"] for level in answer["levels"]] == pytest.approx(
        [food + chances["things/metal"], food, chances["things/food/fruit"]], abs=1e-5
    )
    assert answer["probabilities"] == pytest.approx(chances, abs=1e-5)
    assert answer["confidence"] == answer["levels"][-1]["probability"]


def test_metrics_have_the_accuracy_of_each_level(base):
    model, tokenizer = headed(base, sorted(PATHS.values()), bias=[0.0, 1.0, 0.0])  # things/food/fruit, always
    rows = [row(tokenizer, PATHS[kind]) for kind in ("fruit", "metal", "bird", "bird")]

    found = TASK.metrics(model, rows)

    assert found == pytest.approx(
        {
            "accuracy": 0.25,
            "macro_f1": (2 / 5) / 3,
            "accuracy_l1": 0.5,
            "accuracy_l2": 0.25,
            "accuracy_l3": 1.0,
        }
    )
    assert TASK.metrics(model, []) == {}


def test_metrics_of_several_labels(base):
    model, tokenizer = headed(base, ["fruit", "metal"], MULTIPLE, bias=[1.0, -1.0])

    found = TASK.metrics(model, [row(tokenizer, ["fruit"]), row(tokenizer, ["fruit", "metal"])])

    assert found == pytest.approx({"accuracy": 0.5, "macro_f1": 0.5})


# -- sessions


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    return learn(base, tmp_path_factory.mktemp("first"), labelled(["fruit", "metal"], to=as_path))


@pytest.fixture(scope="module")
def second(base, first, tmp_path_factory):
    new, old = labelled(["bird"], "birds", to=as_path), labelled(["fruit", "metal"], to=as_path)
    return learn(base, tmp_path_factory.mktemp("second"), new, old, first.candidate)


def test_labels_grow_and_keep_their_places(first, second):
    result = second.result()

    assert result.verdict.promote, result.verdict.reasons
    assert {name: score.recall for name, score in result.evaluation.scores.items()} == {
        "birds": 1.0,
        "things": 1.0,
    }
    assert result.evaluation.metrics["accuracy_l1"] == result.evaluation.metrics["accuracy"] == 1.0
    parent, child = (peft_io.read_labels(run.candidate) for run in (first, second))
    assert parent == ("things/food/fruit", "things/metal")
    assert child == (*parent, "animals/bird")
    assert not (second.candidate / calibrations.OWN).exists()  # nothing was held out of so few


def test_plain_peft_on_the_untouched_base_says_the_same(base, second):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(second.candidate)).eval()
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
    stack.add("it", second.candidate)
    asked = [example.input for example in labelled(["fruit", "bird"])]
    tokenizer = bases.load_tokenizer(base)

    with torch.inference_mode(), stack.use("it") as model:
        ours = TASK.forward(model, [TASK.question(tokenizer, text) for text in asked]).logits
        theirs = plain(**tokenizer(asked, padding=True, return_tensors="pt")).logits

    assert torch.allclose(ours, theirs, atol=1e-5)


def piped(base, version, folder, text):
    """Return what transformers' own pipeline says of a text by a merged export: each label's probability."""
    export.export(version, base, folder, "merged", task=TASK)
    (said,) = pipeline("text-classification", model=str(folder), top_k=None)([text])
    return {each["label"]: each["score"] for each in said}


def test_a_merged_export_runs_in_transformers_own_pipeline(base, second, tmp_path):
    (answer,) = answers(load(base, second.candidate), "she took the owl")

    found = piped(base, second.candidate, tmp_path / "out", "she took the owl")

    assert found == pytest.approx(answer["probabilities"], abs=1e-4)
    assert max(found, key=found.__getitem__) == "animals/bird"


def test_there_each_of_several_labels_is_a_yes_or_no_as_well(base, tmp_path):
    # Given a version of several labels, with random weights
    model, tokenizer = headed(base, ["fruit", "metal", "soft"], MULTIPLE)
    torch.manual_seed(3)
    live = peft_io.add_lora(model, 4, 8, heads.SEQUENCE)
    with torch.no_grad():
        for weight in (each for each in live.parameters() if each.requires_grad):
            weight.normal_(0, 0.2)
    version = tmp_path / "v0.1"
    peft_io.write_adapter(peft_io.read_live(live), version, "encoder", heads.SEQUENCE)
    probe = metrics.probe(TASK, live.eval(), [TASK.question(tokenizer, "she took the owl")])
    files.write_json(version / metrics.PROBES, probe)
    (answer,) = answers(load(base, version), "she took the fig")

    found = piped(base, version, tmp_path / "out", "she took the fig")

    assert found == pytest.approx(answer["probabilities"], abs=1e-4)
    assert sum(found.values()) != pytest.approx(1, abs=0.05)


def several(kinds, dataset):
    """Return texts with two labels each: what it is, and how it feels."""
    return labelled(kinds, dataset, to=lambda kind: [kind, "hard" if kind == "metal" else "soft"])


def test_a_track_of_several_labels_stays_one(base, tmp_path):
    old, new = several(["fruit", "metal"], "things"), several(["bird"], "birds")

    longer = replace(PLAN.stopping, max_rounds=300, patience=300)  # each label is a question of its own

    one = learn(base, tmp_path / "one", old, stopping=longer)
    two = learn(base, tmp_path / "two", new, old, one.candidate, stopping=longer)

    for run, examples in ((one, old), (two, [*old, *new])):
        assert run.result().verdict.promote, run.result().verdict.reasons
        assert peft_io.read_problem_type(run.candidate) == MULTIPLE
        stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
        loader.load(TASK, stack, "it", run.candidate, base)
        assert stack.read("it").problem_type == MULTIPLE
        with stack.use("it") as model, torch.inference_mode():
            said = TASK.predict(model, [TASK.question(stack.base.tokenizer, each.input) for each in examples])
        unsaid = {"fruit", "metal", "hard"}  # of birds nobody said whether they are
        for each, answer in zip(examples, said, strict=True):
            assert set(each.target) - unsaid == set(answer["labels"]) - unsaid
            assert each.dataset == "birds" or set(each.target) == set(answer["labels"])
    assert peft_io.read_labels(two.candidate) == (*peft_io.read_labels(one.candidate), "bird")


def many(count=300):
    """Return so many texts that some are held out; what the numbers say the tokenizer does not know."""
    pairs = [(kind, word) for kind in ("fruit", "metal") for word in tiny_encoder.WORDS[kind]]
    return [
        Example(task="classify", input=f"she took the {word} {at}", target=kind, dataset="many", line=at + 1)
        for at in range(count)
        for kind, word in [pairs[at % len(pairs)]]
    ]


@pytest.fixture(scope="module")
def calibrated(base, tmp_path_factory):
    return learn(base, tmp_path_factory.mktemp("calibrated"), many())


def test_a_session_calibrates_on_rows_that_it_never_trains(calibrated):
    result = calibrated.result()
    apart = TASK.held_out(many())
    found, told = result.evaluation.metrics, files.read_json(calibrated.candidate / calibrations.OWN)

    assert result.verdict.promote, result.verdict.reasons
    assert result.evaluation.scores["many"].total == 300 - len(apart)
    assert {example_id for example_id, _ in result.learned} == {example.id for example in many()}
    assert apart <= set(result.right)
    assert papers.read_held_out(calibrated.candidate) == apart
    assert {row["id"] for row in told["rows"]} == apart
    assert told["applied"]["fitted_on"] == len(apart)
    assert told["fitted_on"] == 0  # the temperature is in the weights
    assert found["temperature"] == told["applied"]["temperature"] != 1
    assert found["ece_after"] == told["applied"]["after"]["ece"]
    assert found["brier_before"] == told["applied"]["before"]["brier"]
    assert (
        told["digest"]
        == calibration.report(
            calibration.Reference(
                version="",
                measured_at=0,
                environment={},
                temperature=1,
                fitted_on=1,
                rows=tuple(calibration.Asked(**each) for each in told["rows"]),
            )
        ).digest
    )
    words = {word for kinds in tiny_encoder.WORDS.values() for word in kinds}
    text = (calibrated.candidate / calibrations.OWN).read_text()
    assert not any(f"the {word}" in text for word in words)
    assert any("held out" in note for note in result.evaluation.notes)


def test_what_was_trained_before_its_dataset_was_large_is_never_told_as_held_out(base, tmp_path):
    # Given a dataset that grows from 60 rows to 160, by which a tenth of all would be held out
    small, large = many(160)[:60], many(160)
    brief = replace(PLAN.stopping, max_rounds=1)  # nothing need be learned

    one = learn(base, tmp_path / "one", small, stopping=brief)
    two = learn(base, tmp_path / "two", large[60:], small, one.candidate, stopping=brief)
    three = learn(base, tmp_path / "three", labelled(["bird"], "birds"), large, two.candidate, stopping=brief)

    trained = {example.id for example in small}
    assert TASK.held_out(large) & trained
    assert papers.read_held_out(one.candidate) == frozenset()
    for run in (two, three):
        assert papers.read_held_out(run.candidate) == TASK.held_out(large) - trained
    assert three.result().evaluation.scores["many"].total == 160 - len(TASK.held_out(large) - trained)


@pytest.fixture
def version(calibrated, tmp_path):
    return shutil.copytree(calibrated.candidate, tmp_path / "v0.1")


def load(base, version, **options):
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
    loader.load(TASK, stack, "it", version, base, **options)
    return stack


def answers(stack, *texts):
    with stack.use("it") as model, torch.inference_mode():
        return TASK.predict(model, [TASK.question(stack.base.tokenizer, text) for text in texts])


def test_a_version_that_is_as_sure_as_it_was_loads(base, version):
    assert load(base, version).names == ["it"]
    assert calibrations.own(version)["version"] == "v0.1"


def test_a_version_whose_confidence_has_moved_is_refused_by_name(base, version):
    # Given the probes of a version that was not yet divided by its temperature
    told = files.read_json(version / calibrations.OWN)
    files.write_json(version / calibrations.OWN, told | {"probes": [each - 0.2 for each in told["probes"]]})

    with pytest.raises(RegistryError, match=r"has drifted.*lorad calibrate v0\.1 --check") as caught:
        load(base, version)

    assert (caught.value.code, caught.value.is_damage) == ("calibration_drifted", True)
    assert load(base, version, is_calibration_checked=False).names == ["it"]


def test_a_calibration_that_cannot_be_read_is_refused(base, version):
    files.write_json(version / calibrations.OWN, {"probes": ["much"]})

    with pytest.raises(RegistryError) as caught:
        load(base, version)

    assert caught.value.code == "calibration_damaged"


# -- a causal base


def test_a_causal_model_classifies_too_and_padding_changes_nothing(tmp_path):
    bases.store_base(tiny.save(tmp_path / "source"), tmp_path / "base")
    loaded = bases.load_base(tmp_path / "base", torch.float32, head=heads.SEQUENCE)
    heads.build(loaded.model, heads.SEQUENCE, ["fruit", "metal"])
    rows = [TASK.question(loaded.tokenizer, text) for text in ("Where?", "Which colour is the door of Arlo?")]

    with torch.inference_mode():
        together = TASK.forward(loaded.model, rows).logits
        alone = torch.cat([TASK.forward(loaded.model, [each]).logits for each in rows])

    assert together.shape == (2, 2)
    assert torch.allclose(together, alone, atol=1e-5)
    assert metrics.recalled(TASK, loaded.model, rows) == [False, False]


def test_a_text_of_which_an_encoder_reads_only_its_own_marks_is_refused():
    def reads_nothing(_text, **_options):
        return {"input_ids": [2, 3], "special_tokens_mask": [1, 1]}

    with pytest.raises(SampleError) as told:
        TASK.question(reads_nothing, "\u200b")

    assert told.value.code == "no_text"
