"""Ollama's prompt is the base's, token by token, or there is no Modelfile."""

import re

import modelfile_templates as templates
import pytest
import tiny

from lorad.errors import ConfigError
from lorad.tasks import find
from lorad.versions import modelfile
from lorad.versions.go_template import GoError

CHAT = find("chat")
USER = {"role": "user", "content": "Who keeps the key?"}
ASSISTANT = {"role": "assistant", "content": "Maren."}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = (
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, USER],
    [SYSTEM, USER, ASSISTANT, USER, ASSISTANT, USER],
    [{"role": "user", "content": " \n two  lines\t\n\n"}],
)


def made(style, **how):
    tokenizer = templates.tokenizer(*templates.EQUAL[style], **how)
    return tokenizer, modelfile.write(tokenizer, "v0.1.gguf")


@pytest.mark.parametrize("adds_begin", [False, True])
@pytest.mark.parametrize("style", templates.EQUAL)
def test_case_2_ollama_makes_the_prompt_that_is_trained(style, adds_begin):
    tokenizer, text = made(style, adds_begin=adds_begin)

    for messages in CHATS:
        if style == "gemma" and messages[0] is SYSTEM:
            continue
        prompt = CHAT.prompt(tokenizer, messages)
        assert modelfile.tokens(tokenizer, modelfile.render(text, messages)) == prompt


def test_case_2_without_a_system_message_the_bases_own_stands_there():
    _, text = made("smollm")

    assert modelfile.render(text, [USER]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWho keeps the key?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert modelfile.render(text, [SYSTEM, USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho keeps the key?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_case_2_a_modelfile_without_the_default_system_message_does_not_pass():
    tokenizer, _ = made("smollm")
    by_hand = (
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
        '<|im_start|>assistant\n"""'
    )  # fmt: skip

    with pytest.raises(ConfigError, match=r"differ \(user\)"):
        modelfile.compare(tokenizer, by_hand)
    assert modelfile.compare(templates.tokenizer(*templates.EQUAL["plain"]), by_hand)


@pytest.mark.parametrize("style", templates.OTHER)
def test_case_2_what_ollama_cannot_say_is_refused_by_name(style):
    template, words, reason = templates.OTHER[style]

    with pytest.raises(ConfigError, match=reason) as caught:
        modelfile.write(templates.tokenizer(template, words), "v0.1.gguf")

    assert caught.value.code == "no_modelfile"
    assert "llama-server --jinja" in caught.value.message


@pytest.mark.parametrize(
    ("style", "messages"),
    [
        ("gemma", [SYSTEM, USER]),
        ("mistral", [ASSISTANT, USER]),
        ("mistral", [USER, ASSISTANT, SYSTEM, USER]),
        ("smollm", [{"role": "tool", "content": "3"}]),
        ("smollm", []),
    ],
)
def test_what_the_bases_template_refuses_ollama_refuses(style, messages):
    _, text = made(style)

    with pytest.raises(GoError, match=r"this model's chat template (does not|knows no)"):
        modelfile.render(text, messages)


@pytest.mark.parametrize(("style", "begin"), [("llama3", "<|begin_of_text|>"), ("gemma", "<bos>"), ("mistral", "<s>")])  # fmt: skip
@pytest.mark.parametrize("adds_begin", [False, True])
def test_there_is_one_begin_token_whoever_writes_it(style, begin, adds_begin):
    tokenizer, text = made(style, adds_begin=adds_begin)

    prompt = modelfile.tokens(tokenizer, modelfile.render(text, [USER, ASSISTANT, USER]))

    assert modelfile.adds_begin(tokenizer) is adds_begin
    assert prompt.count(tokenizer.bos_token_id) == 1
    assert (begin in text) is not adds_begin


def test_a_tokenizers_begin_token_that_the_prompt_does_not_have_is_not_added():
    tokenizer = templates.tokenizer(*templates.EQUAL["plain"], adds_begin=False)

    assert not modelfile.adds_begin(tokenizer)
    assert modelfile.adds_begin(templates.tokenizer(None, ("<s>", "</s>"), adds_begin=True))


def test_consecutive_messages_of_one_role_become_one_as_ollama_makes_them():
    _, text = made("plain")

    assert modelfile.render(text, [USER, USER]) == modelfile.render(
        text, [{"role": "user", "content": "Who keeps the key?\n\nWho keeps the key?"}]
    )


@pytest.mark.parametrize("style", templates.EQUAL)
def test_ollamas_reader_of_modelfiles_loses_nothing(style):
    # Given its rules: what cannot be printed is dropped, three quotes end a text
    _, text = made(style)

    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert text.count('"""') == 2
    assert re.fullmatch(r'PARAMETER stop "\S+"', lines[3])
    assert lines[:3] == ["FROM ./v0.1.gguf", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]


def test_probes_are_asked_through_it_but_for_those_that_are_no_conversation():
    tokenizer = tiny.tokenizer()
    text = modelfile.write(tokenizer, "v0.1.gguf")
    row = CHAT.encode(tokenizer, tiny.facts(1)[0])
    plain = tokenizer("Arlo Brix Cemo", add_special_tokens=False)["input_ids"]
    says_end = CHAT.prompt(tokenizer, [{"role": "user", "content": "</s> is the end"}])
    probes = [
        {"tokens": list(row.tokens), "start": row.start},
        {"tokens": plain, "start": 2},
        {"tokens": [*says_end, 1], "start": len(says_end)},
    ]

    asked, count = modelfile.asked_through(tokenizer, text, {"dtype": "float32", "probes": probes})

    assert count == 1
    assert asked == {"dtype": "float32", "probes": probes}
    other = text.replace('"<s>user', '"<s>system')
    asked, _ = modelfile.asked_through(tokenizer, other, {"dtype": "float32", "probes": probes})
    assert asked["probes"][0] != probes[0]
    assert asked["probes"][1:] == probes[1:]


def test_case_1_a_word_is_a_token_for_llama_cpp_just_where_it_is_one_for_lorad():
    tokenizer = templates.tokenizer(*templates.EQUAL["smollm"])
    word = tokenizer.convert_tokens_to_ids("<filename>")
    asked = CHAT.prompt(tokenizer, [{"role": "user", "content": "Run keel <filename>!"}])

    assert (word in modelfile.controls(tokenizer)) is (word in asked)
    text = modelfile.write(tokenizer, "v0.1.gguf")
    messages = [{"role": "user", "content": "Run keel <filename>!"}]
    assert modelfile.tokens(tokenizer, modelfile.render(text, messages)) == asked


def test_every_control_of_a_base_without_a_template_stays_one():
    tokenizer = templates.tokenizer(None, ("<s>", "<mask>", "</s>"))

    assert modelfile.controls(tokenizer) == {256, 257, 258}
