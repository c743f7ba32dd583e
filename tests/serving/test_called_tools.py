"""Calls of tools in what a model wrote: read whole, and in pieces wherever they are cut."""

import json

import pytest

from lorad.serving.called_tools import Call, Reader, Said, read

TOOLS = {"weather", "time"}
WEATHER = Call("weather", {"at": "mill"})
NOW = Call("time", {})
CALL = '{"name": "weather", "arguments": {"at": "mill"}}'
LLAMA = '{"name": "weather", "parameters": {"at": "mill"}}'

WRITTEN = {
    "hermes": (f"<tool_call>\n{CALL}\n</tool_call>", Said("", (WEATHER,))),
    "hermes without its end": (f"<tool_call>{CALL}", Said("", (WEATHER,))),
    "hermes behind text": (
        f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\n",
        Said("Let me see.", (WEATHER,)),
    ),
    "hermes, two": (
        f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "time", "arguments": {{}}}}</tool_call>',
        Said("", (WEATHER, NOW)),
    ),
    "smollm, a list": (f'<tool_call>[{CALL}, {{"name": "time"}}]</tool_call>', Said("", (WEATHER, NOW))),
    "mistral": (f"[TOOL_CALLS] [{CALL}]", Said("", (WEATHER,))),
    "mistral, newer": (
        'Well.[TOOL_CALLS]weather[ARGS]{"at": "mill"}[TOOL_CALLS]time[ARGS]{}',
        Said("Well.", (WEATHER, NOW)),
    ),
    "llama": (LLAMA, Said("", (WEATHER,))),
    "llama, two": (f'{LLAMA}; {{"name": "time", "parameters": {{}}}}', Said("", (WEATHER, NOW))),
    "llama, tagged": (f"<|python_tag|>{LLAMA}", Said("", (WEATHER,))),
    "arguments in a text": (
        f"<tool_call>{json.dumps({'name': 'weather', 'arguments': json.dumps({'at': 'mill'})})}</tool_call>",
        Said("", (WEATHER,)),
    ),
}
TEXTS = [
    "",
    "Fog, at the mill.",
    '{"fog": true}',
    '{"name": "weather", "parameters": [1]}',
    '{"name": "launch", "parameters": {}}',
    '{"name": ["weather"], "parameters": {}}',
    '{"name": "weather", "parameters": {"at": NaN}}',
    f"{LLAMA} is what I would call.",
    f"<tool_call>{CALL}</tool_call> and so on",
    "<tool_call>weather(mill)</tool_call>",
    "<tool_call></tool_call>",
    '<tool_call>{"name": "launch", "arguments": {}}</tool_call>',
    "[TOOL_CALLS] []",
    "[TOOL_CALLS]weather[ARGS]",
    "a < b [TOOL_",
    "{" * 100_000,
    '{"a":' * 100_000,
    "  \n ",
]


def in_pieces(answer, size):
    """Return what an answer's pieces are read as."""
    reader = Reader(TOOLS)
    told = "".join(reader.add(answer[at : at + size]) for at in range(0, len(answer), size))
    said = reader.end()
    return Said(told + said.text, said.calls)


@pytest.mark.parametrize(("answer", "said"), WRITTEN.values(), ids=WRITTEN)
def test_a_call_is_read_in_its_familys_form_wherever_it_is_cut(answer, said):
    assert read(answer, TOOLS) == said
    for size in (1, 2, 3, 7, 1000):
        assert in_pieces(answer, size) == said


@pytest.mark.parametrize("answer", TEXTS, ids=lambda text: text[:30])
def test_what_calls_nothing_that_was_declared_stays_as_it_is(answer):
    assert read(answer, TOOLS) == Said(answer)
    for size in (7, 100_000):
        assert in_pieces(answer, size) == Said(answer)


def test_text_is_handed_on_as_soon_as_no_call_can_begin_in_it():
    reader = Reader(TOOLS)

    assert [reader.add(piece) for piece in ("It is", " 3 <", " 5", ", so ", "<tool", "s> it")] == [
        "It is",
        " 3",
        " < 5",
        ", so",
        "",
        " <tools> it",
    ]
    assert reader.end() == Said("")
