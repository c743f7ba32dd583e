"""Tasks of other kinds through a session: a label for each word, the words that are missing, a model of one's own."""

from dataclasses import dataclass, replace

import pytest
import tiny_encoder
import torch
from test_toy_task import begin
from transformers import BertForMaskedLM

from lorad.models import heads, peft_io, scoring
from lorad.records import Example
from lorad.tasks import Task


@dataclass(frozen=True, slots=True)
class Places:
    """Tokens, and what is predicted where."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    targets: tuple[str | int, ...]

    def __len__(self):
        return len(self.tokens)

    @property
    def weight(self):
        return len(self.places)


VERB = 2
"""The token that is left blank."""


class Words(Task):
    """A label for each word."""

    name = "words"
    formats = "tagging"
    head = heads.TOKEN
    row = Places

    def encode(self, tokenizer, example):
        tokens = tokenizer(example.input)["input_ids"]
        places = range(1, len(tokens) - 1)
        labels = ["O"] * len(places)
        for start, _, label in example.target:
            labels[example.input[:start].count(" ")] = label
        return Places(tuple(tokens), tuple(places), tuple(labels))

    def labels(self, rows):
        return sorted({label for row in rows for label in row.targets})

    def target(self, model, target):
        return model.config.label2id.get(target, scoring.UNKNOWN)

    def forward(self, model, rows, guests=()):
        del guests
        logits = [model(input_ids=torch.tensor([row.tokens])).logits[0, list(row.places)] for row in rows]
        owners = [number for number, row in enumerate(rows) for _ in row.places]
        return scoring.Outputs(
            logits=torch.cat(logits),
            targets=torch.tensor([self.target(model, target) for row in rows for target in row.targets]),
            owners=torch.tensor(owners),
            rows=len(rows),
        )


class Blanks(Words):
    """The words that are missing, which are tokens of the base's own vocabulary."""

    name = "blanks"
    head = heads.MASKED

    def encode(self, tokenizer, example):
        tokens = tokenizer(example.input)["input_ids"]
        blank = (*tokens[:VERB], tokenizer.unk_token_id, *tokens[VERB + 1 :])
        return Places(blank, (VERB,), (tokens[VERB],))

    def labels(self, rows):
        del rows
        return ()

    def target(self, model, target):
        del model
        return target


def spans(label, dataset, verb="took"):
    """Return sentences in which a thing is marked."""
    return [
        Example(
            task="tagging",
            input=f"she {verb} the {word}",
            target=[[9 + len(verb), 9 + len(verb) + len(word), label]],
            dataset=dataset,
        )
        for word in tiny_encoder.WORDS[label]
    ]


def learn(base, folder, name, new, old=(), parent=None):
    run = begin(base, folder, new, old, parent)
    session = type(run)(run.folder, replace(run.spec, task=f"test_other_heads:{name}"))
    session.run()
    return session.folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Store an encoder with the head that fills blanks."""
    folder = tmp_path_factory.mktemp("heads")
    return tiny_encoder.store(folder / "source", folder / "encoder", BertForMaskedLM)


def test_each_word_gets_a_label_and_the_next_session_adds_one(base, tmp_path):
    old, new = spans("fruit", "fruit"), spans("bird", "birds")
    first = learn(base, tmp_path / "1", "Words", old)
    second = learn(base, tmp_path / "2", "Words", new, old, first.candidate)

    for run in (first, second):
        assert run.result().verdict.promote, run.result().verdict.reasons
    assert all(score.recall == 1.0 for score in second.result().evaluation.scores.values())


def test_missing_words_are_learned_by_the_bases_own_head(base, tmp_path):
    known = [*spans("fruit", "verbs"), *spans("bird", "verbs", verb="saw")]

    run = learn(base, tmp_path, "Blanks", known)

    assert run.result().verdict.promote, run.result().verdict.reasons
    assert not peft_io.read_adapter(run.candidate).head
