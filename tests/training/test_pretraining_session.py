"""A session that trains a whole model, from its order to a candidate, in this process on tiny models."""

from dataclasses import replace
from functools import partial

import plain_text
import pytest
import torch
from training_runs import PLAN
from transformers import AutoModelForMaskedLM, AutoTokenizer

from lorad import records
from lorad.errors import TransientError
from lorad.evaluation import metrics
from lorad.models import adapters, bases, heads, version_weights
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Evaluation, Example, Machine, SessionSpec
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import planner, pretraining, session
from lorad.training.pretraining_session import PretrainingSession
from lorad.training.run_folder import RunFolder
from lorad.versions import export, loader

MACHINE = Machine(device="cpu", name="cpu", memory_bytes=10**10, threads=1, fast_bfloat16=False)
TASKS = {
    "encoder": "masked_language_modeling",
    "decoder": "causal_language_modeling",
    "encoder-decoder": "span_corruption",
}


def order(base, folder, new, old=(), *, architecture="encoder", parent=None, kind="learn", **changes):
    """Write an order as the daemon does."""
    settings = plain_text.settings(architecture)
    plan = planner.plan_pretraining(
        lengths=[80] * (len(new) or len(old)),
        context=32,
        machine=MACHINE,
        settings=settings.pretraining,
        rehearsal=settings.rehearsal,
        training=settings.training,
        is_first=parent is None,
        overrides=changes,
    )
    request = SessionSpec(
        job=1,
        track="words",
        task=TASKS[architecture],
        kind=kind,
        dataset=new[0].dataset if new else "memory",
        base=str(base),
        parent=str(parent) if parent else None,
        parent_version="v0.1" if parent else None,
        plan=plan,
        settings={
            "training": settings.training.model_dump(),
            "judge": settings.judge.model_dump(),
            "pretraining": settings.pretraining.model_dump(),
            "resolved": settings.model_dump(mode="json"),
        },
    )
    run = RunFolder(folder)
    run.begin(request, new, [Recalled(example=example, right=True) for example in old])
    return PretrainingSession(run, request)


def told(folder):
    result = files.read_json(folder / "candidate" / "evaluation.json")
    return records.restore(Evaluation, result["evaluation"]), result["verdict"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return plain_text.store(tmp_path_factory.mktemp("words") / "base")


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    order(base, folder, plain_text.examples()).run()
    return folder


@pytest.fixture(scope="module")
def second(base, first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    ships = plain_text.examples(plain_text.SHIPS, "ships", verb="sails to")
    order(base, folder, ships, plain_text.examples(), parent=first / "candidate").run()
    return folder


def test_the_first_text_is_learned_and_training_stops_early(first):
    evaluation, verdict = told(first)

    assert verdict["promote"], verdict["reasons"]
    assert evaluation.perplexities["places"] < evaluation.perplexities_before["places"] / 10
    assert evaluation.new.total > 0
    assert evaluation.metrics["early_stopped"] == 1
    assert evaluation.ended_by == "patience"
    epochs = int(evaluation.metrics["epochs_completed"])
    assert epochs < 20
    assert any(
        f"stopped early, as the loss stood still, after {epochs} epochs" in n for n in evaluation.notes
    )
    assert any("the tokenizer can write every character" in note for note in evaluation.notes)
    assert evaluation.reload_difference == 0
    curves = files.read_json(first / "candidate" / "metadata.json")["curves"]
    losses = [line["validation"]["places"] for line in curves]
    assert len(losses) == epochs
    assert losses[0] > min(losses)


def test_a_candidate_is_a_model_that_transformers_loads_alone(base, first):
    folder = first / "candidate"
    theirs = AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    asked = tokenizer("The mill stands[MASK] the river.", return_tensors="pt")
    ours = bases.load_base(base, torch.float32, head=heads.WHOLE_MASKED).model
    version_weights.put(ours, version_weights.read(folder))

    with torch.inference_mode():
        assert torch.equal(theirs(**asked).logits, ours(**asked).logits)
    assert tokenizer.mask_token_id in asked["input_ids"][0].tolist()


def test_the_next_text_is_learned_and_the_first_is_kept(second):
    evaluation, verdict = told(second)

    assert verdict["promote"], verdict["reasons"]
    assert evaluation.perplexities["ships"] < evaluation.perplexities_before["ships"]
    assert evaluation.perplexities["places"] <= evaluation.perplexities_before["places"] * 1.05
    assert any("perplexity of held-out text" in reason for reason in verdict["reasons"])
    assert set(evaluation.scores) == {"places", "ships"}


def test_a_model_that_forgets_is_refused(base, first, tmp_path):
    ships = plain_text.examples(plain_text.SHIPS, "ships", verb="sails to")
    made = order(base, tmp_path, ships, plain_text.examples(), parent=first / "candidate")
    spec = made.spec
    forgetful = replace(spec, plan=replace(spec.plan, mix=replace(spec.plan.mix, share=0.0)))
    run = RunFolder(tmp_path / "again")
    run.begin(forgetful, ships, [Recalled(example=each, right=True) for each in plain_text.examples()])
    PretrainingSession(run, forgetful).run()

    evaluation, verdict = told(tmp_path / "again")
    assert evaluation.perplexities["places"] > evaluation.perplexities_before["places"] * 1.05
    assert not verdict["promote"], verdict["reasons"]
    assert "perplexity:places" in verdict["failed"]


def test_a_version_is_checked_and_proven_at_its_load(base, first, tmp_path):
    task = find("masked_language_modeling")
    stack = AdapterStack(bases.load_base(base, torch.float32, head=task.head))
    assert loader.load(task, stack, "v0.1", first / "candidate", base) == []

    damaged = tmp_path / "v0.2"
    damaged.mkdir()
    for path in (first / "candidate").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    weights = version_weights.read(damaged)
    moved = {name: tensor * 1.1 for name, tensor in weights.head.items()}
    other = AdapterStack(bases.load_base(base, torch.float32, head=task.head))
    version_weights.put(other.base.model, adapters.Adapter({}, moved))
    version_weights.write(other.base.model, damaged)
    with pytest.raises(Exception, match="does not answer its probes"):
        loader.load(task, stack, "v0.2", damaged, base)
    assert metrics.PROBES in {path.name for path in damaged.iterdir()}


def test_a_session_that_was_cut_off_goes_on_to_the_same_weights(base, first, tmp_path, monkeypatch):
    made = order(base, tmp_path, plain_text.examples())
    close = pretraining._Watched.close

    def die_in_epoch_three(self, number, losses):
        if number == 3:
            raise TransientError("the disk is full", code="disk")
        close(self, number, losses)

    with monkeypatch.context() as patched:
        patched.setattr(pretraining._Watched, "close", die_in_epoch_three)
        with pytest.raises(TransientError):
            made.run()
    again = PretrainingSession(made.folder, made.spec)
    again.run()

    assert made.folder.progress()["resumed_from"] == "round-0002"
    weights = "candidate/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (first / weights).read_bytes()


@pytest.mark.parametrize("architecture", ["decoder", "encoder-decoder"])
def test_the_other_architectures_learn_too(tmp_path, architecture):
    base = plain_text.store(tmp_path / "base", architecture)
    order(base, tmp_path / "run", plain_text.examples(), architecture=architecture, max_rounds=12).run()

    evaluation, verdict = told(tmp_path / "run")
    assert verdict["promote"], verdict["reasons"]
    assert evaluation.perplexities["places"] < evaluation.perplexities_before["places"] / 4


def test_the_training_loss_can_be_watched(base, tmp_path):
    made = order(base, tmp_path, plain_text.examples(), max_rounds=4)
    watching = {**made.spec.settings["pretraining"], "early_stopping_monitor": "training"}
    spec = replace(made.spec, settings={**made.spec.settings, "pretraining": watching})
    rule = replace(spec.plan.stopping, patience=2, min_delta=100.0)
    spec = replace(spec, plan=replace(spec.plan, stopping=rule))
    PretrainingSession(made.folder, spec).run()

    evaluation, _ = told(tmp_path)
    assert evaluation.metrics["epochs_completed"] == 3  # the first counts as progress, the next two do not
    assert evaluation.ended_by == "patience"


def test_a_refit_learns_all_of_memory_from_random_weights(base, tmp_path):
    order(base, tmp_path, [], plain_text.examples(), kind="refit", max_rounds=3).run()
    evaluation, _ = told(tmp_path)
    assert evaluation.perplexities["places"] < evaluation.perplexities_before["places"]


def test_an_export_for_inference_is_read_back_and_other_forms_are_refused(base, first, tmp_path):
    task = find("masked_language_modeling")
    made = export.export(first / "candidate", base, tmp_path / "out", "merged", task=task)
    assert made.difference == 0
    assert AutoModelForMaskedLM.from_pretrained(str(tmp_path / "out"))
    for form in ("adapter", "gguf", "onnx"):
        with pytest.raises(Exception, match="--for inference"):
            export.export(first / "candidate", base, tmp_path / form, form, task=task)


def test_a_model_from_scratch_is_the_base_of_a_track_that_labels_texts(first, tmp_path):
    bases.store_base(
        first / "candidate", tmp_path / "own", make=partial(bases.make_base, head=heads.SEQUENCE)
    )
    kinds = {"water": ("mill", "school"), "stone": ("inn", "forge", "tower")}
    labelled = [
        Example(
            task="classify",
            input=f"The {name} stands by the {plain_text.PLACES[name]}.",
            target=kind,
            dataset="kinds",
            line=at + 1,
        )
        for at, (kind, name) in enumerate((kind, name) for kind, names in kinds.items() for name in names)
    ]
    settings = plain_text.settings()
    request = SessionSpec(
        job=1,
        track="kinds",
        task="text_classification",
        kind="learn",
        dataset="kinds",
        base=str(tmp_path / "own"),
        parent=None,
        parent_version=None,
        plan=PLAN,
        settings={
            "training": settings.training.model_dump() | {"merge_adapters_on_save": False},
            "judge": settings.judge.model_dump(),
            "resolved": settings.model_dump(mode="json"),
        },
    )
    run = RunFolder(tmp_path / "run")
    run.begin(request, labelled, [])
    session.Session(run, request).run()

    evaluation, verdict = told(tmp_path / "run")
    assert verdict["promote"], verdict["reasons"]
    assert evaluation.new.recall == 1
