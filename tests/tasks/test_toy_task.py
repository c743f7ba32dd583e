"""A task of one's own through a session: rows, head, rehearsal, judge, probes. Nothing in lorad knows it by name."""

import shutil
from dataclasses import replace

import pytest
import tiny_encoder
import torch
from peft import PeftModel
from training_runs import PLAN, specification
from transformers import AutoModelForSequenceClassification

from lorad.config import EngineSettings, Settings
from lorad.errors import ConfigError, ProtocolError, RegistryError, SampleError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, adapters, bases, heads, merged_model, peft_io
from lorad.records import Example
from lorad.serving.engine import Engine
from lorad.serving.requests import Sampling
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import session
from lorad.training.run_folder import RunFolder
from lorad.versions import export, loader

TASK = "toy_task:Toy"
TOY = find(TASK)
SETTINGS = Settings()
OLD = tiny_encoder.texts(["fruit", "metal"], "things")
NEW = tiny_encoder.texts(["bird"], "birds")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return tiny_encoder.store(folder / "source", folder / "encoder")


def begin(base, folder, new, old=(), parent=None, **plan):
    """Write an order as the daemon does; return its session."""
    spec = specification(
        SETTINGS, base, replace(PLAN, **plan), task=TASK, dataset=new[0].dataset, parent=parent
    )
    run = RunFolder(folder)
    run.begin(spec, new, [Recalled(example=example, right=True) for example in old])
    return session.Session(run, spec)


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    run = begin(base, tmp_path_factory.mktemp("first"), OLD)
    run.run()
    return run.folder


@pytest.fixture(scope="module")
def second(base, first, tmp_path_factory):
    """A session on top of the first, with a label that the first had not."""
    run = begin(base, tmp_path_factory.mktemp("second"), NEW, OLD, parent=first.candidate)
    run.run()
    return run.folder


def answers(model, tokenizer, examples):
    rows = [TOY.question(tokenizer, example.input) for example in examples]
    with torch.inference_mode():
        return [said["label"] for said in TOY.predict(model, rows)]


def test_a_session_learns_it_and_the_judge_asks_what_applies(first):
    result = first.result()

    assert result.verdict.promote, result.verdict.reasons
    assert result.evaluation.scores["things"].recall == 1.0
    assert result.evaluation.new_at_base.right == 0
    assert 0 < result.evaluation.metrics["log_loss"] < 0.7
    assert result.evaluation.perplexity is result.evaluation.kl_base is result.evaluation.degenerate is None
    told = " ".join(result.verdict.reasons)
    assert not any(word in told for word in ("perplexity", "nats", "sampled answers"))
    assert not list(first.path.parent.glob("*.general.safetensors"))


def test_the_next_session_rehearses_the_older_dataset_and_adds_a_label(first, second):
    result = second.result()

    assert result.verdict.promote, result.verdict.reasons
    assert {name: score.recall for name, score in result.evaluation.scores.items()} == {
        "birds": 1.0,
        "things": 1.0,
    }
    parent, child = (peft_io.read_adapter(run.candidate) for run in (first, second))
    assert (parent.labels, child.labels) == (("fruit", "metal"), ("fruit", "metal", "bird"))
    name = next(iter(parent.factors))
    assert torch.equal(child.factors[name][0][: parent.rank], parent.factors[name][0])
    assert child.rank == parent.rank + PLAN.rank
    assert (result.evaluation.reload_difference, result.evaluation.merge_difference < 1e-3) == (0, True)


def test_plain_peft_on_the_untouched_base_says_the_same(base, second):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(second.candidate)).eval()
    plain.config.id2label = dict(enumerate(peft_io.read_labels(second.candidate)))
    plain.config.label2id = {label: number for number, label in plain.config.id2label.items()}

    said = answers(plain, bases.load_tokenizer(base), [*OLD, *NEW])

    assert said == [example.target for example in (*OLD, *NEW)]


def test_the_same_order_gives_the_same_adapter_also_after_a_break(base, first, second, tmp_path):
    # Given a session that is killed in its second round
    class KilledError(BaseException):
        pass

    run = begin(base, tmp_path, NEW, OLD, parent=first.candidate)
    report = run.report

    def die(line):
        report(line)
        if line.get("closed", {}).get("round") == 2:
            raise KilledError

    run.report = die
    with pytest.raises(KilledError):
        run.run()

    # When it goes on
    again = begin(base, tmp_path, NEW, OLD, parent=first.candidate)
    again.run()

    # Then it ends where the unbroken one did
    assert any("resumed_from" in line for line in files.read_lines(tmp_path / "progress.jsonl"))
    made = [peft_io.read_adapter(folder.candidate) for folder in (second, again.folder)]
    assert adapters.difference(*made) == 0


def test_probes_hold_the_head_to_what_was_promoted(base, second, tmp_path):
    version = tmp_path / "v0.2"
    shutil.copytree(second.candidate, version)
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
    assert loader.load(TOY, stack, "it", version, base) == []

    adapter = peft_io.read_adapter(version)
    bias = adapter.head["classifier.bias"] + torch.tensor([0.0, 0.0, 0.2])
    other = replace(adapter, head=adapter.head | {"classifier.bias": bias})
    peft_io.write_adapter(other, version, "encoder", heads.SEQUENCE)

    with pytest.raises(RegistryError, match="does not answer its probes"):
        loader.load(TOY, stack, "other", version, base)
    assert stack.names == ["it"]


def test_a_label_that_a_version_does_not_know_is_wrong_and_no_error(base, first):
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
    stack.add("it", first.candidate)
    rows = [TOY.encode(stack.base.tokenizer, example) for example in (*OLD, *NEW)]

    with stack.use("it") as model, torch.inference_mode():
        right = metrics.recalled(TOY, model, rows)
        outputs = TOY.forward(model, rows)
        likely, sure = TOY.log_probabilities(outputs), TOY.confidences(model, stack.base.tokenizer, rows)

    assert right == [True] * 12 + [False] * 6
    assert all(value > -0.7 for value in likely[:12])
    assert likely[12:] == [float("-inf")] * 6
    assert [is_right for _, is_right in sure] == right
    assert all(0.5 <= confidence <= 1 for confidence, _ in sure)


def test_rows_that_the_task_does_not_take_are_left_out_and_said(base, tmp_path):
    several = Example(task="classify", input="she took the fig", target=["fruit", "metal"], line=7)
    run = begin(base, tmp_path, [*OLD[:6], replace(several, dataset="things")])

    run.run()

    assert "[7]" in run.folder.result().evaluation.notes[0]
    assert run.folder.result().evaluation.scores["things"].total == 6


@pytest.fixture
def engine(base):
    made = Engine(EngineSettings())
    loaded = bases.load_base(base, torch.float32, head=heads.SEQUENCE)
    made.attach("things", TOY, loaded)
    return made


def served(engine, inputs, **asked):
    request = engine.predict("things", inputs, **asked)
    while engine.waiting:
        engine.work(0)
    return request.answer(timeout=0)


def load(engine, first):
    engine.load("things", "v0.1", first.candidate, "hash")
    engine.serve("things", "v0.1")


def test_the_engine_predicts_with_the_version_that_serves(engine, first):
    load(engine, first)

    said = served(engine, [example.input for example in OLD])

    assert [answer["label"] for answer in said] == [example.target for example in OLD]
    assert engine.waiting == 0
    assert (engine.form("things").kind, engine.form("things").why_not_merged) == ("merged", "")


def test_a_merged_copy_with_a_head_says_what_the_version_says(base, first):
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=heads.SEQUENCE))
    stack.add("it", first.candidate)
    rows = [TOY.question(stack.base.tokenizer, example.input) for example in OLD]

    made = merged_model.merged(stack.base.model, stack.read("it"), heads.SEQUENCE)

    with torch.inference_mode():
        ours, theirs = (TOY.forward(model, rows).logits for model in (made, stack.model("it")))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_base_without_a_head_of_its_own_says_that_nothing_was_learned(engine):
    with pytest.raises(ProtocolError, match="has learned nothing yet") as caught:
        served(engine, ["she took the fig"])

    assert (caught.value.status, caught.value.code) == (409, "nothing_learned")
    assert engine.waiting == 0


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [(7, 422, "no_text"), (" ", 422, "no_text"), ("fig " * 70, 422, "context_length_exceeded")],
)
def test_what_cannot_be_asked_is_refused_at_the_door(engine, asked, status, code):
    with pytest.raises(ProtocolError) as caught:
        engine.predict("things", ["she took the fig", asked])

    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.data["param"] == "inputs[1]"
    assert engine.waiting == 0


def test_a_task_that_predicts_is_not_asked_for_text_nor_the_other_way_round(engine):
    with pytest.raises(ProtocolError, match="things learns toy; ask it with: POST /lorad/predict"):
        engine.submit("things", [{"role": "user", "content": "?"}], Sampling())
    engine._find("things").task = find("chat")
    with pytest.raises(ProtocolError, match="POST /v1/chat/completions"):
        engine.predict("things", ["she took the fig"])


def test_whoever_leaves_takes_no_place_in_the_queue(engine, first):
    load(engine, first)
    left = engine.predict("things", ["she took the fig"])
    left.cancelled.set()

    engine.work(0)

    with pytest.raises(ProtocolError, match="cancelled"):
        left.answer(timeout=0)
    assert engine.waiting == 0


def test_a_merged_export_needs_no_base_and_names_its_outputs(base, second, tmp_path):
    export.export(second.candidate, base, tmp_path / "out", "merged", task=TOY)

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    said = answers(model, bases.load_tokenizer(tmp_path / "out"), [*OLD, *NEW])
    assert said == [example.target for example in (*OLD, *NEW)]
    assert model.config.id2label == {0: "fruit", 1: "metal", 2: "bird"}


def test_what_no_export_holds_is_refused(base, first, tmp_path):
    with pytest.raises(ConfigError, match="standard PEFT adapter already"):
        export.export(first.candidate, base, tmp_path / "out", "gguf", task=TOY)


def test_an_example_with_several_labels_is_refused(base):
    with pytest.raises(SampleError, match="row 3: a text has one label"):
        TOY.encode(bases.load_tokenizer(base), Example(task="classify", input="x", target=["fruit"], line=3))
