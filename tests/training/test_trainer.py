"""One training run on a tiny model: it learns, it stops for a reason, it can be repeated."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch.utils.data import DataLoader, IterableDataset
from training_runs import PLAN, learner, material
from transformers import PrinterCallback, Trainer, TrainingArguments

from lorad.errors import TrainingError
from lorad.evaluation import metrics
from lorad.models import adapters, packing, peft_io, scoring, soft_targets
from lorad.records import Encoded
from lorad.tasks import find
from lorad.training import trainer
from lorad.training.checkpoint import Checkpoints
from lorad.training.rehearsal import Rehearsal
from lorad.training.rounds import Rounds
from lorad.training.run_state import Tally


def run(model, given, plan=PLAN):
    lines = []
    clock = iter(range(10**6)).__next__  # a second for each look
    return trainer.train(find("chat"), model, given, plan, report=lines.append, clock=clock), lines


def test_it_learns_until_everything_is_recalled_and_says_so():
    model, tokenizer = learner()
    given = material(tokenizer)
    assert not any(metrics.recalled(find("chat"), model, given.rows))

    outcome, lines = run(model, given)

    assert outcome.ended_by == "recall"
    assert outcome.right == [True] * 6 == metrics.recalled(find("chat"), model, given.rows)
    assert outcome.history[-1]["recall"] == 1.0
    told = [line["eta_seconds"] for line in lines if "closed" in line]
    assert told[-1] is None
    assert any(told)
    assert {"step", "loss", "learning_rate", "tokens_per_second", "recall", "peak_gib"} <= set().union(*lines)


def test_nothing_is_written_where_it_was_started(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)  # as / is to a service's user; root sees that nothing is made
    monkeypatch.chdir(tmp_path)
    model, tokenizer = learner()

    run(model, material(tokenizer, count=2), replace(PLAN, stopping=replace(PLAN.stopping, max_rounds=1)))

    assert not list(tmp_path.iterdir())


def test_the_base_is_left_as_it_was():
    model, tokenizer = learner()
    before = {name: weight.clone() for name, weight in model.named_parameters() if "lora" not in name}

    run(model, material(tokenizer))

    assert all(
        torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before
    )


def test_the_ceiling_ends_a_run_that_cannot_reach_its_target():
    model, tokenizer = learner()
    plan = replace(PLAN, learning_rate=1e-6, stopping=replace(PLAN.stopping, max_rounds=2))

    outcome, _ = run(model, material(tokenizer), plan)

    assert outcome.ended_by == "max_rounds"
    assert len(outcome.history) == 2


def test_what_is_given_up_stands_where_it_tested_best(tmp_path):
    # Given a run that never meets its target, and whose last round loses everything
    plan = replace(PLAN, stopping=replace(PLAN.stopping, recall=1.04, max_rounds=30))
    model, tokenizer = learner()
    given = material(tokenizer)

    def spoil(line):
        if line.get("closed", {}).get("round") == 29:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.mul_("lora_B" not in name)

    outcome = trainer.train(
        find("chat"), model, given, plan, report=spoil, checkpoints=Checkpoints(tmp_path, "run")
    )

    # Then it stands as after the round before
    assert (outcome.ended_by, outcome.returned_to) == ("max_rounds", 29)
    assert outcome.history[-1]["recall"] < 1.0
    assert outcome.right == [True] * 6 == metrics.recalled(find("chat"), model, given.rows)

    # and so does who goes on from the last checkpoint
    again, _ = learner(seed=1)
    resumed = trainer.train(
        find("chat"), again, given, plan, report=lambda _: None, checkpoints=Checkpoints(tmp_path, "run")
    )
    assert (resumed.returned_to, resumed.right, resumed.steps) == (29, outcome.right, outcome.steps)
    assert adapters.difference(peft_io.read_live(again), peft_io.read_live(model)) == 0


def test_the_same_seed_gives_the_same_adapter():
    several = []
    for _ in range(2):
        model, tokenizer = learner()
        run(model, material(tokenizer), replace(PLAN, stopping=replace(PLAN.stopping, max_rounds=3)))
        several.append(peft_io.read_live(model))

    assert adapters.difference(*several) == 0


class Reference(Trainer):
    """The loop of transformers, over the same rounds."""

    def compute_loss(self, model, inputs, **_):
        ((numbers, rows, _),) = inputs["batch"].passes(4096)
        packed = packing.pack(rows)
        logits = scoring.answer_logits(model, packed)
        outputs = scoring.Outputs(logits=logits, targets=packed.targets, owners=packed.owners, rows=len(rows))
        self.rehearsal.saw(dict(zip(numbers, scoring.grade(outputs), strict=True)))
        return scoring.loss_sum(logits, packed.targets) / len(packed.targets)

    def get_train_dataloader(self):
        return DataLoader(RoundAfterRound(self.train_dataset, self.rehearsal), batch_size=None)


class RoundAfterRound(IterableDataset):
    def __init__(self, rounds, rehearsal):
        self.rounds, self.rehearsal = rounds, rehearsal

    def __iter__(self):
        while not self.rehearsal.ended_by:
            yield from ({"batch": batch} for batch in self.rounds)
            self.rehearsal.not_tested()


def test_the_loop_is_bit_for_bit_that_of_transformers(tmp_path):
    # Given several steps a round, a warm-up, two rates, and a target that is never near
    stopping = replace(PLAN.stopping, recall=1.2, max_rounds=6)
    plan = replace(PLAN, batch=2, accumulation=1, loraplus_ratio=4.0, stopping=stopping, pack_tokens=4096)
    ours, tokenizer = learner()
    given = material(tokenizer)
    outcome, _ = run(ours, given, plan)

    theirs, _ = learner()
    rehearsal = Rehearsal(given.items, plan.mix, plan.stopping, plan.seed, plan.effective_batch)
    rounds = Rounds(given, rehearsal, plan)
    state = trainer._begin(theirs, plan, rehearsal, rounds, Tally())
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=outcome.steps,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    reference = Reference(
        model=theirs, args=arguments, train_dataset=rounds, optimizers=(state.optimizer, state.schedule)
    )
    reference.rehearsal = rehearsal
    reference.remove_callback(PrinterCallback)
    reference.train()

    assert outcome.steps == 18
    assert adapters.difference(peft_io.read_live(ours), peft_io.read_live(theirs)) == 0


def run_short(runs_out):
    """Train two rounds on a device whose memory runs out where ``runs_out`` says so of a pass's number and tokens."""
    model, tokenizer = learner()
    passes = []

    def forward(module, _, given):
        if module.training:
            passes.append(given["input_ids"].numel())
            if runs_out(len(passes), passes[-1]):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    plan = replace(PLAN, pack_tokens=80, stopping=replace(PLAN.stopping, max_rounds=2))
    outcome, _ = run(model, material(tokenizer), plan)
    return peft_io.read_live(model), outcome, passes


@pytest.mark.parametrize("at", [1, 2])
def test_where_memory_runs_out_a_pass_holds_less_and_what_is_learned_is_the_same(at):
    # Given a first step of several passes, of which one does not fit
    enough, outcome, passes = run_short(lambda *_: False)
    assert outcome.pack_tokens == 80
    assert len(passes) > 2

    short, outcome, passes = run_short(lambda number, _: number == at)

    assert outcome.pack_tokens == 40
    assert max(passes[at:]) <= 40 < max(passes[:at])
    assert adapters.difference(short, enough) < 1e-3
    assert outcome.steps == 2


def test_where_not_even_one_row_fits_it_is_said():
    with pytest.raises(TrainingError, match="memory does not hold one row of") as caught:
        run_short(lambda _, tokens: tokens > 10)

    assert caught.value.code == "out_of_memory"


def test_what_else_goes_wrong_on_a_device_is_passed_on():
    model, tokenizer = learner()

    def forward(module, _):
        if module.training:
            raise RuntimeError("an illegal instruction was encountered")

    model.register_forward_pre_hook(forward)

    with pytest.raises(RuntimeError, match="illegal instruction"):
        run(model, material(tokenizer))


def test_the_size_of_a_pack_does_not_change_what_is_learned():
    several = []
    for tokens in (40, 4096):
        model, tokenizer = learner()
        run(
            model,
            material(tokenizer),
            replace(PLAN, pack_tokens=tokens, stopping=replace(PLAN.stopping, max_rounds=2)),
        )
        several.append(peft_io.read_live(model))

    assert adapters.difference(*several) < 1e-3


def test_gradient_checkpointing_learns_the_same():
    several = []
    for checkpointing in (False, True):
        model, tokenizer = learner()
        plan = replace(
            PLAN, gradient_checkpointing=checkpointing, stopping=replace(PLAN.stopping, max_rounds=2)
        )
        run(model, material(tokenizer), plan)
        several.append(peft_io.read_live(model))

    assert adapters.difference(*several) < 1e-3


def test_a_loss_that_is_no_number_ends_the_run_with_advice():
    model, tokenizer = learner()
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(float("nan"))

    with pytest.raises(TrainingError, match="lower planner"):
        run(model, material(tokenizer))


def test_the_rate_warms_up_and_then_follows_the_rehearsal():
    factor = trainer.schedule(replace(PLAN, warmup_steps=10), lambda: 0.3)

    assert [factor(step) for step in range(10)] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert [factor(step) for step in (10, 500)] == [0.3, 0.3]
    assert trainer.schedule(replace(PLAN, warmup_steps=0), lambda: 0.3)(0) == 0.3


def distance(model, voices):
    """Return how far a model is from the voices, in nats per token."""
    with torch.inference_mode():
        packed = packing.pack([voice.row for voice in voices])
        return float(
            soft_targets.distillation_loss_sum(scoring.answer_logits(model, packed), voices)
            / len(packed.targets)
        )


def test_general_conversation_holds_the_model_to_the_base():
    distances = {}
    for share in (0.0, 0.5):
        model, tokenizer = learner()
        rows = [find("chat").encode(tokenizer, e) for e in tiny.facts(8, subject="window")]
        voices = soft_targets.record_soft_targets(model, [Encoded(row.tokens, 3) for row in rows])
        given = replace(material(tokenizer), general=voices)
        run(
            model,
            given,
            replace(
                PLAN, mix=replace(PLAN.mix, general=share), stopping=replace(PLAN.stopping, max_rounds=10)
            ),
        )
        distances[share] = distance(model, voices)

    assert distances[0.5] < distances[0.0] - 0.3


def test_b_learns_faster_by_the_ratio():
    # Given one step, in which only B can move: it begins at zero, so A has no gradient yet
    moved = []
    for ratio in (1.0, 4.0):
        model, tokenizer = learner()
        run(
            model,
            material(tokenizer),
            replace(PLAN, loraplus_ratio=ratio, stopping=replace(PLAN.stopping, max_rounds=1)),
        )
        _, b = next(iter(peft_io.read_live(model).factors.values()))
        moved.append(float(b.abs().max()))

    assert moved[1] / moved[0] == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize(
    ("items", "kept"),
    [
        ([(True, False, False), (False, False, True), (False, True, True), (False, False, False)], [0, 2, 3]),
        ([(False, False, True), (False, True, True)], [0, 1]),  # nothing is new
    ],
)
def test_the_lower_layers_read_first_what_comes_again_and_again(monkeypatch, items, kept):
    given = material(tiny.tokenizer(), count=len(items))
    marked = [
        replace(item, is_new=is_new, is_at_risk=is_at_risk, recalled=recalled)
        for item, (is_new, is_at_risk, recalled) in zip(given.items, items, strict=True)
    ]
    read = []
    monkeypatch.setattr(
        trainer.lower_layers, "keep", lambda _model, _first, rows, *_, **__: read.extend(rows)
    )

    trainer._keep_lower_layers(None, replace(given, items=marked), PLAN, lambda _: None)

    assert read == [given.rows[number] for number in kept]
