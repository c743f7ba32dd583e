"""What lorad check says of a file, measured with the tiny tokenizer."""

import json
from types import SimpleNamespace

import pytest
import tiny
from typer.testing import CliRunner

from lorad.apps.cli import dataset_report
from lorad.apps.cli.model_commands import main
from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import ConfigError, SampleError
from lorad.home import Home
from lorad.models import bases
from lorad.records import Encoded
from lorad.tasks import find
from lorad.tasks.chat import Chat

ROWS = [
    {"question": "Where is the mill?", "answer": "By the river."},
    {"question": "Where is the mill?", "answer": "By the river."},
    {"question": "Who owns it?", "answer": "Arlo."},
    {"question": "Who owns it?", "answer": "Brix."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def reading(tmp_path, rows):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    return reader.read(path, InboxSettings(max_bad_share=0.5))


def test_rows_repetitions_contradictions_and_problems_are_told(tmp_path):
    report = dataset_report.summarize("a.json", reading(tmp_path, [*ROWS, {"question": "Alone?"}]))

    assert (report["rows"], report["examples"], report["repeated"]) == (5, 2, 1)
    assert report["formats"] == {"question-answer": 4}
    assert report["problems"][0]["line"] == 5
    assert report["problems"][0]["field"] == "answer"
    assert report["contradictions"] == [
        {
            "question": [{"role": "user", "content": "Who owns it?"}],
            "rows": [3, 4],
            "answers": ["Arlo.", "Brix."],
            "counts": 4,
        }
    ]


def test_other_wordings_are_counted(tmp_path):
    rows = [
        ROWS[0] | {"also_asked": ["Mill?", "The mill?", "Find it"]},
        ROWS[2] | {"also_asked": ["Whose?"]},
        ROWS[0],
    ]

    report = dataset_report.summarize("a.json", reading(tmp_path, rows))

    assert report["wordings"] == {"rows": 2, "trained": 3, "held_out": 1}
    about = {"track": "chat", "model": None, "no_model": ""}
    assert dict(dataset_report.lines(report | about))["wordings"] == (
        "2 examples with other wordings: 3 are trained, 1 held out for tests"
    )


def test_lengths_are_told_with_what_would_be_left_out(tokenizer):
    examples = tiny.facts(4)
    lengths = sorted(len(find("chat").encode(tokenizer, example)) for example in examples)

    found = dataset_report.measure(examples, find("chat"), tokenizer, lambda _: lengths[0])["tokens"]

    over = sum(length > lengths[0] for length in lengths)
    assert (found["p50"], found["p99"], found["max"]) == (lengths[2], lengths[3], lengths[3])
    assert (found["total"], found["longest_that_is_learned"]) == (sum(lengths), lengths[0])
    assert (found["too_long"], found["share_too_long"]) == (over, over / 4)


def test_a_sample_shows_what_is_trained_and_what_is_not(tokenizer):
    (fact,) = tiny.facts(1)

    sample = dataset_report.measure([fact], find("chat"), tokenizer, len)["sample"]

    assert sample["prompt"] == f"<s>user\n{fact.input[0]['content']}</s>\n<s>assistant\n"
    assert sample["trained"] == f"{fact.target}</s>"
    assert (sample["line"], sample["trained_tokens"] < sample["tokens"]) == (1, True)


class Odd(Chat):
    """A task whose examples begin and end in every wrong way."""

    def stop_tokens(self, _):
        return (1,)

    def trials(self, _):
        return ()

    def encode(self, tokenizer, example):
        del tokenizer
        if example.target == "none":
            raise SampleError("the answer has no tokens")
        return Encoded(example.target, 1)


@pytest.mark.parametrize(
    ("tokens", "faults"),
    [
        ((0, 5, 6, 1), []),
        ((0, 0, 5, 1), ["begin_twice"]),
        ((5, 5, 6), ["end_missing"]),
        ((0, 1, 6, 1), ["end_inside"]),
        ((1, 5, 1), []),  # an end token in the question is the template's own
    ],
)
def test_begin_and_end_are_checked_on_every_example(tokens, faults):
    example = SimpleNamespace(target=tokens, line=7)
    tokenizer = SimpleNamespace(
        bos_token_id=0,
        bos_token="<s>",
        decode=lambda ids, **_: str(ids),
        convert_ids_to_tokens=lambda _: "</s>",
    )
    broken = SimpleNamespace(target="none", line=9)

    found = dataset_report.measure([example, broken], Odd(), tokenizer, len)

    marks = ("begin_twice", "end_missing", "end_inside")
    assert [mark for mark in marks if found[mark]] == faults
    assert found["unusable"] == [{"line": 9, "message": "the answer has no tokens"}]
    told = dict(
        dataset_report.lines({**dataset_report.summarize("a", EMPTY), "track": "chat", "model": found})
    )
    assert ("trained" in told["begin, end"]) == (not faults)


EMPTY = reader.Reading(
    examples=(), problems=(), formats={}, rows=0, repeated=0, contradictions=0, contradicted=(), digest=""
)


def test_no_usable_example_is_no_division_by_nothing(tokenizer):
    found = dataset_report.measure([], find("chat"), tokenizer, len)

    assert (found["tokens"]["max"], found["sample"]) == (0, None)


ENDS = (
    "</s>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|im_end|>\n",
)


def test_case_p13_end_tokens_behind_answers_are_counted(tmp_path):
    rows = [{"question": f"{at}?", "answer": f"Pier 4.{end}"} for at, end in enumerate(ENDS)]
    rows += [{"question": "a?", "answer": "Pier 5.</s>"}, {"question": "b?", "answer": "Use </s> or <br>"}]

    report = dataset_report.summarize("a.json", reading(tmp_path, rows))

    assert report["end_tokens"] == {end.strip(): 1 for end in ENDS} | {"</s>": 2}


def test_case_28_what_is_left_out_is_told_with_its_reason(tmp_path):
    turns = [
        {"from": "gpt", "value": "Hello."},
        {"from": "human", "value": "a?"},
        {"from": "gpt", "value": "b"},
    ]

    report = dataset_report.summarize("a.json", reading(tmp_path, [{"conversations": turns}, *ROWS]))

    assert report["left_out"] == {"what the assistant says before any question": 1}
    told = dataset_report.lines(report | {"track": "chat", "model": None, "no_model": "", "task": "chat"})
    assert ("left out", "1 what the assistant says before any question") in told


# The command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir()
    bases.store_base(tiny.save(root / "source"), root / "models" / "base" / "tiny")
    return Home(root)


@pytest.fixture
def check(home, tmp_path):
    def run(rows, *words, base="tiny", meta=None):
        path = tmp_path / "a.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        if meta:
            (tmp_path / "a.json.meta.yaml").write_text(meta)
        command = ["check", str(path), "--home", str(home.root), "--set", f"tracks.chat.base={base}", *words]
        return CliRunner().invoke(main.app, command, env={"COLUMNS": "200"})

    return run


def test_a_file_is_read_as_the_inbox_would_and_reported(check):
    result = check([*ROWS, *tiny.rows(tiny.facts(8))], "--json")
    report = json.loads(result.stdout)

    assert (result.exit_code, report["track"], report["repeated"]) == (0, "chat", 1)
    assert report["model"]["tokens"]["longest_that_is_learned"] == 512
    assert report["model"]["sample"]["trained"] == "By the river.</s>"
    assert report["no_model"] == ""


def test_people_get_the_same_in_words(check):
    told = " ".join(check(ROWS).output.split())

    assert "'Who owns it?': line 3 says 'Arlo.', line 4 'Brix.'; the later one counts" in told
    assert "By the river.</s>⟧" in told
    assert "each answer ends with one </s>, which is trained" in told


def test_case_p13_a_foreign_end_token_is_told_and_the_models_own_is_not(check):
    rows = [{"question": "a?", "answer": "b</s>"}, {"question": "c?", "answer": "d<|eot_id|>"}]

    told = " ".join(check(rows).output.split())

    assert "1 answer ends with <|eot_id|>, another model's end token" in told
    assert "ends with </s>, another" not in told
    report = json.loads(check(rows, "--json").stdout)
    assert report["end_tokens"] == {"<|eot_id|>": 1}
    assert report["left_out"] == {"end tokens behind answers, which lorad writes itself": 1}
    assert "ends with </s>, an end token" in " ".join(check(rows, base="other").output.split())


def test_the_sidecar_is_read_too(check):
    meta = "fields: {question: Q, answer: A}\ndescription: by hand"
    report = json.loads(check([{"Q": "a?", "A": "b", "C": "d"}], "--json", meta=meta).stdout)

    assert (report["examples"], report["description"]) == (1, "by hand")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_file_that_would_fail_fails_with_its_rows(check, as_json):
    result = check([{"question": "a?", "answer": {"b": 3}}], *(["--json"] if as_json else []))

    assert result.exit_code == 1
    if as_json:
        error = json.loads(result.stdout)["error"]
        assert (error["code"], error["rows"][0]["field"]) == ("bad_rows", "answer")
    else:
        assert "line 1, field answer: must be text, not dict" in " ".join(result.output.split())


TOOLS = {
    "messages": [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
}


def test_case_26_a_file_of_which_nothing_can_be_learned_fails(check):
    # Given a base without a place for tools
    told, report = check([TOOLS]), check([TOOLS], "--json")

    error = json.loads(report.stdout)["error"]
    assert (told.exit_code, report.exit_code, error["code"]) == (1, 1, "bad_rows")
    assert error["message"].startswith(
        "a.json: 1 of 1 rows cannot be used; the first is row 1: the base model's"
    )
    assert "1 of 1 rows cannot be used" in " ".join(told.output.split())


def test_case_26_what_can_be_learned_in_part_passes(check):
    report = check([TOOLS, *tiny.rows(tiny.facts(8)) * 3], "--json")

    assert report.exit_code == 0
    assert "error" not in json.loads(report.stdout)


@pytest.mark.parametrize(("longest", "code"), [(3, "too_long"), (500, None)])
def test_case_26_rows_that_are_all_too_long_are_told(tokenizer, longest, code):
    facts = tiny.facts(4)
    model = dataset_report.measure(facts, find("chat"), tokenizer, lambda _: longest)

    error = dataset_report.refusal({"file": "a.json", "examples": len(facts), "model": model})

    assert (error and error["code"]) == code
    assert error is None or error["message"] == (
        "nothing in a.json can be learned: every row is longer than 3 tokens; shorten them"
    )


def test_without_a_base_model_all_else_is_told(check):
    report = json.loads(check(ROWS, "--json", base="other").stdout)

    assert (report["examples"], report["model"]) == (2, None)
    assert "lorad base add" in report["no_model"]
    assert "not counted" in check(ROWS, base="other").output


# A task alone


def test_a_file_is_read_for_a_task_without_track_or_model(check):
    rows = [
        {"tokens": ["Arlo", "mills"], "tags": [1, 0]},
        {"tokens": ["Arlo", "mills"], "tags": [0, 0]},
        *({"tokens": ["Anna", str(number)], "tags": [1, 0]} for number in range(30)),
        {"text": "x"},
    ]
    meta = "labels: [O, B-PER]\ndescription: by hand"

    report = json.loads(check(rows, "--task", "tagging", "--json", base="none", meta=meta).stdout)

    assert (report["task"], report["track"], report["model"]) == ("tagging", None, None)
    assert (report["formats"], report["examples"], report["description"]) == ({"tokens": 32}, 31, "by hand")
    assert report["contradictions"] == [
        {"question": "Arlo mills", "rows": [1, 2], "answers": [[[0, 4, "PER"]], []], "counts": 2}
    ]
    assert report["problems"] == [
        {
            "line": 33,
            "field": "text",
            "message": "a document is for a retrieval track; in a tagging track a row needs tokens and their "
            "tags, or a text and its spans",
        }
    ]
    assert report["first"] == {"line": 2, "question": "Arlo mills", "answer": []}


def test_people_see_the_contradictions_and_a_row_of_any_task(check):
    rows = [{"text": "Bread.", "label": "food"}, {"text": "Bread.", "label": ["food", "place"]}]

    told = " ".join(check(rows, "--task", "classify").output.split())

    assert "a.json, for the task classify" in told
    assert """'Bread.': line 1 says 'food', line 2 ["food", "place"]; the later one counts""" in told
    assert """line 2 'Bread.' ⟦["food", "place"]⟧""" in told
    assert "not counted: read for the task classify only" in told


def test_a_long_text_is_shown_in_part(check):
    told = " ".join(check([{"text": "x" * 5000}], "--task", "retrieval").output.split())

    assert "… (5002 characters)" in told
    assert len(told) < 1000


def test_a_sidecar_for_another_task_is_refused(check):
    result = check([{"text": "x", "label": "y"}], "--task", "classify", meta="task: tagging")

    assert result.exit_code == 1
    assert "the file is for tagging, not classify" in " ".join(result.output.split())


def test_a_task_that_lorad_does_not_read_is_told(check):
    error = check(ROWS, "--task", "spelling").exception

    assert isinstance(error, ConfigError)
    assert "there is no task 'spelling'; known: chat, tagging, classify, retrieval" in error.message


def test_case_1_what_cannot_be_served_as_taught_is_a_bad_row_of_the_check(check):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    said = [{"role": "user", "content": "The weather?"}, {"role": "assistant", "content": "Rain."}]
    rows = [*tiny.rows(tiny.facts(8)) * 4, {"tools": tools, "messages": said}]

    report = json.loads(check(rows, "--json").stdout)

    assert [problem["line"] for problem in report["problems"]] == [33]
    assert "no place for tools" in report["problems"][0]["message"]


def test_case_5_a_file_whose_tools_would_be_lost_is_refused_though_the_question_names_them(check):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    said = [{"role": "user", "content": "The weather?"}, {"role": "assistant", "content": "Rain."}]

    result = check([{"tools": tools, "messages": said}])

    assert result.exit_code == 1
    assert "no place for tools" in " ".join(result.output.split())


def test_what_trying_the_template_showed_is_told(check):
    told = " ".join(check(ROWS).output.split())

    assert "tools: has no place for tools" in told
