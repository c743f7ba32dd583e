"""Answers held to a JSON schema: whatever a model would say, what it may say follows the schema."""

import json

import jsonschema_rs
import pytest
import templates
import tiny
import torch

from lorad.errors import ProtocolError
from lorad.serving import called_tools
from lorad.serving.guiding import KEPT, Grammars, GuidedSampling
from lorad.serving.requests import Sampling
from lorad.tasks import find

END = 1
OBJECT = {"type": "object"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "door": {"enum": ["amber", "blue"]},
    },
    "required": ["name", "age", "door"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, [END])


def written(tokenizer, guide, seed, width=400, most=200, end=END):
    """Return what a model says that has no idea, and has more outputs than tokens."""
    numbers, tokens = torch.Generator().manual_seed(seed), []
    for _ in range(most):
        logits = guide.allow(torch.rand(width, generator=numbers))
        token = int(logits.argmax())
        if token == end:
            return tokenizer.decode(tokens)
        guide.take(token)
        tokens.append(token)
    raise AssertionError(f"it does not end: {tokenizer.decode(tokens)}")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_model_says_follows_the_schema(tokenizer, grammars, seed):
    answer = written(tokenizer, grammars.grammar(PERSON).start(), seed)

    jsonschema_rs.validate(PERSON, json.loads(answer))


def test_without_a_guide_it_would_not(tokenizer):
    numbers = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(tokenizer.decode(torch.rand(366, 5, generator=numbers).argmax(0)))


def test_answers_that_follow_one_grammar_do_not_disturb_each_other(tokenizer, grammars):
    grammar = grammars.grammar({"enum": ["amber", "blue"]})
    first, second = grammar.start(), grammar.start()
    first.take(tokenizer('"')["input_ids"][0])

    assert written(tokenizer, second, 1) in ('"amber"', '"blue"')
    assert written(tokenizer, first, 1) in ('amber"', 'blue"')


def test_logits_that_are_allowed_stay_as_they_are(grammars):
    logits = torch.randn(400)
    allowed = grammars.grammar(OBJECT).start().allow(logits)

    kept = allowed.isfinite()
    assert torch.equal(allowed[kept], logits[kept])
    assert 0 < kept.sum() < 5
    assert not kept[366:].any()


def test_a_finished_answer_can_only_end(tokenizer, grammars):
    guide = grammars.grammar({"const": 7}).start()
    guide.take(tokenizer("7")["input_ids"][0])

    assert guide.allow(torch.zeros(400)).isfinite().nonzero().tolist() == [[END]]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no"},
        {"minimum": 10**23},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "http://example.com/schema"},
        {"not": {"type": "string"}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
)
def test_a_schema_that_nothing_can_follow_is_refused(grammars, schema):
    with pytest.raises(ProtocolError, match="the schema cannot be followed: ") as caught:
        grammars.grammar(schema)

    assert (caught.value.status, caught.value.code) == (400, "bad_schema")
    assert "\n" not in caught.value.message


def test_a_token_that_was_not_allowed_is_told(tokenizer, grammars):
    guide = grammars.grammar(OBJECT).start()

    with pytest.raises(ProtocolError, match="cannot be followed"):
        guide.take(tokenizer("7")["input_ids"][0])


def test_a_guided_choice_is_a_choice_like_another(grammars):
    grammar = grammars.grammar(OBJECT)
    made = GuidedSampling(temperature=0.5, seed=3, grammar=grammar)

    assert isinstance(made, Sampling)
    assert (made.temperature, made.seed, made.grammar) == (0.5, 3, grammar)


def test_the_same_form_is_made_ready_once_and_not_kept_for_ever(tokenizer):
    grammars = Grammars(tokenizer, [END])
    first = grammars.grammar(PERSON)

    assert grammars.grammar(dict(PERSON)) is first
    for number in range(KEPT):
        grammars.grammar({"const": number})
    assert grammars.grammar(PERSON) is not first


# calls of tools

FUNCTIONS = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["mill", "Mühle"]}},
            "required": ["at"],
            "additionalProperties": False,
        },
    },
    {"name": "time", "parameters": {"additionalProperties": False}},
]
MISTRAL = (
    "{{ bos_token }}{% if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{% endfor %}{{ eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[RESULT]' + m.content }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)


def mistral():
    """Return a tokenizer whose form for calls begins with a special token."""
    special = ("<s>", "</s>", "[TOOL_CALLS]", "[ARGS]")
    return templates._bytes(MISTRAL, special, bos_token="<s>", eos_token="</s>")


CALLING = {"qwen3": templates.qwen3, "llama3": templates.llama3, "mistral": mistral}


@pytest.mark.parametrize("style", CALLING)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_model_says_is_one_call_in_its_familys_form(style, seed):
    tokenizer, task = CALLING[style](), find("chat")
    end = task.stop_tokens(tokenizer)[0]
    grammar = Grammars(tokenizer, [end]).call(task.call_form(tokenizer), FUNCTIONS)

    answer = written(tokenizer, grammar.start(), seed, width=len(tokenizer) + 7, end=end)

    said = called_tools.read(answer, {"weather", "time"})
    [call] = said.calls
    assert said.text == ""
    assert (call.name, call.arguments) in [
        ("weather", {"at": "mill"}),
        ("weather", {"at": "Mühle"}),
        ("time", {}),
    ]


def test_all_functions_may_be_called_and_one_may_be_chosen():
    tokenizer, task = templates.qwen3(), find("chat")
    end = task.stop_tokens(tokenizer)[0]
    grammars, form = Grammars(tokenizer, [end]), task.call_form(tokenizer)

    def called(functions):
        guides = [grammars.call(form, functions).start() for _ in range(12)]
        answers = [
            written(tokenizer, guide, seed, len(tokenizer), end=end) for seed, guide in enumerate(guides)
        ]
        return {called_tools.read(answer, {"weather", "time"}).calls[0].name for answer in answers}

    assert called(FUNCTIONS) == {"weather", "time"}
    assert called(FUNCTIONS[1:]) == {"time"}


@pytest.mark.parametrize("form", [None, ("call ", " with ", "")])
def test_a_form_that_would_not_be_read_is_refused(grammars, form):
    with pytest.raises(ProtocolError, match="no form of calling tools") as caught:
        grammars.call(form, FUNCTIONS)

    assert caught.value.data["param"] == "tool_choice"


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"properties": {"at": {"type": "no"}}}, [1]])
def test_parameters_that_no_call_can_follow_are_refused(grammars, parameters):
    form = '<tool_call>{"name": "', '", "arguments": ', "}</tool_call>"

    with pytest.raises(ProtocolError, match="cannot be followed") as caught:
        grammars.call(form, [{"name": "weather", "parameters": parameters}])

    assert (caught.value.code, caught.value.data["param"]) == ("bad_schema", "tools")
