"""What of some documents is trained, what is only measured, and what an epoch takes."""

import plain_text
import pytest

from lorad.models import bases
from lorad.tasks import find
from lorad.training import corpus
from lorad.training.corpus import Corpus

TASK = find("masked_language_modeling")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return bases.load_tokenizer(plain_text.store(tmp_path_factory.mktemp("base") / "made"))


def read(tokenizer, new, old=(), length=32, share=0.2):
    return corpus.read(TASK, tokenizer, new, old, length=length, validation_share=share)


def tokens(blocks):
    return [token for block in blocks for token in block[1:]]


def test_whole_documents_are_held_out_and_no_token_is_lost(tokenizer):
    examples = plain_text.examples()
    found = read(tokenizer, examples)["places"]

    assert 0 < len(found.apart) < len(examples) / 2
    held = [each for each in examples if each.id in found.apart]
    lengths = {each.id: len(TASK.tokens(tokenizer, each.target)) + 1 for each in examples}
    ends = 1  # which may be all of a last sequence, and is dropped then
    assert 0 <= sum(lengths[each.id] for each in held) - len(tokens(found.held_out)) <= ends
    both = len(tokens(found.new)) + len(tokens(found.held_out))
    assert 0 <= sum(lengths.values()) - both <= 2 * ends
    assert all(len(block) == 32 for block in found.new[:-1])


def test_a_document_is_held_out_in_every_session(tokenizer):
    examples = plain_text.examples()
    assert read(tokenizer, examples)["places"].apart == read(tokenizer, [], examples)["places"].apart


def test_of_one_document_sequences_are_held_out(tokenizer):
    (whole,) = plain_text.examples(count=1)
    long = [whole.__class__(task="retrieval", input={"title": "x"}, target=whole.target * 20, dataset="one")]
    found = read(tokenizer, long)["one"]
    assert not found.apart
    assert found.held_out
    assert not set(found.held_out) & set(found.new)


def test_an_epoch_has_all_of_the_new_text_and_as_much_of_the_old(tokenizer):
    new, old = plain_text.examples(plain_text.SHIPS, "ships", 20), plain_text.examples(count=60)
    found = read(tokenizer, new, old)
    both = Corpus(found, 0.5, seed=1)

    first, second = both.epoch(1), both.epoch(2)
    known = set(found["places"].old)
    assert len(first) == both.size
    assert set(found["ships"].new) <= set(first)
    assert sum(block in known for block in first) == len(found["ships"].new)
    assert first == both.epoch(1)
    assert set(first) & known != set(second) & known
