"""One session from order to candidate, in this process, on a tiny model."""

import errno
import gc
import json
import os
import shutil
import weakref
from dataclasses import replace
from importlib.util import find_spec

import pytest
import tiny
import torch
from peft import PeftModel
from training_runs import PLAN
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorad import records
from lorad.config import Settings
from lorad.errors import SampleError, TrainingError
from lorad.evaluation import metrics
from lorad.models import adapters, bases, lower_layers, peft_io, quantized, second_moments
from lorad.records import Evaluation, Example, SessionSpec, Verdict
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import known_rows, remaining, session, spot_checks, trainer
from lorad.training.fact_measurement import FactReport
from lorad.training.pauses import Pauses
from lorad.training.process_group import ALONE
from lorad.training.run_folder import RunFolder

SETTINGS = Settings.model_validate(
    {"judge": {"max_perplexity_rise": 100.0, "max_kl": 100.0, "max_degenerate_share": 1.0}}
)
KEEPING = "reading what will be trained"
"""Told while the lower layers read each row once."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    return folder / "tiny"


def order(base, folder, new, old=(), *, parent=None, plan=PLAN, kind="learn", dataset=None, **training):
    """Write an order as the daemon does."""
    request = SessionSpec(
        job=1,
        track="chat",
        task="chat",
        kind=kind,
        dataset=dataset or new[0].dataset,
        base=str(base),
        parent=str(parent) if parent else None,
        parent_version="v0.1" if parent else None,
        plan=plan,
        settings={
            "lower_states": str(folder.parent / "lower_states"),
            "training": SETTINGS.training.model_dump() | training,
            "judge": SETTINGS.judge.model_dump(),
            "resolved": SETTINGS.model_dump(mode="json"),
        },
    )
    run = RunFolder(folder)
    run.begin(request, new, [Recalled(example=example, right=True) for example in old])
    return session.Session(run, request)


def consolidation(base, folder, parent, plan=PLAN):
    """Write an order to consolidate what knows four doors."""
    return order(
        base,
        folder,
        [],
        tiny.facts(4, "doors"),
        parent=parent / "candidate",
        plan=plan,
        kind="consolidate",
        dataset="memory",
    )


def evaluation(folder):
    result = files.read_json(folder / "candidate" / "evaluation.json")
    return records.restore(Evaluation, result["evaluation"]), result


def served(base, folder):
    """Load a candidate as anybody would: plain PEFT on the untouched base."""
    loaded = bases.load_base(base, torch.float32)
    return PeftModel.from_pretrained(loaded.model, str(folder / "candidate")).eval(), loaded.tokenizer


def encode(tokenizer, examples):
    return [find("chat").encode(tokenizer, example) for example in examples]


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    """A finished first session."""
    folder = tmp_path_factory.mktemp("first")
    order(base, folder, tiny.facts(4, "doors")).run()
    return folder


def test_a_session_leaves_a_complete_candidate_that_knows_the_new_facts(first):
    found, result = evaluation(first)

    assert found.scores["doors"].recall == 1.0
    assert found.before["doors"].right < 4
    assert found.ended_by == "recall"
    assert result["verdict"]["promote"], result["verdict"]["reasons"]
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "config.yaml",
        "metadata.json",
        "probes.json",
    } <= {path.name for path in (first / "candidate").iterdir()}


def test_plain_peft_on_the_untouched_base_recalls_what_the_session_says(base, first):
    model, tokenizer = served(base, first)

    assert all(metrics.recalled(find("chat"), model, encode(tokenizer, tiny.facts(4))))


def test_a_merged_copy_lies_beside_a_candidate_that_passes(first):
    model = AutoModelForCausalLM.from_pretrained(first / "merged", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(first / "merged")

    assert all(metrics.recalled(find("chat"), model, encode(tokenizer, tiny.facts(4))))


@pytest.mark.parametrize("why", ["setting", "disk"])
def test_without_a_merged_copy_the_candidate_is_the_same(base, tmp_path, monkeypatch, why):
    if why == "disk":
        full = type("Usage", (), {"free": 1000})()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    order(base, tmp_path, tiny.facts(4, "doors"), merge_adapters_on_save=why == "disk").run()

    found, result = evaluation(tmp_path)
    assert result["verdict"]["promote"]
    assert not (tmp_path / "merged").exists()
    assert any("no merged copy: it needs" in note for note in found.notes) is (why == "disk")


def test_trained_and_served_are_the_same_model(first):
    found, _ = evaluation(first)

    assert found.reload_difference == 0
    assert found.merge_difference < 1e-3


def test_the_next_session_keeps_the_first_ones_weights_and_facts(base, first, tmp_path):
    old = tiny.facts(4, "doors")
    new = tiny.facts(4, "gates", subject="gate")

    order(base, tmp_path, new, old, parent=first / "candidate").run()

    found, result = evaluation(tmp_path)
    assert found.scores["doors"].recall == found.scores["gates"].recall == 1.0
    assert result["parent"] == "v0.1"
    parent, child = (peft_io.read_adapter(folder / "candidate") for folder in (first, tmp_path))
    name = next(iter(parent.factors))
    assert child.rank == parent.rank + PLAN.rank
    assert torch.equal(child.factors[name][0][: parent.rank], parent.factors[name][0])
    assert torch.equal(child.factors[name][1][:, : parent.rank], parent.factors[name][1])
    model, tokenizer = served(base, tmp_path)
    assert all(metrics.recalled(find("chat"), model, encode(tokenizer, [*old, *new])))


def at_risk_in(monkeypatch):
    """Return a list that comes to hold, by session, which of its rows are at risk."""
    seen, train = [], session.trainer.train

    def watched(task, model, material, *args, **options):
        seen.append([item.is_at_risk for item in material.items])
        return train(task, model, material, *args, **options)

    monkeypatch.setattr(session.trainer, "train", watched)
    return seen


def test_what_is_right_by_the_least_stands_in_the_papers_and_is_at_risk_in_the_next_session(
    base, first, tmp_path, monkeypatch
):
    _, result = evaluation(first)
    model, tokenizer = served(base, first)
    old = tiny.facts(4, "doors")
    margins = metrics.margins(find("chat"), model, encode(tokenizer, old))
    by_margin = [
        example.id for _, example in sorted(zip(margins, old, strict=True), key=lambda pair: pair[0])
    ]
    assert result["thinnest"] == by_margin
    seen = at_risk_in(monkeypatch)
    monkeypatch.setattr(spot_checks, "THIN", 1)
    monkeypatch.setattr(spot_checks, "_largest", lambda _: set())

    new = tiny.facts(4, "windows", subject="window")
    order(base, tmp_path, new, old, parent=first / "candidate").run()

    assert seen == [[False] * 4 + [example.id == by_margin[0] for example in old]]


@pytest.mark.parametrize(("kind", "is_believed"), [("learn", True), ("consolidate", True), ("refit", False)])
def test_what_a_parents_papers_say_of_facts_holds_unless_everything_is_learned_anew(
    base, first, tmp_path, monkeypatch, kind, is_believed
):
    seen = {}

    class Seen:
        def __init__(self, *_, **options):
            seen.update(options)

        def run(self, _):
            return FactReport(facts={})

    monkeypatch.setattr(session, "FactMeasurement", Seen)
    new = tiny.facts(4, "windows", subject="window") if kind == "learn" else []
    made = order(
        base, tmp_path, new, tiny.facts(4, "doors"), parent=first / "candidate", kind=kind, dataset="memory"
    )
    remembered = tmp_path / "lower_states" / "compared"
    answering = {"settings": SETTINGS.answering.model_dump(), "encoder": None, "remembered": str(remembered)}
    made.spec.settings["answering"] = answering

    made.run()

    assert (seen["parent"] is not None) == is_believed
    assert seen["remembered"] == remembered


def test_above_the_rank_limit_the_parent_is_truncated_and_training_mends_it(base, first, tmp_path):
    old = tiny.facts(4, "doors")
    new = tiny.facts(3, "gates", subject="gate")

    order(base, tmp_path, new, old, parent=first / "candidate", plan=replace(PLAN, max_rank=10)).run()

    found, _ = evaluation(tmp_path)
    assert peft_io.read_adapter(tmp_path / "candidate").rank == 10
    assert found.truncation_error > 0
    assert any("truncated to rank 2" in note for note in found.notes)
    assert found.scores["doors"].recall == 1.0


def test_consolidating_takes_out_what_rows_do_not_need_and_mends_what_that_breaks(base, first, tmp_path):
    consolidation(base, tmp_path, first, replace(PLAN, rank=2, alpha=4, max_rank=6)).run()

    found, result = evaluation(tmp_path)
    assert peft_io.read_adapter(tmp_path / "candidate").rank == 6  # at most 4 of them the parent's
    assert any("was taken out of it as far as its 4 rows allow" in note for note in found.notes)
    assert found.scores["doors"].recall == 1.0
    assert result["verdict"]["promote"], result["verdict"]["reasons"]


def test_what_a_consolidation_begins_with_changes_general_texts_less(base, first, tmp_path):
    made = consolidation(base, tmp_path, first)
    parent = peft_io.read_adapter(first / "candidate")

    found = made._attenuate(parent, made._examples(made._pristine()))

    pristine = made._pristine()
    texts = [each.row for each in made._general(pristine).trained]
    arriving = second_moments.of_texts(pristine.model, list(parent.factors), texts)

    def disturbance(adapter):
        return sum(
            float((adapter.delta(name).double() @ moments * adapter.delta(name)).sum())
            for name, moments in arriving.items()
        )

    assert disturbance(found) < 0.8 * disturbance(parent)


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_in_parts_it_attenuates_to_the_same_with_one_base_in_memory(
    base, first, tmp_path, monkeypatch, is_checkpointing
):
    parent = peft_io.read_adapter(first / "candidate")
    plan = replace(PLAN, gradient_checkpointing=is_checkpointing)

    def attenuated():
        made = consolidation(base, tmp_path, first, plan)
        return made._attenuate(parent, made._examples(made._pristine()))

    loaded = weakref.WeakSet()
    most = []
    load = bases.load_base

    def counted(*args, **kwargs):
        found = load(*args, **kwargs)
        gc.collect()
        loaded.add(found.model)
        most.append(len(loaded))
        return found

    whole = attenuated()
    monkeypatch.setattr(bases, "load_base", counted)
    monkeypatch.setattr(second_moments, "TOGETHER_BYTES", 1)
    in_parts = attenuated()

    assert max(most) == 1
    assert all(torch.allclose(in_parts.delta(name), whole.delta(name), atol=1e-4) for name in whole.factors)


def test_a_consolidation_that_does_not_pass_is_repaired_and_not_refitted(base, first, tmp_path):
    # Given a parent that knows nothing of what its papers say, and a plan that mends nothing
    parent = tmp_path / "parent"
    shutil.copytree(first / "candidate", parent / "candidate")
    learned = peft_io.read_adapter(parent / "candidate")
    nothing = {name: (a, torch.zeros_like(b)) for name, (a, b) in learned.factors.items()}
    peft_io.write_adapter(adapters.Adapter(nothing), parent / "candidate", "tiny")
    hopeless = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=1))

    folder = tmp_path / "session"
    folder.mkdir()
    consolidation(base, folder, parent, hopeless).run()

    found, result = evaluation(folder)
    assert not result["verdict"]["promote"]
    assert found.repairs == ("repair",)


def test_what_does_not_pass_is_repaired_and_then_refitted(base, first, tmp_path):
    # Given a plan that ends long before anything is learned, and a parent
    hopeless = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=1))
    new = tiny.facts(3, "gates", subject="gate")

    order(base, tmp_path, new, tiny.facts(4, "doors"), parent=first / "candidate", plan=hopeless).run()

    found, result = evaluation(tmp_path)
    assert found.repairs == ("repair", "refit")
    told = [
        note for note in found.notes if note.startswith(("the first candidate was", "everything was learned"))
    ]
    assert [note.partition(": ")[2][:7] for note in told] == ["gates: ", "gates: "]
    assert not result["verdict"]["promote"]
    assert found.scores["doors"].recall == 1.0
    # and the candidate that is kept is the one that was measured: the refit, no better, would have the plan's rank
    assert peft_io.read_adapter(tmp_path / "candidate").rank > PLAN.rank
    assert any(note.startswith("the refit failed too: ") for note in found.notes)
    assert not (tmp_path / "refitted").exists()


def test_a_refit_that_would_take_too_long_is_left_out_and_said(base, first, tmp_path):
    hopeless = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=1))
    made = order(
        base,
        tmp_path,
        tiny.facts(3, "gates", subject="gate"),
        tiny.facts(4, "doors"),
        parent=first / "candidate",
        plan=hopeless,
        max_seconds=0.0,
    )

    made.run()

    found, _ = evaluation(tmp_path)
    assert found.repairs == ("repair",)
    assert any(note.startswith("no refit: it would take about") for note in found.notes)


def test_a_repair_can_save_a_session(base, tmp_path, monkeypatch):
    # Given a plan whose rounds suffice on no machine, and a repair's rounds that do on all
    short = replace(PLAN, stopping=replace(PLAN.stopping, max_rounds=2))
    monkeypatch.setattr(trainer, "repair_plan", lambda _: PLAN)
    session_ = order(base, tmp_path, tiny.facts(6, "doors"), plan=short)

    session_.run()

    found, result = evaluation(tmp_path)
    assert result["verdict"]["promote"], (found.scores, found.ended_by)
    assert found.repairs == ("repair",)


def test_the_base_is_loaded_once_and_stands_as_its_files_have_it_whatever_was_merged_into_it(
    base, first, tmp_path, monkeypatch
):
    # Given a session that merges a parent, trains, is judged, and repairs and refits in vain
    hopeless = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=1))
    loaded, load = [], bases.load_base
    monkeypatch.setattr(
        bases, "load_base", lambda *given, **more: loaded.append(given) or load(*given, **more)
    )
    session_ = order(
        base,
        tmp_path,
        tiny.facts(3, "gates", subject="gate"),
        tiny.facts(4, "doors"),
        parent=first / "candidate",
        plan=hopeless,
    )

    session_.run()

    assert len(loaded) == 1
    ours, fresh = session_._pristine().model, load(base, torch.float32).model
    assert ours.state_dict().keys() == fresh.state_dict().keys()
    assert all(torch.equal(weight, fresh.state_dict()[name]) for name, weight in ours.state_dict().items())
    asked = {"input_ids": torch.arange(5, 25)[None]}
    assert torch.equal(ours(**asked).logits, fresh(**asked).logits)
    assert not any(weight.requires_grad for weight in ours.parameters())


def test_a_base_whose_files_name_a_layer_otherwise_is_loaded_anew(base):
    held = bases.load_base(base, torch.float32)

    assert bases.put_back(held, ["model.layers.0.self_attn.q_proj"])
    assert not bases.put_back(held, ["model.layers.9.self_attn.q_proj"])


class Killed(BaseException):
    """What a signal does to a session."""


def die_in_round_three(session):
    """Run a session to the end of its third round, before that is saved."""
    report = session.report

    def die(line):
        report(line)
        if line.get("closed", {}).get("round") == 3:
            raise Killed

    session.report = die
    with pytest.raises(Killed):
        session.run()


def test_a_session_begins_anew_where_an_older_lorad_left_a_checkpoint(base, tmp_path, monkeypatch):
    die_in_round_three(order(base, tmp_path, tiny.facts(4, "doors")))
    monkeypatch.setattr("lorad.training.trainer.CHECKPOINT_FORM", 99)

    order(base, tmp_path, tiny.facts(4, "doors")).run()

    lines = files.read_lines(tmp_path / "progress.jsonl")
    assert not any("resumed_from" in line for line in lines)
    assert evaluation(tmp_path)[0].scores["doors"].recall == 1.0


@pytest.mark.parametrize(("first_layer", "whitened_by"), [(0, 0), (1, 0), (1, 8)])
def test_a_session_that_was_killed_goes_on_to_the_same_candidate(
    base, first, tmp_path, first_layer, whitened_by, monkeypatch
):
    monkeypatch.setattr(session, "MANY", 4)

    # Given a session that dies in its third round
    def begin(folder):
        return order(
            base,
            folder,
            tiny.facts(3, "gates", subject="gate"),
            tiny.facts(4, "doors"),
            parent=first / "candidate",
            plan=replace(
                PLAN,
                wordings=4,
                first_layer=first_layer,
                mix=replace(PLAN.mix, whitened_by=whitened_by),
            ),
        )

    unbroken, cut_off = tmp_path / "unbroken", tmp_path / "cut_off"
    unbroken.mkdir()
    cut_off.mkdir()
    begin(unbroken).run()
    die_in_round_three(begin(cut_off))

    # When the same order is run again
    begin(cut_off).run()

    # Then it went on, ended at the same weights, and left no checkpoints
    lines = files.read_lines(cut_off / "progress.jsonl")
    assert any(line.get("resumed_from") == "round-0002" for line in lines)
    one, other = (peft_io.read_adapter(folder / "candidate") for folder in (unbroken, cut_off))
    assert adapters.difference(one, other) == 0
    assert not (cut_off / "checkpoints").exists()


def test_many_old_rows_say_where_not_to_learn_and_few_do_not(base, first, tmp_path, monkeypatch):
    plan = replace(PLAN, mix=replace(PLAN.mix, whitened_by=3))

    def learned(folder, many):
        monkeypatch.setattr(session, "MANY", many)
        order(
            base,
            tmp_path / folder,
            tiny.facts(2, "gates", subject="gate"),
            tiny.facts(4, "doors"),
            parent=first / "candidate",
            plan=plan,
        ).run()
        lines = files.read_lines(tmp_path / folder / "progress.jsonl")
        return any(line.get("phase", "").startswith("reading some old rows") for line in lines)

    for folder in ("few", "many"):
        (tmp_path / folder).mkdir()
    assert not learned("few", 5)
    assert learned("many", 4)
    one, other = (peft_io.read_adapter(tmp_path / folder / "candidate") for folder in ("few", "many"))
    assert adapters.difference(one, other) > 0
    assert evaluation(tmp_path / "many")[0].scores["doors"].recall == 1.0


def test_what_would_take_much_memory_and_a_consolidation_read_no_old_rows_before(
    base, first, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "MANY", 4)
    plan = replace(PLAN, mix=replace(PLAN.mix, whitened_by=3))
    old = tiny.facts(4, "doors")

    def asked(new, most, kind="learn"):
        monkeypatch.setattr(session, "MOST_NUMBERS", most)
        made = order(
            base, tmp_path, new, old, parent=first / "candidate", plan=plan, kind=kind, dataset="memory"
        )
        parent = peft_io.read_adapter(first / "candidate")
        examples = made._examples(made._pristine())
        return made._roots(made._prepare(parent, plan), examples, plan)

    new = tiny.facts(2, "gates", subject="gate")
    assert asked(new, 1 << 26)
    assert not asked(new, 100)
    assert not asked([], 1 << 26, kind="consolidate")


def test_a9_a_layer_that_is_smaller_than_the_rank_is_learned_too(base, first, tmp_path):
    # Given a parent at the highest rank, and layers of 32 outputs
    parent = tmp_path / "parent"
    shutil.copytree(first / "candidate", parent)
    learned = peft_io.read_adapter(parent)
    padding = {
        name: (a.new_zeros(52, a.shape[1]), b.new_zeros(b.shape[0], 52))
        for name, (a, b) in learned.factors.items()
    }
    peft_io.write_adapter(adapters.concatenate(learned, adapters.Adapter(padding)), parent, "tiny")

    folder = tmp_path / "session"
    order(base, folder, tiny.facts(2, "windows", "window"), tiny.facts(4, "doors"), parent=parent).run()

    found, result = evaluation(folder)
    assert found.reload_difference == 0
    assert "reload" not in result["verdict"]["failed"]
    assert found.scores["windows"].recall == 1.0
    assert peft_io.read_adapter(folder / "candidate").rank == PLAN.max_rank


def test_refitting_makes_one_adapter_of_everything(base, tmp_path):
    order(base, tmp_path, [], tiny.facts(4, "doors"), kind="refit", dataset="memory").run()

    found, result = evaluation(tmp_path)
    assert peft_io.read_adapter(tmp_path / "candidate").rank == PLAN.rank
    assert found.scores["doors"].recall == 1.0
    assert result["learned"] == []


def test_a_refit_learns_everything_anew_whatever_the_parent_knew(base, tmp_path):
    # Given more rows than fit a round, and patience that ends long before the rounds do
    plan = replace(PLAN, stopping=replace(PLAN.stopping, patience=25))

    order(base, tmp_path, [], tiny.facts(12, "doors"), kind="refit", dataset="memory", plan=plan).run()

    found, _ = evaluation(tmp_path)
    assert found.ended_by == "recall"
    assert found.scores["doors"].recall == 1.0
    assert found.headline_score.recall == 1.0


def test_an_old_row_that_is_longer_than_the_new_ones_is_still_asked(base, tmp_path):
    long = replace(tiny.facts(1, "mills")[0], input=[{"role": "user", "content": "Which colour? " * 40}])

    order(base, tmp_path, tiny.facts(2, "doors"), [long]).run()

    found, result = evaluation(tmp_path)
    assert found.scores["mills"].total == 1
    assert found.notes == ()
    assert found.too_long == 0
    assert long.id in result["right"]


def test_the_papers_hold_no_words_of_an_example(first):
    question = tiny.facts(1)[0].input[0]["content"]

    assert not any(question in path.read_text() for path in (first / "candidate").glob("*.json"))


def test_a_session_that_meets_a_full_disk_says_so_by_its_status(base, tmp_path, monkeypatch):
    order(base, tmp_path, tiny.facts(2, "doors"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session.Session, "report", full)
    monkeypatch.setattr(session.ending, "end_when_told", lambda: None)

    assert session.main(RunFolder(tmp_path)) == os.EX_IOERR


def test_a_session_whose_memory_runs_out_before_it_trains_says_what_to_do(base, tmp_path, monkeypatch):
    order(base, tmp_path, tiny.facts(2, "doors"))

    def short(*_, **__):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8 GiB)")

    monkeypatch.setattr(bases, "load_base", short)
    monkeypatch.setattr(session.ending, "end_when_told", lambda: None)

    with pytest.raises(RuntimeError):
        session.main(RunFolder(tmp_path))

    said = files.read_lines(tmp_path / "progress.jsonl")[-1]["error"]
    assert said["code"] == "out_of_memory"
    assert "free some of it" in said["message"]


def test_rows_that_are_too_long_are_left_out_and_said(base, tmp_path):
    long = replace(
        tiny.facts(1, "doors")[0], input=[{"role": "user", "content": "Which colour? " * 40}], line=99
    )

    order(base, tmp_path, [*tiny.facts(2, "doors"), long]).run()

    found, result = evaluation(tmp_path)
    assert found.scores["doors"].total == 2
    assert "[99]" in found.notes[0]
    assert len(result["learned"]) == 2


def test_rows_that_the_template_cannot_hold_are_left_out_and_said(base, tmp_path):
    # Given a row that speaks of tools, and a template that knows none
    tools = {"role": "tools", "content": '[{"name": "weather"}]'}
    row = tiny.facts(1, "doors")[0]
    unheld = replace(row, input=[tools, *row.input], line=99)

    order(base, tmp_path, [*tiny.facts(2, "doors"), unheld]).run()

    found, result = evaluation(tmp_path)
    assert found.scores["doors"].total == 2
    assert "[99]" in found.notes[0]
    assert "no place for tools" in found.notes[0]
    assert len(result["learned"]) == 2


def test_a_session_without_one_usable_row_fails_with_a_sentence(base, tmp_path):
    with pytest.raises(TrainingError, match="longer than 5 tokens"):
        order(base, tmp_path, tiny.facts(2), plan=replace(PLAN, max_length=5)).run()
    unheld = [replace(row, target="</s>") for row in tiny.facts(2)]
    with pytest.raises(SampleError, match="no tokens"):
        order(base, tmp_path / "unheld", unheld).run()


def test_progress_is_lines_of_json_that_end_with_saving(first):
    lines = [json.loads(line) for line in (first / "progress.jsonl").read_text().splitlines()]

    phases = [line["phase"] for line in lines if "phase" in line]
    assert phases[0] == "loading"
    assert phases[-1] == "saving"
    assert any(line.get("closed", {}).get("recall") == 1.0 for line in lines)


def test_the_next_session_tells_how_long_it_takes_from_its_first_line(base, first, tmp_path):
    papers = files.read_json(first / "candidate" / "metadata.json")
    assert set(papers["training"]["parts"]) == set(remaining.PARTS)
    session_ = order(base, tmp_path, tiny.facts(2, "doors"))
    pace = remaining.expected(papers, 2, 2)
    spec = replace(session_.spec, settings=session_.spec.settings | {"pace": pace})

    session.Session(session_.folder, spec).run()

    lines = files.read_lines(tmp_path / "progress.jsonl")
    assert lines[0]["phase"] == "loading"
    assert all(line["ends_at"] for line in lines)


def test_metadata_says_how_it_was_made(first):
    metadata = files.read_json(first / "candidate" / "metadata.json")

    assert metadata["framework"]["torch"] == torch.__version__
    assert metadata["training"]["ended_by"] == "recall"
    assert metadata["training"]["plan"]["seed"] == PLAN.seed
    assert metadata["reproducibility"] == {
        "seed": PLAN.seed,
        "deterministic": True,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": False,
        "processes": 1,
    }
    assert metadata["order"]["dataset"] == "doors"
    assert metadata["materials"]["old"] == []
    assert metadata["materials"]["new"] == [
        records.restore(Example, row).id for row in files.read_lines(first / "new.jsonl")
    ]
    assert list(metadata["datasets"]) == ["doors"]
    assert len(metadata["curves"]) == metadata["training"]["rounds"]


@pytest.mark.parametrize(
    ("failed", "is_worth_it"),
    [
        (("facts:old",), True),
        (("new_recall", "retention:old", "significance", "facts:old"), True),
        (("facts:old", "perplexity"), False),
    ],
)
def test_more_training_is_worth_its_time_for_what_it_can_mend(tmp_path, failed, is_worth_it):
    session = order(tmp_path, tmp_path / "run", tiny.facts(2))

    assert session._repairable(Verdict(promote=False, reasons=(), failed=failed)) is is_worth_it


class Waited(Pauses):
    """Waits a second at every look."""

    def __init__(self):
        super().__init__(0.5, lambda: -1.0, clock=lambda: 0.0, sleep=lambda _: None)

    def look(self):
        self.seconds += 1.0


def test_a_session_that_waits_for_answers_says_for_how_long_and_learns_the_same(base, first, tmp_path):
    made = order(base, tmp_path, tiny.facts(4, "doors"))
    waiting = session.Session(made.folder, made.spec, Waited())

    waiting.run()

    told = made.folder.progress()["paused_seconds"]
    papers = files.read_json(tmp_path / "candidate" / "metadata.json")["training"]
    assert told == papers["paused_seconds"] > 0
    weights = "candidate/adapter_model.safetensors"
    assert (tmp_path / weights).read_bytes() == (first / weights).read_bytes()


def test_a_session_without_a_mark_to_read_trains_all_the_same(base, tmp_path):
    made = order(base, tmp_path / "run", tiny.facts(1))

    assert session._pauses(made.spec, None, ALONE) is None
    assert session._pauses(made.spec, os.open(tmp_path, os.O_RDONLY), ALONE) is None


# an adapter in the last layers


def test_what_the_last_layer_learns_on_top_of_a_parent_of_all_is_served(base, first, tmp_path):
    plan = replace(PLAN, first_layer=1)
    old = tiny.facts(3, "gates", subject="gate")

    order(base, tmp_path, tiny.facts(4, "doors"), old, parent=first / "candidate", plan=plan).run()

    found, result = evaluation(tmp_path)
    assert result["verdict"]["promote"], (found.scores, found.ended_by)
    assert KEEPING in (tmp_path / "progress.jsonl").read_text()
    assert found.merge_difference < 1e-3
    model, tokenizer = served(base, tmp_path)
    assert all(metrics.recalled(find("chat"), model, encode(tokenizer, tiny.facts(4, "doors"))))
    before, after = (peft_io.read_adapter(folder / "candidate") for folder in (first, tmp_path))
    below = [name for name in before.factors if ".layers.0." in name]
    assert below
    for name in below:  # as they were: nothing was added
        assert torch.allclose(before.delta(name), after.delta(name), atol=1e-6)


def test_what_was_judged_before_is_not_read_below_again(base, tmp_path, monkeypatch):
    plan = replace(PLAN, first_layer=1)
    order(base, tmp_path / "1", tiny.facts(4, "doors"), plan=plan).run()
    parent, old = tmp_path / "1" / "candidate", tiny.facts(4, "doors")
    kept = []
    keep = lower_layers.keep

    def noting(model, *given, **named):
        keep(model, *given, **named)
        if "known" in named:  # and not what is trained
            kept.append((len(named["known"] or {}), len(lower_layers.of(model)._kept)))

    monkeypatch.setattr(lower_layers, "keep", noting)
    new = tiny.facts(3, "gates", subject="gate")
    order(base, tmp_path / "2", new, old, parent=parent, plan=plan).run()

    found, result = evaluation(tmp_path / "2")
    assert result["verdict"]["promote"], (found.scores, found.ended_by)
    before, judged, at_base, of_texts, of_texts_at_base = kept
    assert before == judged == (4, 3)
    assert at_base == (7, 0)  # what the candidate has stored
    assert of_texts[0] == of_texts_at_base[0] > 0 == of_texts[1] == of_texts_at_base[1]
    model, tokenizer = served(base, tmp_path / "2")
    everything = encode(tokenizer, [*new, *old])
    right = dict(
        zip(
            [each.id for each in (*new, *old)], metrics.recalled(find("chat"), model, everything), strict=True
        )
    )
    assert {name: result["right"][name] for name in right} == right


def test_what_cannot_be_kept_for_the_next_session_is_done_without(base, tmp_path, monkeypatch):
    def full(path, *_, **__):
        with files.passing_errors(f"writing {path}"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(known_rows.lower_states, "write", full)
    order(base, tmp_path / "run", tiny.facts(4, "doors"), plan=replace(PLAN, first_layer=1)).run()

    assert evaluation(tmp_path / "run")[1]["verdict"]["promote"]
    assert not (tmp_path / "lower_states").exists()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not there")
def test_the_last_layer_of_a_quantised_base_learns_beside_a_parent_of_all(base, tmp_path):
    plan = replace(PLAN, quantization="8bit")
    order(base, tmp_path / "1", tiny.facts(3, "gates", subject="gate"), plan=plan).run()

    order(
        base,
        tmp_path / "2",
        tiny.facts(4, "doors"),
        tiny.facts(3, "gates", subject="gate"),
        parent=tmp_path / "1" / "candidate",
        plan=replace(plan, first_layer=1),
    ).run()

    found, result = evaluation(tmp_path / "2")
    assert result["verdict"]["promote"], (found.scores, found.ended_by)
    before, after = (peft_io.read_adapter(tmp_path / number / "candidate") for number in "12")
    # in 8 bits what a row's lower layers say hangs on the rows beside it: nothing may be kept of them
    assert KEEPING not in (tmp_path / "2" / "progress.jsonl").read_text()
    name = next(name for name in before.factors if ".layers.0." in name)
    assert torch.allclose(before.delta(name), after.delta(name), atol=1e-6)


# a base in 8 or 4 bits

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not there")


def rounded(base, folder, form):
    """Load a candidate as anybody would: plain PEFT on a base that transformers has quantised.

    Some CPUs would compute with coarser scales than training does, in bfloat16 (``quantized.settle``): not here.
    """
    how = quantized.how_to_load(form, torch.float32, "cpu")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **how)
    quantized.settle(model)
    return PeftModel.from_pretrained(model, str(folder / "candidate")).eval()


@pytest.fixture(scope="module", params=["8bit", "4bit"])
def quantized_first(base, tmp_path_factory, request):
    """A finished first session on a quantised base, and its form."""
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not there")
    folder = tmp_path_factory.mktemp("quantized")
    order(base, folder, tiny.facts(4, "doors"), plan=replace(PLAN, quantization=request.param)).run()
    return folder, request.param


def test_a_quantised_base_learns_and_plain_peft_on_it_recalls_what_the_session_says(base, quantized_first):
    folder, form = quantized_first

    found, result = evaluation(folder)
    assert result["verdict"]["promote"], result["verdict"]["reasons"]
    assert found.scores["doors"].recall == 1.0
    assert found.reload_difference == 0
    assert found.merge_difference < 1e-3
    rows = encode(tiny.tokenizer(), tiny.facts(4))
    assert all(metrics.recalled(find("chat"), rounded(base, folder, form), rows))


def test_its_papers_say_the_form_and_no_merged_copy_is_made(quantized_first):
    folder, form = quantized_first

    framework = files.read_json(folder / "candidate" / "metadata.json")["framework"]
    assert framework["quantization"] == form
    assert framework["bitsandbytes"]
    assert not (folder / "merged").exists()
    found, _ = evaluation(folder)
    assert any(
        f"no merged copy: the version was judged on the base in {form}" in note for note in found.notes
    )


def test_a_consolidation_on_it_attenuates_what_lies_beside_its_weights(base, quantized_first, tmp_path):
    folder, form = quantized_first
    plan = replace(PLAN, rank=2, alpha=4, max_rank=6, quantization=form)

    consolidation(base, tmp_path, folder, plan).run()

    found, result = evaluation(tmp_path)
    assert any("as far as its 4 rows allow" in note for note in found.notes)
    assert peft_io.read_adapter(tmp_path / "candidate").rank == 6
    assert result["verdict"]["promote"], result["verdict"]["reasons"]


def test_the_next_session_on_it_keeps_the_parents_weights_beside_its_own(base, quantized_first, tmp_path):
    folder, form = quantized_first
    old, new = tiny.facts(4, "doors"), tiny.facts(4, "gates", subject="gate")

    order(base, tmp_path, new, old, parent=folder / "candidate", plan=replace(PLAN, quantization=form)).run()

    found, _ = evaluation(tmp_path)
    assert found.scores["doors"].recall == found.scores["gates"].recall == 1.0
    assert (
        found.merge_difference < 0.05
    )  # LLM.int8() rounds what enters a layer: the order of a sum may tip a number over
    assert not any("measured again" in note for note in found.notes)
    parent, child = (peft_io.read_adapter(place / "candidate") for place in (folder, tmp_path))
    name = next(iter(parent.factors))
    assert child.rank == parent.rank + PLAN.rank
    assert torch.equal(child.factors[name][0][: parent.rank], parent.factors[name][0])
    assert torch.equal(child.factors[name][1][:, : parent.rank], parent.factors[name][1])
    rows = encode(tiny.tokenizer(), [*old, *new])
    assert all(metrics.recalled(find("chat"), rounded(base, tmp_path, form), rows))


@needs_bitsandbytes
def test_a_repair_on_it_goes_on_beside_the_candidate(base, tmp_path):
    short = replace(PLAN, quantization="4bit", stopping=replace(PLAN.stopping, max_rounds=5))

    order(base, tmp_path, tiny.facts(6, "doors"), plan=short).run()

    found, _ = evaluation(tmp_path)
    assert found.repairs == ("repair",)
    assert peft_io.read_adapter(tmp_path / "candidate").rank == 2 * PLAN.rank
    assert found.merge_difference < 1e-3


@needs_bitsandbytes
def test_a_parent_of_another_form_is_measured_again_and_not_believed(base, first, tmp_path, monkeypatch):
    # Given a parent that was judged on the plain base, where it knew all its facts and, as is claimed, one more
    new = tiny.facts(3, "gates", subject="gate")
    claimed = [*tiny.facts(4, "doors"), *tiny.facts(1, "windows", subject="cupboard")]
    monkeypatch.setattr(spot_checks, "_largest", lambda _: set())  # none is near
    seen = at_risk_in(monkeypatch)

    order(
        base, tmp_path, new, claimed, parent=first / "candidate", plan=replace(PLAN, quantization="4bit")
    ).run()

    found, _ = evaluation(tmp_path)
    assert found.before["windows"].right == 0
    assert not any(any(items) for items in seen)
    note = next(note for note in found.notes if "measured again" in note)
    assert "judged with quantization none, this session has 4bit" in note


@needs_bitsandbytes
def test_what_a_truncation_breaks_is_forgotten_also_where_the_parent_was_measured_again(
    base, first, tmp_path
):
    # Given a parent of another form that must be truncated, and a session that learns nothing that would mend it
    old = tiny.facts(4, "doors")
    new = tiny.facts(3, "gates", subject="gate")
    stopping = replace(PLAN.stopping, max_rounds=1)
    plan = replace(PLAN, max_rank=9, quantization="8bit", learning_rate=1e-6, stopping=stopping)

    order(base, tmp_path, new, old, parent=first / "candidate", plan=plan).run()

    # Then the parent counts as having known what it knew before it was truncated
    found, _ = evaluation(tmp_path)
    assert found.before["doors"].right == 4
    assert any("truncated to rank 1" in note for note in found.notes)
    assert any("measured again" in note and "0 old ones" in note for note in found.notes)
    assert any(note.startswith("the truncation made ") for note in found.notes)


def test_what_came_from_outside_is_neither_attenuated_nor_left_for_a_refit(base, first, tmp_path):
    # Given a plan that ends long before anything is learned, on a version that carries on an imported one
    hopeless = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=1))
    new = tiny.facts(3, "gates", subject="gate")
    made = order(base, tmp_path / "learn", new, parent=first / "candidate", plan=hopeless)
    made.spec.settings["imported"] = "v0.9"

    made.run()

    found, _ = evaluation(tmp_path / "learn")
    assert found.repairs == ("repair",)
    assert any(note.startswith("no refit: v0.9 came from outside") for note in found.notes)

    made = consolidation(base, tmp_path / "consolidate", first)
    made.spec.settings["imported"] = "v0.9"
    made.run()
    found, _ = evaluation(tmp_path / "consolidate")
    assert not any("was taken out of it" in note for note in found.notes)
