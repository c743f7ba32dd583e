"""Sessions on labels: rows that none trains say what was forgotten, and what learns nothing begins anew."""

from dataclasses import replace

import tiny_encoder
from training_runs import PLAN, specification

from lorad.config import Settings
from lorad.records import CLASSIFICATION, Score
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training.run_folder import RunFolder
from lorad.training.session import Session

SETTINGS = Settings.model_validate({"training": {"threads": 1, "merge_adapters_on_save": False}})
THINGS = [
    replace(each, input=f"{each.input} {number}")
    for number in range(10)
    for each in tiny_encoder.texts(["fruit", "metal"], "things")
]
BIRDS = tiny_encoder.texts(["bird"], "birds")


def run(base, folder, new, old=(), parent=None, plan=PLAN):
    """Run a session on texts to classify; return its result."""
    spec = specification(
        SETTINGS,
        base,
        plan,
        task=CLASSIFICATION,
        dataset=new[0].dataset,
        parent=parent.candidate if parent else None,
    )
    made = RunFolder(folder)
    made.begin(spec, new, old)
    Session(made, spec).run()
    return made


def test_what_no_session_trains_says_what_was_forgotten(tmp_path):
    # Given a parent that has learned a dataset of which a fifth is never trained
    base = tiny_encoder.store(tmp_path / "source", tmp_path / "encoder")
    first = run(base, tmp_path / "first", THINGS)
    apart = find(CLASSIFICATION).held_out(THINGS)
    assert len(apart) > 10
    assert (
        first.result().evaluation.untrained_before == {}
    )  # the new dataset's own are no measure of forgetting

    # When another dataset is learned, and of the first a trained and an untrained row count as not known before
    unknown = {
        next(each.id for each in THINGS if each.id in apart),
        next(each.id for each in THINGS if each.id not in apart),
    }
    old = [Recalled(example=each, right=each.id not in unknown) for each in THINGS]
    second = run(base, tmp_path / "second", BIRDS, old, parent=first)

    # Then the untrained rows alone are compared
    found = second.result().evaluation
    assert found.untrained_before == {"things": Score(right=len(apart) - 1, total=len(apart))}
    assert found.untrained["things"].total == len(apart)
    assert found.before["things"] == Score(right=len(THINGS) - len(apart) - 1, total=len(THINGS) - len(apart))
    lost = found.untrained_before["things"].right - found.untrained["things"].right
    assert found.broken - found.mended == lost
    assert found.broken + found.mended <= len(apart)
    assert any("of rows that are never trained" in reason for reason in second.result().verdict.reasons)


def test_what_gives_one_answer_to_everything_is_begun_anew_at_half_the_rate(tmp_path):
    # Given a rate at which nothing is learned
    base = tiny_encoder.store(tmp_path / "source", tmp_path / "encoder")
    hopeless = replace(PLAN, learning_rate=1e-9, stopping=replace(PLAN.stopping, max_rounds=1))

    made = run(base, tmp_path / "first", THINGS[:24], plan=hopeless).result()

    assert made.evaluation.repairs == ("refit",)
    assert any("begun anew at half the learning rate, 5e-10" in note for note in made.evaluation.notes)
    assert not made.verdict.promote
