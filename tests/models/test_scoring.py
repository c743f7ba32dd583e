"""Packing must change nothing but the time."""

import copy
import math

import pytest
import tiny
import torch

from lorad.evaluation import metrics
from lorad.models import packing, scoring, soft_targets
from lorad.records import Encoded
from lorad.tasks import find


@pytest.fixture(scope="module")
def made():
    tokenizer = tiny.tokenizer()
    return tiny.model(len(tokenizer)), tokenizer


def encoded(tokenizer, count=6):
    return [find("chat").encode(tokenizer, example) for example in tiny.facts(count)]


def one_by_one(model, row):
    """The plain way: the whole row alone, no packing."""
    logits = model(input_ids=torch.tensor([row.tokens])).logits[0]
    return logits[row.start - 1 : -1]


def test_packed_logits_are_those_of_each_row_alone(made):
    model, tokenizer = made
    rows = encoded(tokenizer)

    packed = packing.pack(rows)
    together = scoring.answer_logits(model, packed)

    alone = torch.cat([one_by_one(model, row) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)
    assert packed.targets.tolist() == [token for row in rows for token in row.target]


def test_packed_gradients_are_those_of_each_row_alone(made):
    model, tokenizer = made
    rows = encoded(tokenizer)
    weight = model.model.layers[0].mlp.up_proj.weight

    packed = packing.pack(rows)
    scoring.loss_sum(scoring.answer_logits(model, packed), packed.targets).backward()
    together, weight.grad = weight.grad.clone(), None
    for row in rows:
        torch.nn.functional.cross_entropy(
            one_by_one(model, row), torch.tensor(row.target), reduction="sum"
        ).backward()
    alone, weight.grad = weight.grad.clone(), None

    assert torch.allclose(together, alone, atol=1e-4)


def test_the_common_prefix_is_computed_once_and_answers_never_are_part_of_it():
    rows = [Encoded((1, 2, 3, 4, 5, 6), 3), Encoded((1, 2, 3, 4, 5, 7), 3)]

    packed = packing.pack(rows)

    assert packed.tokens.tolist() == [[1, 2, 3, 4, 5, 3, 4, 5]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert packed.targets.tolist() == [4, 5, 6, 4, 5, 7]


def test_rows_without_anything_in_common_and_a_single_row_are_packed_too(made):
    model, _ = made
    for rows in ([Encoded((5, 6, 7), 1), Encoded((8, 9, 10, 11), 2)], [Encoded((5, 6, 7), 1)]):
        packed = packing.pack(rows)

        alone = torch.cat([one_by_one(model, row) for row in rows])
        assert torch.allclose(scoring.answer_logits(model, packed), alone, atol=1e-5)


def what_it_says(model, tokenizer):
    """Return a row whose answer is what the model says by itself."""
    question = encoded(tokenizer, 1)[0]
    prompt = list(question.tokens[: question.start])
    asked = torch.tensor([prompt])
    greedy = model.generate(asked, max_new_tokens=4, do_sample=False, pad_token_id=1)[0].tolist()
    return Encoded(tuple(greedy), len(prompt))


def test_a_row_is_right_only_when_every_answer_token_is_the_most_likely(made):
    model, tokenizer = made
    said = what_it_says(model, tokenizer)
    spoiled = [*said.tokens[:-1], (said.tokens[-1] + 1) % 300]

    right = metrics.recalled(find("chat"), model, [said, Encoded(tuple(spoiled), said.start)])

    assert right == [True, False]


def test_a_margin_is_that_of_the_least_sure_token_and_negative_of_what_is_wrong(monkeypatch):
    monkeypatch.setattr(scoring, "TOGETHER", 3)  # some predictions after the other
    outputs = scoring.Outputs(
        logits=torch.tensor([[5.0, 1.0, 0.0], [2.0, 0.0, 1.5], [1.0, 4.0, 0.0], [3.0, 3.0, 0.0]]),
        targets=torch.tensor([0, 0, 0, 0]),
        owners=torch.tensor([0, 0, 1, 2]),
        rows=3,
    )

    assert scoring.margins(outputs) == [0.5, -3.0, 0.0]


def test_margins_say_which_rows_are_recalled_equal_logits_too(made):
    model, tokenizer = made
    rows = [*encoded(tokenizer), what_it_says(model, tokenizer)]

    margins = metrics.margins(find("chat"), model, rows)

    assert [margin > 0 for margin in margins] == metrics.recalled(find("chat"), model, rows)
    assert margins[-1] > 0
    flat = copy.deepcopy(model)
    torch.nn.init.zeros_(flat.lm_head.weight)  # every class as likely: greedy decoding takes the first
    first = Encoded((5, 6, 0, 0), 2)
    assert metrics.margins(find("chat"), flat, [first, rows[0]]) == [metrics.TIE, -metrics.TIE]


@pytest.mark.parametrize("most_tokens", [1, 30, 60, 10_000])
def test_dividing_keeps_every_row_once_and_respects_the_limit(made, most_tokens):
    rows = encoded(made[1])

    groups = list(packing.divide(rows, most_tokens))

    assert sorted(number for group in groups for number in group) == list(range(len(rows)))
    assert all(len(group) == 1 or sum(len(rows[n]) for n in group) <= most_tokens for group in groups)


def test_the_limit_does_not_change_what_is_recalled(made):
    model, tokenizer = made
    rows = encoded(tokenizer)

    assert metrics.recalled(find("chat"), model, rows, 1) == metrics.recalled(
        find("chat"), model, rows, 10_000
    )


def test_listening_keeps_the_likeliest_tokens_from_the_start_on(made):
    model, tokenizer = made
    rows = [Encoded(row.tokens, 3) for row in encoded(tokenizer, 3)]

    voices = soft_targets.record_soft_targets(model, rows, likeliest=8)

    exact = torch.softmax(model(input_ids=torch.tensor([rows[0].tokens])).logits[0, 2:-1], -1)
    top = exact.topk(8)
    assert voices[0].row == rows[0]
    assert torch.equal(voices[0].likeliest, top.indices)
    assert torch.allclose(voices[0].probabilities, top.values, atol=1e-5)
    assert soft_targets.record_soft_targets(model, []) == []


def test_guests_see_only_themselves(made):
    model, tokenizer = made
    rows = encoded(tokenizer, 3)
    guest = Encoded((5, 6, 7, 8, 9), 1)

    together = scoring.answer_logits(model, packing.pack(rows, [guest]))

    own = len(guest.target)
    assert torch.allclose(together[:-own], scoring.answer_logits(model, packing.pack(rows)), atol=1e-5)
    alone = model(input_ids=torch.tensor([guest.tokens])).logits[0, :-1]
    assert torch.allclose(together[-own:], alone, atol=1e-5)
    assert torch.allclose(scoring.answer_logits(model, packing.pack([], [guest])), alone, atol=1e-5)


def test_an_answer_weighs_the_same_in_any_company(made):
    model, tokenizer = made
    rows = encoded(tokenizer)

    weighed = {
        number: (right, likely) for number, right, likely in scoring.score(model, rows, most_tokens=60)
    }

    for number, row in enumerate(rows):
        alone = one_by_one(model, row).detach().log_softmax(-1)
        likely = alone[range(len(row.target)), list(row.target)].sum()
        assert weighed[number][1] == pytest.approx(float(likely), abs=1e-4)
    assert [weighed[number][0] for number in range(len(rows))] == metrics.recalled(find("chat"), model, rows)


def test_echoing_costs_least_where_the_model_still_speaks_like_the_voice(made):
    model, tokenizer = made
    voices = soft_targets.record_soft_targets(model, encoded(tokenizer, 3))
    packed = packing.pack([voice.row for voice in voices])
    logits = scoring.answer_logits(model, packed)

    same = soft_targets.distillation_loss_sum(logits, voices)
    changed = soft_targets.distillation_loss_sum(logits + torch.randn_like(logits), voices)

    entropy = -sum((v.probabilities * v.probabilities.log()).sum() for v in voices)
    assert same < changed
    assert same >= entropy - 1e-3


@pytest.mark.parametrize(("rows", "least", "most"), [(3, 1.0, 1.3), (3000, 1.95, 2.05)])
def test_a_prior_holds_a_temperature_near_1_until_rows_say_otherwise(rows, least, most):
    found = scoring.fit_temperature(lambda t: rows * (math.log(t) - math.log(2)) ** 2, spread=0.25)

    assert least < found < most


@pytest.mark.parametrize("count", [0, 1, 4, 11])
def test_the_loss_is_the_cross_entropy_however_many_predictions_there_are(monkeypatch, count):
    monkeypatch.setattr(scoring, "TOGETHER", 4 * 11)
    torch.manual_seed(count)
    logits = (4 * torch.randn(count, 11)).requires_grad_()
    targets = torch.randint(11, (count,))

    loss = scoring.loss_sum(logits, targets)
    (gradient,) = torch.autograd.grad(3 * loss, logits)

    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (of_expected,) = torch.autograd.grad(3 * expected, logits)
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(gradient, of_expected, atol=1e-5)


def test_in_half_precision_the_loss_is_computed_in_single():
    torch.manual_seed(0)
    logits = (4 * torch.randn(40, 500)).bfloat16().requires_grad_()
    targets = torch.randint(500, (40,))

    loss = scoring.loss_sum(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)

    single = logits.detach().float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(single, targets, reduction="sum")
    (of_expected,) = torch.autograd.grad(expected, single)
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(gradient.float(), of_expected, atol=4e-3)
