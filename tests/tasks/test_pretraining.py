"""The tasks of models from scratch: what is hidden, that the passes agree with transformers', gaps and vectors."""

import math

import plain_text
import pytest
import torch

from lorad.errors import SampleError
from lorad.models import bases
from lorad.records import Example
from lorad.tasks import find, pretraining

NAMES = {
    "encoder": "masked_language_modeling",
    "decoder": "causal_language_modeling",
    "encoder-decoder": "span_corruption",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return each architecture's task and base."""
    folder = tmp_path_factory.mktemp("bases")
    found = {}
    for architecture, name in NAMES.items():
        task = find(name)
        base = plain_text.store(folder / architecture, architecture)
        found[architecture] = task, bases.load_base(base, torch.float32, head=task.head)
    return found


def rows(task, tokenizer, count=6, seed=1, share=0.15):
    texts = [task.tokens(tokenizer, text) for text in plain_text.documents(count=count)]
    return task.rows(tokenizer, task.pack(tokenizer, texts, 32), share, seed)


def test_eighty_ten_ten_of_fifteen_in_a_hundred_are_hidden(made):
    task, base = made["encoder"]
    tokenizer = base.tokenizer
    found = rows(task, tokenizer, count=400)
    count = sum(len(row) for row in found)
    hidden = [
        (row.tokens[place], target)
        for row in found
        for place, target in zip(row.places, row.targets, strict=True)
    ]
    special = set(tokenizer.all_special_ids)

    assert len(hidden) / count == pytest.approx(0.15, abs=0.01)
    assert not special & {target for _, target in hidden}
    masked = sum(now == tokenizer.mask_token_id for now, _ in hidden) / len(hidden)
    kept = sum(now == target for now, target in hidden) / len(hidden)
    assert masked == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1, abs=0.02)
    assert rows(task, tokenizer, seed=1) == rows(task, tokenizer, seed=1) != rows(task, tokenizer, seed=2)


def test_every_token_of_a_decoder_is_predicted_once(made):
    task, base = made["decoder"]
    found = rows(task, base.tokenizer)
    with torch.inference_mode():
        outputs = task.forward(base.model, found)
        (one,) = found[-1:]
        alone = base.model(input_ids=torch.tensor([one.tokens])).logits[0, :-1]
    assert outputs.targets.tolist() == [token for row in found for token in row.tokens[1:]]
    assert torch.allclose(outputs.logits[-one.weight :], alone, atol=1e-5)


@pytest.mark.parametrize("architecture", NAMES)
def test_rows_together_are_as_rows_alone(made, architecture):
    task, base = made[architecture]
    found = [*rows(task, base.tokenizer)[:3], *rows(task, base.tokenizer)[-1:]]  # the last is shorter
    with torch.inference_mode():
        together = task.forward(base.model, found)
        alone = [task.forward(base.model, [row]).logits for row in found]
    assert torch.allclose(together.logits, torch.cat(alone), atol=1e-4)
    assert torch.bincount(together.owners).tolist() == [row.weight for row in found]
    assert len(task.grade(together)) == len(found)


def test_spans_are_hidden_behind_sentinels_and_nothing_is_lost(made):
    task, base = made["encoder-decoder"]
    tokenizer = base.tokenizer
    (block,) = task.pack(tokenizer, [task.tokens(tokenizer, plain_text.documents(count=1)[0])], 1000)
    (row,) = task.rows(tokenizer, [block], 0.3, seed=3)
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    spans, at = {}, None
    for token in row.target[:-1]:
        if token >= first and token < first + 100:
            at, spans[token] = token, []
        else:
            spans[at].append(token)
    back = [each for token in row.tokens[:-1] for each in spans.get(token, [token])]
    assert tuple(back) == block
    assert sum(map(len, spans.values())) == pytest.approx(0.3 * len(block), abs=1)


def test_special_tokens_in_a_text_are_text(made):
    for task, base in made.values():
        tokens = task.tokens(base.tokenizer, "a [MASK] </s> <|endoftext|> b")
        assert not set(tokens) & set(base.tokenizer.all_special_ids)
        assert base.tokenizer.decode(tokens) == "a [MASK] </s> <|endoftext|> b"


def test_gaps_are_filled_with_words(made):
    task, base = made["encoder"]
    asked = task.question(base.tokenizer, {"text": "The [MASK] stands by the [MASK].", "top_k": 3})
    assert [asked.tokens[place] for place in asked.places] == [base.tokenizer.mask_token_id] * 2
    with torch.inference_mode():
        (answer,) = task.predict(base.model, [asked])
    told = task.said(base.tokenizer, answer)
    assert [len(gap) for gap in told["gaps"]] == [3, 3]
    assert "[MASK]" not in told["text"]
    assert told["text"].startswith("The")
    chances = [each["probability"] for each in told["gaps"][0]]
    assert chances == sorted(chances, reverse=True)


def test_texts_become_vectors_beside_gaps(made):
    task, base = made["encoder"]
    asked = [{"embed": "the mill"}, "The [MASK].", {"embed": "x " * 900}, {"embed": ""}]
    found = [task.question(base.tokenizer, each) for each in asked]
    with torch.inference_mode():
        first, gaps, long, empty = task.predict(base.model, found)
        (alone,) = task.predict(base.model, found[:1])
    for vector in (first, long, empty):
        assert torch.tensor(vector).norm() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(torch.tensor(first), torch.tensor(alone), atol=1e-5)
    assert gaps["gaps"]


def test_spans_are_written(made):
    task, base = made["encoder-decoder"]
    asked = task.question(base.tokenizer, {"text": "The [MASK] by the [MASK].", "top_k": 3})
    with torch.inference_mode():
        (answer,) = task.predict(base.model, [asked])
    told = task.said(base.tokenizer, answer)
    assert len(told["gaps"]) == 2
    assert "<extra_id" not in told["text"]


def test_a_gap_into_which_nothing_is_written_is_as_likely_as_its_end(made):
    task, base = made["encoder-decoder"]
    asked = task.question(base.tokenizer, "The [MASK] by the [MASK].")
    first, second = (token for token in asked.tokens if "<extra_id" in base.tokenizer.decode([token]))
    (word,) = base.tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    # a sentinel that is said again ends its gap, and begins none
    said = {
        "tokens": asked.tokens,
        "written": [first, second, second, word],
        "chances": [-1.0, -2.0, -3.0, -4.0],
    }

    (one,), (other,) = task.said(base.tokenizer, said)["gaps"]

    assert one == {"word": "", "probability": pytest.approx(math.exp(-2), abs=1e-6)}
    assert other == {"word": "", "probability": pytest.approx(math.exp(-3), abs=1e-6)}


@pytest.mark.parametrize("asked", ["no gap", 7, {"text": 7}, {"text": "[MASK]", "top_k": 0}])
def test_what_is_no_text_with_gaps_is_refused(made, asked):
    task, base = made["encoder"]
    with pytest.raises(SampleError):
        task.question(base.tokenizer, asked)


def test_a_decoder_continues_texts_and_refuses_conversations(made):
    task, base = made["decoder"]
    prompt = task.prompt(base.tokenizer, "The mill")
    assert prompt[0] == base.tokenizer.eos_token_id
    assert task.text(base.tokenizer, prompt) == "The mill"
    with pytest.raises(SampleError, match="/v1/completions"):
        task.prompt(base.tokenizer, [{"role": "user", "content": "x"}])
    with pytest.raises(SampleError, match="vocabulary"):
        task.prompt(base.tokenizer, [100_000])


def test_of_much_text_a_sample_is_counted(made, monkeypatch):
    task, base = made["encoder"]
    tokenizer, documents = base.tokenizer, plain_text.examples()
    counted = task.lengths(tokenizer, documents)
    assert counted == [len(task.tokens(tokenizer, each.target)) + 1 for each in documents]

    monkeypatch.setattr(pretraining, "COUNTED", 2000)
    estimated = task.lengths(tokenizer, documents)
    assert estimated != counted
    assert sum(estimated) == pytest.approx(sum(counted), rel=0.1)


def test_a_document_needs_words(made):
    task, base = made["encoder"]
    with pytest.raises(SampleError, match="needs words"):
        task.check(base.tokenizer, Example(task="retrieval", input={}, target=" \n"))
