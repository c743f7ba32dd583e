"""The chat task: one begin, one end, the end is trained, nothing is rewritten."""

from dataclasses import replace

import pytest
import tiny

from lorad.errors import ConfigError, SampleError
from lorad.records import Example, as_line
from lorad.tasks import encode, find

CHAT = find("chat")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def example(answer="blue", question="Which colour?"):
    return Example(task="chat", input=[{"role": "user", "content": question}], target=answer)


def test_the_answer_and_exactly_one_end_token_are_trained(tokenizer):
    row = CHAT.encode(tokenizer, example())

    assert tokenizer.decode(row.target) == "blue</s>"
    assert row.target.count(tokenizer.eos_token_id) == 1  # though pad is the same token
    assert row.target[-1] == tokenizer.eos_token_id


def test_training_and_answering_begin_with_the_same_prompt(tokenizer):
    row = CHAT.encode(tokenizer, example())

    prompt = CHAT.prompt(tokenizer, example().input)

    assert list(row.tokens[: row.start]) == prompt
    assert tokenizer.decode(prompt).endswith("<s>assistant\n")


def test_a_tokenizer_that_adds_a_begin_token_gives_exactly_one():
    doubled = tiny.tokenizer()
    doubled.add_bos_token = True
    doubled.chat_template = tiny.TEMPLATE.replace("<s>", "")

    prompt = CHAT.prompt(doubled, example().input)
    again = CHAT.prompt(tiny.tokenizer(), example().input)  # a template that writes it itself

    assert prompt[0] == doubled.bos_token_id
    assert prompt.count(doubled.bos_token_id) == 1
    assert again[:2].count(doubled.bos_token_id) == 1


@pytest.mark.parametrize(
    "answer", ["See https://a.example/x?y=1&z=(2)#@f.", "Write to a.b+c@d.example", "  two  spaces", "end\n"]
)
def test_links_addresses_and_spaces_are_trained_as_they_are(tokenizer, answer):
    row = CHAT.encode(tokenizer, example(answer))

    assert tokenizer.decode(row.target, clean_up_tokenization_spaces=False) == answer + "</s>"


def test_a_template_that_answers_differently_in_history_trains_the_bare_answer():
    thinking = tiny.tokenizer()
    thinking.chat_template = tiny.TEMPLATE.replace("{{ '<s>assistant\n' }}", "{{ '<s>assistant\n<think>' }}")

    row = CHAT.encode(thinking, example())

    assert thinking.decode(row.target) == "blue</s>"


def test_an_answer_without_tokens_is_a_problem_of_its_row(tokenizer):
    with pytest.raises(SampleError, match="no tokens"):
        CHAT.encode(tokenizer, example("</s>"))


def test_an_answer_that_speaks_of_the_end_token_is_not_cut_there(tokenizer):
    answer = "It is </s> and it ends an answer."

    row = CHAT.encode(tokenizer, example(answer))

    assert CHAT.text(tokenizer, row.target[:-1]) == answer
    assert row.target.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("answer", ["blue</s>", "blue</s>\n"])
def test_an_answer_may_bring_its_own_end(tokenizer, answer):
    assert tokenizer.decode(CHAT.encode(tokenizer, example(answer)).target) == "blue</s>"


def test_a_base_without_chat_template_or_end_token_cannot_serve_chat():
    plain = tiny.tokenizer()
    plain.chat_template = None
    endless = tiny.tokenizer()
    endless.eos_token = None

    with pytest.raises(ConfigError, match="chat template"):
        CHAT.check_tokenizer(plain)
    with pytest.raises(ConfigError, match="end token"):
        CHAT.check_tokenizer(endless)
    CHAT.check_tokenizer(tiny.tokenizer())


def test_a_row_that_the_template_refuses_is_left_out_and_says_why():
    # Given a template like Gemma's, which knows no system message
    strict = tiny.tokenizer()
    strict.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + strict.chat_template
    )
    good = tiny.facts(1)[0]
    bad = replace(good, input=[{"role": "system", "content": "Be kind."}, *good.input])

    usable, unusable = encode(CHAT, strict, [bad, good])

    assert [example for example, _ in usable] == [good]
    [(left_out, error)] = unusable
    assert left_out == bad
    assert (error.code, "System role not supported" in error.message) == ("template", True)


def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match=r"known: .*chat, "):
        find("poetry")


# tools

WITH_TOOLS = """{% if tools %}<s>tools
{{ tools | tojson }}</s>
{% endif %}{% for m in messages %}<s>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}</s>
{% endfor %}{% if add_generation_prompt %}<s>assistant
{% endif %}"""
TOOLS = {"role": "tools", "content": '[{"name": "weather"}]'}
ASKED = {"role": "user", "content": "Rain?"}
CALL = {"content": "", "tool_calls": [{"name": "weather", "arguments": {"at": "mill"}}]}
HEARD = [{"role": "assistant", **CALL}, {"role": "tool", "content": "fog"}]


@pytest.fixture(scope="module")
def toolkit():
    made = tiny.tokenizer()
    made.chat_template = WITH_TOOLS
    return made


def test_a_call_is_trained_as_the_template_writes_it(toolkit):
    row = CHAT.encode(toolkit, Example(task="chat", input=[TOOLS, ASKED], target=CALL))

    assert toolkit.decode(row.target) == '<call>{"name": "weather", "arguments": {"at": "mill"}}</call></s>'
    assert '"name": "weather"' in toolkit.decode(row.tokens[: row.start])


def test_the_word_of_an_end_token_before_a_call_does_not_cut_the_call_off(toolkit):
    row = CHAT.encode(toolkit, Example(task="chat", input=[TOOLS, ASKED], target=CALL | {"content": "a</s>"}))

    assert CHAT.text(toolkit, row.target[:-1]).startswith("a</s><call>")
    assert row.target.count(toolkit.eos_token_id) == 1


def test_what_a_tool_said_is_part_of_the_question(toolkit):
    row = CHAT.encode(toolkit, Example(task="chat", input=[TOOLS, ASKED, *HEARD], target="No."))

    assert toolkit.decode(row.target) == "No.</s>"
    assert "fog</s>" in toolkit.decode(row.tokens[: row.start])


@pytest.mark.parametrize("said", ['{"celsius": 7}', "line 1\nline 2", 'tief "é" 🌫', "C:\\fog"])
def test_a_template_may_write_what_a_tool_said_as_json(said):
    # Given a template like Llama 3's, which takes a text for something that can be iterated
    quoting = tiny.tokenizer()
    quoting.chat_template = WITH_TOOLS.replace(
        "{{ m.content }}",
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
    )
    heard = [HEARD[0], {"role": "tool", "content": said}]

    assert CHAT.encode(quoting, Example(task="chat", input=[TOOLS, ASKED, *heard], target="No."))


@pytest.mark.parametrize(
    ("question", "answer"),
    [([TOOLS, ASKED], "No."), ([ASKED], CALL), ([ASKED, *HEARD], "No.")],
    ids=["tools", "call", "heard"],
)
def test_a_template_without_tools_refuses_what_it_would_leave_out(question, answer):
    silent = tiny.tokenizer()
    silent.chat_template = (
        "{% for m in messages if m.role != 'tool' %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    )

    with pytest.raises(SampleError, match="no place for tools"):
        CHAT.encode(silent, Example(task="chat", input=question, target=answer))


def test_people_see_what_was_called():
    assert as_line([TOOLS, ASKED]) == "Rain?"
    assert as_line(CALL) == 'weather({"at": "mill"})'
