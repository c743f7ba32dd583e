"""General conversation: said once by the pristine base, stored, half to train and half to measure."""

from dataclasses import replace

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorad.evaluation import general_ability
from lorad.models import bases, soft_targets
from lorad.tasks import find
from lorad.training import distillation

CHAT = find("chat")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Let the tiny model speak once."""
    tokenizer = tiny.tokenizer()
    model = tiny.model(len(tokenizer))
    path = tmp_path_factory.mktemp("general") / "tiny.chat.general.safetensors"
    torch.manual_seed(1)
    return model, path, distillation.make(path, model, tokenizer, CHAT, "abc")


def same(one, other):
    return (
        [v.row for v in one.trained] == [v.row for v in other.trained]
        and one.measured == other.measured
        and all(
            torch.equal(a.likeliest, b.likeliest) and torch.equal(a.probabilities, b.probabilities)
            for a, b in zip(one.trained, other.trained, strict=True)
        )
    )


def test_what_was_said_is_read_back_as_it_was(spoken):
    _, path, made = spoken

    found = distillation.read(path, "abc", CHAT)

    assert found is not None
    assert same(found, made)
    assert found.perplexity == general_ability.perplexity(spoken[0], tiny.tokenizer())


def test_it_says_how_far_it_is(tmp_path):
    tokenizer = tiny.tokenizer()
    told = []

    made = distillation.make(
        tmp_path / "x.safetensors",
        tiny.model(len(tokenizer)),
        tokenizer,
        CHAT,
        "abc",
        lambda *numbers: told.append(numbers),
    )

    (total,) = {total for _, total in told}
    assert told[0] == (0, total)
    assert sorted(set(told)) == told
    assert 0 < total - told[-1][0] <= distillation.TOGETHER
    assert total == len(distillation.prompts()) + len(distillation.openings()) // 2 + len(made.trained)


def test_voices_hold_the_base_to_its_own_distribution(spoken):
    model, _, made = spoken

    for voice in made.trained[::80]:
        (again,) = soft_targets.record_soft_targets(model, [voice.row])
        assert torch.equal(voice.likeliest, again.likeliest)
        assert torch.allclose(voice.probabilities, again.probabilities, atol=1e-6)


def test_nothing_that_is_measured_is_trained(spoken):
    _, _, made = spoken

    begins = {voice.row.tokens[:40] for voice in made.trained}

    assert made.measured
    assert not begins & {row.tokens[:40] for row in made.measured}


def test_plain_text_alone_is_trained_and_conversation_is_measured_too(spoken):
    _, _, made = spoken
    head = tuple(CHAT.prompt(tiny.tokenizer(), [{"role": "user", "content": "x"}])[:2])

    assert len(made.trained) == len(distillation.openings()) // 2 * distillation.CONTINUATIONS
    assert not any(voice.row.tokens[:2] == head for voice in made.trained)
    assert {True, False} == {row.tokens[:2] == head for row in made.measured}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b"no tensors"),
    ],
)
def test_a_file_that_is_gone_or_damaged_is_made_anew(spoken, tmp_path, change):
    path = tmp_path / "copy.safetensors"
    path.write_bytes(spoken[1].read_bytes())
    change(path)

    assert distillation.read(path, "abc", CHAT) is None


def test_another_base_has_other_words(spoken):
    assert distillation.read(spoken[1], "another", CHAT) is None


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Store the tiny model as a base."""
    folder = tmp_path_factory.mktemp("stored")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    return bases.load_base(folder / "tiny", torch.float32)


@pytest.fixture(scope="module")
def said(stored):
    """Let it speak."""
    return distillation.speak(stored.model, stored.tokenizer, CHAT)


def test_the_same_seed_says_the_same_whatever_was_drawn_before(stored, said):
    torch.manual_seed(99)

    assert distillation.speak(stored.model, stored.tokenizer, CHAT) == said


def test_texts_that_come_with_lorad_are_taken_for_their_own_weights_alone(stored, said, tmp_path):
    rows = said
    weights = bases.weights_digest(stored.folder)
    (tmp_path / "other.safetensors").write_bytes(distillation.pack_ready(rows, "of other weights"))
    assert distillation.shipped(stored.folder, stored.tokenizer, CHAT, tmp_path) is None

    (tmp_path / "tiny.safetensors").write_bytes(distillation.pack_ready(rows, weights))
    found = distillation.shipped(stored.folder, stored.tokenizer, CHAT, tmp_path)

    assert found == rows
    made = distillation.make(
        tmp_path / "made", stored.model, stored.tokenizer, CHAT, stored.computes, ready=found
    )
    assert [voice.row for voice in made.trained] == rows[-len(made.trained) :]


def test_texts_that_a_tokenizer_would_write_otherwise_are_not_taken(stored, said, tmp_path):
    rows = said
    changed = [replace(rows[0], tokens=(7, *rows[0].tokens[1:])), *rows[1:]]
    weights = bases.weights_digest(stored.folder)

    (tmp_path / "tiny.safetensors").write_bytes(distillation.pack_ready(changed, weights))

    assert distillation.shipped(stored.folder, stored.tokenizer, CHAT, tmp_path) is None


def test_they_are_made_once_and_lie_beside_the_base(stored):
    told = []

    first = distillation.ensure(stored, CHAT, lambda *numbers: told.append(numbers))
    spoken_at_first = len(told)
    again = distillation.ensure(stored, CHAT, lambda *numbers: told.append(numbers))

    assert same(first, again)
    assert len(told) == spoken_at_first > 0
    assert stored.folder.with_name("tiny.chat.general.safetensors").is_file()


def test_a_file_without_the_perplexity_gets_it_and_nothing_is_said_again(stored):
    path = stored.folder.with_name("tiny.chat.general.safetensors")
    made = distillation.ensure(stored, CHAT)
    with safe_open(path, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys() if name != "perplexity"}  # noqa: SIM118 - not a mapping
        metadata = handle.metadata()
    save_file(tensors, path, metadata | {"form": distillation.FORM})
    told = []

    again = distillation.ensure(stored, CHAT, lambda *numbers: told.append(numbers))

    assert not told
    assert same(again, made)
    assert again.perplexity == made.perplexity > 0
    assert distillation.stored(stored, CHAT).perplexity == made.perplexity


def test_openings_and_prompts_are_all_different():
    texts = [*distillation.prompts(), *distillation.openings()]

    assert len(set(texts)) == len(texts) == 80
    assert all(text.strip() for text in texts)
