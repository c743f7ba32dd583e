"""How sure a version is, on the tiny model: the numbers are plain transformers', and the command keeps them."""

import json
from contextlib import closing
from dataclasses import replace

import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lorad.apps.cli.model_commands import main
from lorad.config import TrainingSettings
from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import confidence, general_ability
from lorad.evaluation.calibration import Asked, Reference
from lorad.home import Home
from lorad.models import bases, peft_io
from lorad.records import Encoded
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory
from lorad.tasks import find
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

NOON = 1_790_000_000.0
KNOWN = tiny.facts(12, "windows", subject="window")
"""What the tiny base was schooled on."""
UNKNOWN = tiny.facts(8, "doors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with a version that learned windows, a few of them wrongly."""
    root = tmp_path_factory.mktemp("home")
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir()
    home = Home(root)
    bases.store_base(tiny.save(root / "source"), home.base("tiny"))
    (home.configs / "default.yaml").write_text(
        "tracks: {chat: {task: chat, base: tiny}}\nengine: {device: cpu}\n"
    )
    base = bases.load_base(home.base("tiny"), torch.float32)
    torch.manual_seed(3)
    live = peft_io.add_lora(base.model, 4, 8)
    with torch.no_grad():
        for weight in (w for name, w in live.named_parameters() if "lora_B" in name):
            weight.normal_(0, 0.02)
    registry = Registry(home.track("chat"))
    peft_io.write_adapter(peft_io.read_live(live), registry.candidates / "job-1", "tiny")
    birth = PromotionRecord(job=1, parent=None, base=base.fingerprint, description="windows")
    registry.promote(registry.candidates / "job-1", birth, NOON)
    with closing(Database(home.database)) as database:
        drop = Ledger(database).take("windows.json", "chat", NOON)
        memory = Memory(database, "chat")
        memory.add(KNOWN, drop.id, NOON)
        memory.mark_learned([example.ids for example in KNOWN], "v0.1")
    files.write_json(root / "doors.json", tiny.rows([*UNKNOWN, *KNOWN[:2]]))
    return home


@pytest.fixture
def registry(made):
    yield Registry(made.track("chat"))
    files.remove(made.track("chat") / "calibration")


def lorad(made, *words):
    return CliRunner().invoke(main.app, ["calibrate", *words, "--home", str(made.root)])


def test_confidence_is_the_probability_that_transformers_gives_to_the_whole_answer(made):
    # Given the version in plain PEFT and plain transformers, one question at a time
    base = AutoModelForCausalLM.from_pretrained(made.base("tiny"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made.track("chat") / "versions" / "v0.1").eval()
    tokenizer, chat = tiny.tokenizer(), find("chat")
    rows = [chat.encode(tokenizer, example) for example in [*KNOWN, *UNKNOWN]]
    done = []

    found = chat.confidences(model, tokenizer, rows, done.append)

    expected = [greedy(model, row) for row in rows]
    assert [right for _, right in found] == [
        said == row.target for (said, _), row in zip(expected, rows, strict=True)
    ]
    assert {True, False} == {right for _, right in found}
    assert [p for p, _ in found] == pytest.approx([p for _, p in expected], rel=1e-3)
    assert sum(done) == len(rows)


def greedy(model, row: Encoded):
    """Answer with one token after the other; return what was said and the product of the probabilities."""
    tokens, likely = list(row.tokens[: row.start]), 1.0
    while len(tokens) - row.start < general_ability.ENDLESS and tokens[-1:] != [1]:
        with torch.inference_mode():
            chances = model(input_ids=torch.tensor([tokens])).logits[0, -1].softmax(-1)
        tokens.append(int(chances.argmax()))
        likely *= float(chances.max())
    return tuple(tokens[row.start :]), likely


def test_a_version_is_measured_once_and_checked_against_that(made, registry, tmp_path):
    # When it is measured for the first time
    first = lorad(made, "--json", "--plot", str(tmp_path / "r.png"))

    # Then half of memory has fitted the temperature and the other half is kept as the reference
    assert first.exit_code == 0, first.stderr
    told = json.loads(first.stdout)
    kept = registry.calibration("v0.1")
    assert {key: kept[key] for key in told} == told
    assert (told["fitted_on"], told["figures"]["count"], len(kept["rows"])) == (6, 6, 6)
    assert set(told["sources"]) == {"memory"}
    assert registry.describe("latest")["calibration"]["figures"] == told["figures"]
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    # And asking for it again measures nothing
    assert json.loads(lorad(made, "v0.1", "--json").stdout)["measured_at"] == told["measured_at"]
    # And the same answers have not drifted
    again = lorad(made, "--check", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["check"]["drifted"] == []
    assert json.loads(again.stdout)["check"]["compared"] == 6


def test_drift_is_named_and_ends_with_1(made, registry):
    # Given a reference in which right was wrong, and nothing was sure
    lorad(made)
    kept = registry.calibration("v0.1")
    kept["rows"] = [{**row, "right": not row["right"], "confidence": 0.0} for row in kept["rows"]]
    registry.keep_calibration("v0.1", kept)

    result = lorad(made, "--check")

    assert result.exit_code == 1
    drifted = [line.split()[0] for line in result.stdout.splitlines() if "drifted" in line]
    assert "confidence" in drifted
    assert "accuracy" in drifted
    # And only on demand is it measured anew
    assert lorad(made, "--check").exit_code == 1
    assert lorad(made, "--force").exit_code == 0
    assert lorad(made, "--check").exit_code == 0


def test_without_a_reference_a_check_says_so_and_ends_with_2(made, registry):
    result = lorad(made, "--check")

    assert result.exit_code == 2
    assert result.stderr == "lorad: v0.1 has no reference yet; measure it with: lorad calibrate v0.1\n"
    assert registry.calibration("v0.1") is None


@pytest.mark.usefixtures("registry")
def test_questions_that_were_never_learned_are_told_apart(made):
    # Given a file with eight such questions, and two that were learned
    file = str(made.root / "doors.json")

    told = json.loads(lorad(made, "--on", file, "--json").stdout)

    assert {name: row["count"] for name, row in told["sources"].items()} == {
        "memory": 6,
        "held out: doors": 4,
    }
    assert told["fitted_on"] == 10
    # And a check without the file compares what it can
    assert json.loads(lorad(made, "--check", "--json").stdout)["check"]["missing"] == 4
    assert json.loads(lorad(made, "--check", "--on", file, "--json").stdout)["check"]["missing"] == 0
    # And another file is not quietly ignored
    again = lorad(made, "--on", file)
    assert again.exit_code == 1
    assert "--force" in str(again.exception)


@pytest.mark.usefixtures("registry")
def test_a_held_out_file_is_read_as_its_sidecar_says(made, tmp_path):
    # Given a file whose columns only its sidecar explains
    file = tmp_path / "odd.json"
    rows = [{"words": row["instruction"], "what": row["response"], "note": "x"} for row in tiny.rows(UNKNOWN)]
    files.write_json(file, rows)
    beside = tmp_path / "odd.json.meta.yaml"
    beside.write_text("fields: {instruction: words, response: what}\n")

    told = json.loads(lorad(made, "--on", str(file), "--json").stdout)

    assert told["sources"].keys() == {"memory", "held out: odd"}
    # And one that is for another track is refused
    beside.write_text("track: notes\nfields: {instruction: words, response: what}\n")
    refused = lorad(made, "--on", str(file), "--force", "--set", "tracks.notes.base=tiny")
    assert refused.exit_code == 1
    assert "the sidecar of odd.json names the track notes" in str(refused.exception)


@pytest.mark.usefixtures("registry")
def test_what_is_too_long_for_a_session_is_not_asked(made):
    # Given a file with more tokens in one row than any session takes
    rows = [{"instruction": "x" * 900, "response": "y"}, *tiny.rows(UNKNOWN[:3])]
    files.write_json(made.root / "long.json", rows)

    told = json.loads(lorad(made, "--on", str(made.root / "long.json"), "--json").stdout)

    assert told["fitted_on"] + told["figures"]["count"] == len(KNOWN) + 3


def calibrated_model(made, questions):
    base = bases.load_to_answer(made.base("tiny"), "cpu", TrainingSettings(device="cpu", dtype="float32"))
    version = made.track("chat") / "versions" / "v0.1"
    return confidence.CalibratedModel(version, base, find("chat"), questions, 768)


def test_what_is_longer_than_the_model_reads_is_left_out(made):
    long = replace(UNKNOWN[0], target="word " * 300)
    questions = [confidence.Question(example, "held out: doors") for example in (UNKNOWN[1], long)]
    base = bases.load_to_answer(made.base("tiny"), "cpu", TrainingSettings(device="cpu", dtype="float32"))
    base.model.config.max_position_embeddings = 100
    version = made.track("chat") / "versions" / "v0.1"
    model = confidence.CalibratedModel(version, base, find("chat"), questions, 100_000)

    assert [row.id for row in model.ask(questions, lambda *_: None)] == [UNKNOWN[1].id]


def test_what_was_held_out_is_what_the_papers_say(made):
    with closing(Database(made.database)) as database:
        memory = Memory(database, "chat")
        found = confidence.find_questions(memory, ["v0.1"], {KNOWN[0].id, "forgotten"}, UNKNOWN[:1])

    sources = {question.example.id: question.source for question in found}
    assert sources[KNOWN[0].id] == confidence.NEVER_TRAINED
    assert {sources[example.id] for example in KNOWN[1:]} == {"memory"}
    assert sources[UNKNOWN[0].id] == "held out: doors"


def test_a_version_that_learned_nothing_here_cannot_be_measured_without_a_file(made):
    # Given a memory without a single example
    with closing(Database(":memory:")) as database:
        questions = confidence.find_questions(Memory(database, "chat"), ["v0.1"])
    calibrated = calibrated_model(made, questions)

    with pytest.raises(ConfigError, match="--on FILE"):
        confidence.measure(calibrated, questions, 500, NOON, lambda *_: None)


def test_a_reference_of_forgotten_questions_cannot_be_compared_with(made):
    reference = Reference(
        version="v0.1",
        measured_at=NOON,
        environment={},
        temperature=1.0,
        fitted_on=1,
        rows=(Asked(id="gone", source="memory", confidence=1.0, right=True),),
    )
    questions = [confidence.Question(KNOWN[0], "memory")]
    calibrated = calibrated_model(made, questions)

    with pytest.raises(RegistryError, match="measure it again"):
        confidence.measure_again(calibrated, questions, reference, NOON, lambda *_: None)


@pytest.mark.usefixtures("registry")
def test_as_few_are_asked_as_is_wanted(made):
    told = json.loads(lorad(made, "--rows", "4", "--json").stdout)

    assert (told["fitted_on"], told["figures"]["count"]) == (2, 2)


def test_a_damaged_reference_is_told_and_can_be_replaced(made, registry):
    lorad(made)
    (made.track("chat") / "calibration" / "v0.1.json").write_text("{")

    assert "--force" in str(lorad(made, "--check").exception)
    assert registry.describe("v0.1")["calibration"] is None
    assert lorad(made, "--force").exit_code == 0
    assert lorad(made, "--check").exit_code == 0


@pytest.mark.usefixtures("registry")
def test_a_table_for_people(made):
    shown = lorad(made).stdout

    assert "v0.1, measured " in shown
    assert all(word in shown for word in ("memory", "all", "at T = ", "ECE", "Brier"))
