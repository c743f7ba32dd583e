"""Spans of a text: aligned with tokens, learned drop by drop, scored, served and exported."""

import functools
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
import tiny_encoder
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from training_runs import PLAN, specification
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from lorad.config import Settings
from lorad.errors import ConfigError, SampleError
from lorad.models import adapter_stack, bases, heads, peft_io
from lorad.records import Example
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.tasks import encode, find, token_classification
from lorad.tasks.token_classification import TokenClassification, entity_scores, spans
from lorad.training import session
from lorad.training.run_folder import RunFolder
from lorad.versions import export

TASK = find("token_classification")
BOTH_WAYS = find("bidirectional_token_classification")
SETTINGS = Settings()


words = functools.cache(tiny_encoder.tokenizer)


def example(text, *marked, dataset="d", line=1):
    """Return a text in which these words are marked, as ``word:label``."""
    found = []
    for each in marked:
        word, label = each.split(":")
        start = text.index(word)
        found.append([start, start + len(word), label])
    return Example(task="tagging", input=text, target=sorted(found), dataset=dataset, line=line)


# spans and tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-A I-A O", [(0, 2, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("I-A I-A", [(0, 2, "A")]),
        ("O I-A B-A", [(1, 2, "A"), (2, 3, "A")]),
        ("B-A-1 I-A-1", [(0, 2, "A-1")]),
    ],
)
def test_tags_become_spans(tags, expected):
    assert spans(tags.split()) == expected


@given(marks=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "A", "B"])), min_size=1, max_size=8))
def test_spans_become_tags_and_the_same_again(marks):
    # Given words in groups, some of which are marked
    text, target = "", []
    for count, label in marks:
        start = len(text)
        text += "fig " * count
        if label:
            target.append([start, len(text) - 1, label])

    row = TASK.encode(words(), Example(task="tagging", input=text, target=target))

    question = TASK.question(words(), text)
    again = [[question.bounds[a][0], question.bounds[b - 1][1], label] for a, b, label in spans(row.tags)]
    assert again == target
    assert row.weight == len(row.tags) == sum(count for count, _ in marks)


def test_tags_are_of_tokens_that_hold_text():
    row = TASK.encode(words(), example("she took the fig", "the fig:fruit"))

    assert (len(row), row.places) == (6, (1, 2, 3, 4))  # [CLS] and [SEP] have no tag
    assert row.tags == ("O", "O", "B-fruit", "I-fruit")
    assert (row.bounds, row.text) == ((), "")  # papers hold no words


def test_that_nothing_is_marked_is_right_by_chance():
    rows = [
        TASK.encode(words(), example("she took the fig", *marked)) for marked in ((), ("fig:fruit",), (), ())
    ]

    assert (TASK.chance(rows), TASK.chance([])) == (0.75, 0.0)


def test_a_blank_that_belongs_to_a_token_belongs_to_no_span():
    text = "Which colour is the door of Arlo?"
    row, question = (
        TASK.encode(tiny.tokenizer(), example(text, "Arlo:name")),
        TASK.question(tiny.tokenizer(), text),
    )

    ((first, behind, label),) = spans(row.tags)
    assert (text[question.bounds[first][0] : question.bounds[behind - 1][1]], label) == ("Arlo", "name")


def test_of_several_tokens_of_one_character_the_first_is_tagged():
    text = "blue 🌾 Arlo"  # four tokens of bytes
    row = TASK.encode(tiny.tokenizer(), example(text, "🌾:plant", "Arlo:name"))

    bounds = TASK.question(tiny.tokenizer(), text).bounds
    assert len(row) > row.weight
    assert all(one[1] <= other[0] for one, other in pairwise(bounds))
    assert [label for _, _, label in spans(row.tags)] == ["plant", "name"]
    assert row.tags.count("B-plant") == 1
    assert "I-plant" not in row.tags


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        ("fi:fruit", r"row 3: fruit \(13 to 15, 'fi'\) begins or ends inside 'fig', which is one token"),
        ("ig:fruit", r"fruit \(14 to 16, 'ig'\) begins or ends inside 'fig'"),
        (
            " fig:fruit",
            r"fruit \(12 to 16, ' fig'\) begins or ends with what the base model's tokenizer does not read",
        ),
    ],
)
def test_a_span_that_is_not_of_whole_tokens_is_refused(marked, says):
    with pytest.raises(SampleError, match=says) as caught:
        TASK.encode(words(), example("she took the fig", marked, line=3))

    assert caught.value.code == "unaligned"


@pytest.mark.parametrize("asked", [7, "", " \n", None, ["she took the fig"], "\u00a0"])
def test_what_is_no_text_cannot_be_asked(asked):
    with pytest.raises(SampleError) as caught:
        TASK.question(words(), asked)

    assert caught.value.code == "no_text"


def test_a_text_is_never_cut():
    tokenizer = tiny_encoder.tokenizer()
    tokenizer.model_max_length = 6

    assert len(TASK.question(tokenizer, "she took the fig")) == 6
    with pytest.raises(SampleError, match="has 7 tokens, and the base model reads 6; split it") as caught:
        TASK.question(tokenizer, "she took the a fig")
    assert caught.value.code == "too_long"


def test_a_tokenizer_that_does_not_tell_places_is_refused():
    with pytest.raises(ConfigError, match="which characters a token stands for") as caught:
        TASK.check_tokenizer(object())

    assert caught.value.code == "no_offsets"
    TASK.check_tokenizer(words())


def test_labels_are_tags_in_order_whatever_the_order_of_the_rows():
    rows = [
        TASK.encode(words(), example("she took the fig", *marked))
        for marked in (["fig:fruit"], [], ["she:person", "fig:b-2"])
    ]

    assert TASK.labels(rows) == ["O", "B-b-2", "I-b-2", "B-fruit", "I-fruit", "B-person", "I-person"]
    assert TASK.labels(rows[::-1]) == TASK.labels(rows)


# words


def test_tokens_go_on_with_a_word_where_letters_of_two_tokens_touch_and_with_a_number():
    text = "zqx O'Kwq-Yzw 20km zq9x"
    row = TASK.question(tiny.tokenizer(), text)  # which reads each sign by itself

    starts = [row.bounds[at][0] for at in row.inner]
    assert [text[start - 1 : start + 1] for start in starts] == [
        "zq",
        "qx",
        "Kw",
        "wq",
        "Yz",
        "zw",
        "20",
        "km",
        "zq",
    ]


def word(*tags):
    """Return a word of so many tokens, with these tags."""
    size = len(tags)
    return token_classification.Tagged(
        tokens=(1,) * size, places=tuple(range(size)), tags=tags, inner=tuple(range(1, size))
    )


@pytest.mark.parametrize(
    ("tags", "is_split"),
    [
        ("O O", False),
        ("B-A I-A I-A", False),
        ("I-A I-A", False),
        ("B-A O", True),
        ("O B-A", True),
        ("O I-A", True),
        ("B-A B-A", True),
        ("B-A I-B", True),
    ],
)
def test_rows_that_mark_a_part_of_a_word_say_so(tags, is_split):
    assert TASK.splits_words([word("O", "O"), word(*tags.split())]) is is_split


def said(logits, rows, *, splits_words=False):
    known = {"O": 0, "B-A": 1, "I-A": 2}
    return token_classification.TagOutputs(
        logits=torch.tensor(logits),
        targets=torch.tensor([known[tag] for row in rows for tag in row.tags]),
        owners=torch.tensor([number for number, row in enumerate(rows) for _ in row.tags]),
        rows=len(rows),
        firsts=token_classification._firsts(rows, splits_words=splits_words),
        follow=torch.tensor([0, 2, 2]),
    )


UNSURE = [[0.0, 2.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.1, 3.0], [3.0, 0.0, 0.0]]
"""The tokens of a word of three, of which one alone would be O, and of a word of one."""


def test_the_tokens_of_a_word_are_tagged_together():
    rows = [word("B-A", "I-A", "I-A"), word("O")]

    sure, tags = token_classification._tagged(said(UNSURE, rows))
    alone, by_token = token_classification._tagged(said(UNSURE, rows, splits_words=True))

    assert tags.tolist() == [1, 2, 2, 0]
    assert by_token.tolist() == [1, 0, 2, 0]
    assert sure[0] == sure[1] == sure[2] < alone[2]
    assert sure[3] == alone[3] == pytest.approx(float(torch.tensor(UNSURE[3]).softmax(-1)[0]))
    likely = torch.tensor(UNSURE).log_softmax(-1)
    whole = torch.stack(
        [likely[:3, 0].sum(), likely[0, 1] + likely[1:3, 2].sum(), likely[0, 2] + likely[1:3, 2].sum()]
    )
    assert float(sure[0]) == pytest.approx(float((whole / 3).softmax(-1)[1]), rel=1e-5)


def test_what_is_graded_is_what_is_served():
    rows = [word("B-A", "I-A", "I-A"), word("O")]

    assert TASK.grade(said(UNSURE, rows)) == [True, True]
    assert TASK.grade(said(UNSURE, rows, splits_words=True)) == [False, True]
    # and what no answer of whole words can be is wrong
    assert TASK.grade(said(UNSURE, [word("B-A", "O", "I-A"), word("O")])) == [False, True]


# what a dataset does not annotate


KNOWN = {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4}


def taught(tag, annotated):
    """Return what a token's tag teaches each logit, where a dataset annotates these labels: more (< 0) or less (> 0)."""
    torch.manual_seed(1)
    logits = torch.randn(1, 5, requires_grad=True)
    row = token_classification.Tagged(tokens=(1,), places=(0,), tags=(tag,), annotated=annotated)
    folded = token_classification._fold(logits, token_classification._outside_of([row], KNOWN), KNOWN)
    torch.nn.functional.cross_entropy(folded, torch.tensor([KNOWN[tag]])).backward()
    return folded.detach(), logits.grad[0]


def test_what_is_unmarked_is_not_taught_as_not_a_label_that_was_never_annotated():
    _, plain = taught("O", None)
    _, folded = taught("O", ("PER",))

    assert (plain[3:] > 0).all()  # taught: no place
    assert (folded[[0, 3, 4]] < 0).all()  # no person: nothing, or perhaps a place
    assert (folded[1:3] > 0).all()


def test_what_is_marked_competes_with_every_label():
    plain, folded = taught("B-PER", None)[1], taught("B-PER", ("PER",))[1]

    assert torch.allclose(plain, folded, atol=1e-6)
    assert (folded[3:] > 0).all()


def test_probabilities_of_what_was_never_annotated_are_those_of_nothing():
    plain, folded = (taught("O", annotated)[0].softmax(-1)[0] for annotated in (None, ("PER",)))

    assert torch.allclose(folded[0], plain[[0, 3, 4]].sum())
    assert torch.allclose(folded[1:3], plain[1:3])
    assert folded[3:].sum() == 0


def test_a_dataset_annotates_what_is_marked_in_any_of_its_rows():
    examples = [
        example("she took the fig", "fig:fruit", dataset="a"),
        example("she took the", dataset="a"),
        example("she took the owl", "owl:bird", "she:person", dataset="b"),
        example("she saw the", dataset="nothing"),
    ]

    usable, _ = encode(TASK, words(), examples)

    assert [row.annotated for _, row in usable] == [("fruit",), ("fruit",), ("bird", "person"), None]


# scores, by hand as conlleval and seqeval count


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([([], [])], {}),
        ([([(0, 1, "A")], [(0, 1, "A")])], {"": (1, 1, 1), "[A]": (1, 1, 1)}),
        # the right place with another label is wrong twice
        ([([(0, 1, "A")], [(0, 1, "B")])], {"": (0, 0, 0), "[A]": (0, 0, 0), "[B]": (0, 0, 0)}),
        # half of a span is wrong
        ([([(0, 2, "A")], [(0, 1, "A")])], {"": (0, 0, 0), "[A]": (0, 0, 0)}),
        # the same place in another text is another place: 2 right of 3 said and 4 taught
        (
            [
                ([(0, 1, "A"), (2, 3, "A")], [(0, 1, "A")]),
                ([(0, 1, "B"), (5, 6, "A")], [(0, 1, "B"), (2, 3, "A")]),
            ],
            {"": (2 / 3, 2 / 4, 4 / 7), "[A]": (1 / 2, 1 / 3, 2 / 5), "[B]": (1, 1, 1)},
        ),
        ([([], [(0, 1, "A")])], {"": (0, 0, 0), "[A]": (0, 0, 0)}),
    ],
)
def test_scores_count_whole_spans(pairs, expected):
    told = {
        f"entity_{name}{suffix}": pytest.approx(value)
        for suffix, values in expected.items()
        for name, value in zip(("precision", "recall", "f1"), values, strict=True)
    }

    assert entity_scores(pairs) == told


# models


@pytest.fixture(scope="module")
def bases_on_disk(tmp_path_factory):
    """A tiny encoder and a tiny causal model."""
    return tiny_encoder.store_beside_causal(tmp_path_factory.mktemp("bases"))


def headed(folder, labels=("O", "B-A", "I-A")):
    base = bases.load_base(folder, torch.float32, head=heads.TOKEN)
    heads.build(base.model, heads.TOKEN, labels)
    return base


@torch.inference_mode()
def logits(task, model, rows):
    return task.forward(model, rows).logits


@pytest.mark.parametrize(("task", "kind"), [(TASK, "encoder"), (TASK, "causal"), (BOTH_WAYS, "causal")])
def test_rows_in_one_pass_say_what_each_says_alone(bases_on_disk, task, kind):
    base = headed(bases_on_disk[kind])
    texts = ("Arlo", "she took the fig", "Which colour is the door of Arlo?")
    rows = [task.question(base.tokenizer, text) for text in texts]

    together = logits(task, base.model, rows)

    assert torch.allclose(together, torch.cat([logits(task, base.model, [row]) for row in rows]), atol=1e-5)
    assert together.shape == (sum(row.weight for row in rows), 3)


@pytest.mark.parametrize(("task", "sees_it"), [(TASK, False), (BOTH_WAYS, True)])
def test_a_lifted_mask_lets_a_tag_hang_on_what_follows(bases_on_disk, task, sees_it):
    base = headed(bases_on_disk["causal"])
    one, other = (
        logits(task, base.model, [task.question(base.tokenizer, text)])[0]
        for text in ("Arlo gold", "Arlo jade")
    )

    assert ((one - other).abs().max().item() > 1e-4) == sees_it


def edges(text, answer):
    """Tell of each edge of each span whether it is inside a word or a number."""
    return [
        0 < at < len(text) and (text[at - 1 : at + 1].isalpha() or text[at - 1 : at + 1].isdecimal())
        for span in answer["spans"]
        for at in (span["start"], span["end"])
    ]


@pytest.mark.parametrize("task", [TASK, BOTH_WAYS])
def test_spans_end_where_words_do_whatever_a_model_says(bases_on_disk, task):
    base = headed(bases_on_disk["causal"])
    texts = [f"{name}zqx sold 2048 {other}kw to Brendan-Falk" for name, other in pairwise(tiny.NAMES)]
    rows = [task.question(base.tokenizer, text) for text in texts]
    with torch.no_grad():
        base.model.score.weight.normal_(std=3.0)

    with torch.inference_mode():
        whole = task.predict(base.model, rows)
        base.model.config.splits_words = True
        split = task.predict(base.model, rows)

    assert any(answer["spans"] for answer in whole)
    assert not any(
        inside for text, answer in zip(texts, whole, strict=True) for inside in edges(text, answer)
    )
    assert any(inside for text, answer in zip(texts, split, strict=True) for inside in edges(text, answer))


def test_a_track_whose_data_marks_inside_words_may_go_on_to_do_so(bases_on_disk, tmp_path):
    base = bases_on_disk["causal"]
    prefixes = [
        example(f"the door of {name}zqx", f"{name}:name", dataset="doors", line=line)
        for line, name in enumerate(tiny.NAMES[:6], start=1)
    ]
    whole = [
        example(f"{colour} is nice", f"{colour}:colour", dataset="nice", line=line)
        for line, colour in enumerate(tiny.COLOURS[:3], start=1)
    ]

    first = learn(base, tmp_path / "first", prefixes)
    second = learn(
        base, tmp_path / "second", whole, (), first.candidate
    )  # what the first learned was forgotten

    assert first.result().verdict.promote, first.result().verdict.reasons
    assert labels(loaded(base, first.candidate)(prefixes[0].input)[0]) == [("Arlo", "name")]
    assert peft_io.read_splits_words(first.candidate)
    assert peft_io.read_splits_words(second.candidate)


# sessions


def named(label, dataset, verb="took"):
    """Return texts in which a thing is marked."""
    return [
        example(f"she {verb} the {word}", f"{word}:{label}", dataset=dataset, line=line)
        for line, word in enumerate(tiny_encoder.WORDS[label], start=1)
    ]


def mixed(dataset="fruit"):
    """Return texts with a fruit, which is marked, and a bird, which is not."""
    pairs = zip(tiny_encoder.WORDS["fruit"], tiny_encoder.WORDS["bird"], strict=True)
    return [
        example(f"she took the {fruit} she saw the {bird}", f"{fruit}:fruit", dataset=dataset, line=line)
        for line, (fruit, bird) in enumerate(pairs, start=1)
    ]


def birds():
    """Return texts in which a bird is marked where the fruit's texts have one too."""
    pairs = zip(tiny_encoder.WORDS["metal"], tiny_encoder.WORDS["bird"], strict=True)
    return [
        *named("bird", "birds", verb="saw"),
        *(
            example(f"she took the {metal} she saw the {bird}", f"{bird}:bird", dataset="birds", line=line)
            for line, (metal, bird) in enumerate(pairs, start=7)
        ),
    ]


FRUIT, BIRDS = mixed(), birds()


def learn(base, folder, new, old=(), parent=None, task="token_classification"):
    spec = specification(SETTINGS, base, PLAN, task=task, dataset=new[0].dataset, parent=parent, track="ner")
    run = RunFolder(folder)
    run.begin(spec, new, [Recalled(example=each, right=True) for each in old])
    session.Session(run, spec).run()
    return run


class Closed(TokenClassification):
    """Takes what is unmarked for none of the labels, whatever its dataset annotates."""

    def complete(self, examples, rows):
        del examples
        return rows


@pytest.fixture(scope="module")
def first(bases_on_disk, tmp_path_factory):
    return learn(bases_on_disk["encoder"], tmp_path_factory.mktemp("first"), FRUIT)


@pytest.fixture(scope="module")
def second(bases_on_disk, first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    return learn(bases_on_disk["encoder"], folder, BIRDS, FRUIT, first.candidate)


def loaded(base, version, task=TASK):
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.TOKEN))
    stack.add("it", version)

    def tag(*texts):
        with stack.use("it") as model, torch.inference_mode():
            return task.predict(model, [task.question(stack.base.tokenizer, text) for text in texts])

    return tag


def labels(answer):
    return [(span["text"], span["label"]) for span in answer["spans"]]


def test_a_drop_is_learned_and_scored(first):
    result = first.result()

    assert result.verdict.promote, result.verdict.reasons
    assert result.evaluation.scores["fruit"].recall == 1.0
    assert result.evaluation.metrics["entity_f1"] == result.evaluation.metrics["entity_f1[fruit]"] == 1.0
    assert peft_io.read_labels(first.candidate) == ("O", "B-fruit", "I-fruit")
    assert not peft_io.read_splits_words(first.candidate)


def test_the_next_drop_brings_a_label_and_the_older_one_is_kept(first, second):
    result = second.result()

    assert result.verdict.promote, result.verdict.reasons
    assert {name: score.recall for name, score in result.evaluation.scores.items()} == {
        "fruit": 1,
        "birds": 1,
    }
    assert result.evaluation.metrics["entity_f1[bird]"] == 1.0
    assert peft_io.read_labels(second.candidate) == (
        *peft_io.read_labels(first.candidate),
        "B-bird",
        "I-bird",
    )


def test_what_an_older_drop_left_unmarked_may_be_of_a_newer_label(bases_on_disk, first, second, tmp_path):
    """The older drop is full of birds that nobody marked; taken for "no bird", they teach that they are none."""
    base, texts = bases_on_disk["encoder"], [each.input for each in FRUIT]

    open_world = loaded(base, second.candidate)(*texts)
    closed = learn(base, tmp_path, BIRDS, FRUIT, first.candidate, task="test_token_classification:Closed")
    closed_world = loaded(base, closed.candidate)(*texts)

    def count(answers):
        return sum(label == "bird" for answer in answers for _, label in labels(answer))

    assert count(open_world) == len(FRUIT)
    assert count(closed_world) < len(FRUIT) / 2
    assert all(("fruit" in {label for _, label in labels(each)}) for each in open_world)


def test_an_answer_has_spans_with_their_text_and_how_sure_they_are(bases_on_disk, second):
    (answer,) = loaded(bases_on_disk["encoder"], second.candidate)("she took the quince")

    (span,) = answer["spans"]
    assert {name: span[name] for name in ("start", "end", "label", "text")} == {
        "start": 13,
        "end": 19,
        "label": "fruit",
        "text": "quince",
    }
    assert 0.5 < span["confidence"] <= 1


def test_probes_hold_no_words(second):
    told = (second.candidate / "probes.json").read_text()

    assert "B-bird" in told
    assert not any(word in told for word in ("quince", "heron", "took"))


@pytest.mark.parametrize("task", ["token_classification", "bidirectional_token_classification"])
def test_a_causal_base_learns_it_too(bases_on_disk, tmp_path, task):
    new = [
        example(
            f"the door of {name} is {colour}", f"{name}:name", f"{colour}:colour", dataset="doors", line=line
        )
        for line, (name, colour) in enumerate(zip(tiny.NAMES[:6], tiny.COLOURS[:6], strict=True), start=1)
    ]

    run = learn(bases_on_disk["causal"], tmp_path, new, task=task)

    result = run.result()
    assert result.verdict.promote, result.verdict.reasons
    assert result.evaluation.metrics["entity_f1"] == 1.0
    said = loaded(bases_on_disk["causal"], run.candidate, find(task))(new[0].input)
    assert labels(said[0]) == [("Arlo", "name"), ("amber", "colour")]
    note = " ".join(result.evaluation.notes)
    assert ("lifts the causal mask" in note) == (task != "token_classification")
    assert run.merged.exists() == (task == "token_classification")


def test_labels_that_differ_in_case_alone_are_refused(bases_on_disk, first, tmp_path):
    loud = [
        replace(each, target=[[*each.target[0][:2], "Fruit"]], dataset="loud") for each in named("fruit", "x")
    ]

    with pytest.raises(SampleError, match="'B-Fruit' differs from 'B-fruit' in case only"):
        learn(bases_on_disk["encoder"], tmp_path, loud, FRUIT, first.candidate)


# exports


def plain_logits(model, tokenizer, texts):
    with torch.inference_mode():
        return [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]


def test_an_export_opens_in_plain_peft_with_the_same_logits(bases_on_disk, second, tmp_path):
    base, texts = bases_on_disk["encoder"], [each.input for each in (*FRUIT, *BIRDS)]

    export.export(second.candidate, base, tmp_path / "out", "adapter", task=TASK)

    names = files.read_json(tmp_path / "out" / "labels.json")
    plain = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(names), dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.TOKEN))
    stack.add("it", second.candidate)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    both = zip(
        plain_logits(plain, tokenizer, texts), plain_logits(stack.model("it"), tokenizer, texts), strict=True
    )
    assert names == ["O", "B-fruit", "I-fruit", "B-bird", "I-bird"]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in both)


def test_a_merged_export_runs_in_transformers_own_pipeline(bases_on_disk, second, tmp_path):
    base, text = bases_on_disk["encoder"], FRUIT[0].input

    export.export(second.candidate, base, tmp_path / "out", "merged", task=TASK)

    find_names = pipeline("ner", model=str(tmp_path / "out"), aggregation_strategy="simple")
    said = [(each["start"], each["end"], each["entity_group"]) for each in find_names(text)]
    (answer,) = loaded(base, second.candidate)(text)
    assert said == [(span["start"], span["end"], span["label"]) for span in answer["spans"]]
    assert [label for _, _, label in said] == ["fruit", "bird"]


def test_gguf_has_no_place_for_a_head(bases_on_disk, second, tmp_path):
    with pytest.raises(ConfigError, match="standard PEFT adapter already") as caught:
        export.export(second.candidate, bases_on_disk["encoder"], tmp_path / "out", "gguf", task=TASK)

    assert caught.value.code == "has_head"
    with pytest.raises(ConfigError, match="a version that learns chat has no form merged"):
        export.export(second.candidate, bases_on_disk["encoder"], tmp_path / "out", "merged")


def test_a_lifted_mask_is_told_with_an_adapter_and_refused_in_a_merged_model(bases_on_disk, second, tmp_path):
    with pytest.raises(ConfigError, match="lifts the causal mask of causal") as caught:
        export.export(second.candidate, bases_on_disk["causal"], tmp_path / "out", "merged", task=BOTH_WAYS)
    assert caught.value.code == "own_mask"

    export.export(second.candidate, bases_on_disk["encoder"], tmp_path / "out", "merged", task=BOTH_WAYS)
    assert (tmp_path / "out" / "model.safetensors").is_file()
