"""Continuous batching: answers that share steps are those that each gets alone, and nobody's trouble is another's."""

import random

import pytest
import torch
from sinks import Sink
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from lorad.errors import ProtocolError
from lorad.serving.backends.builtin.fitness import fitness
from lorad.serving.backends.builtin.group import Group, Limits
from lorad.serving.backends.builtin.row_cache import RowCache
from lorad.serving.backends.builtin.solo import Solo
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.progress import SHORTEST_PREFIX
from lorad.serving.guiding import GuidedSampling
from lorad.serving.requests import Sampling

VOCABULARY = 61


def a_model(seed=0):
    """Return a random Llama whose greedy answers depend on the whole prompt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    return a_model()


def wanted(prompt, most, sampling=None):
    return Generation(
        name="it",
        prompt=prompt,
        sampling=sampling or Sampling(),
        ends=frozenset({VOCABULARY}),
        sink=Sink(most),
    )


def group(model, rows=8, prompt_tokens=16, max_bytes=10**9):
    made = Group(
        model, Limits(rows=rows, prompt_tokens=prompt_tokens, max_bytes=max_bytes), lambda: made.bytes
    )
    return made


def run(answers):
    while not answers.is_idle:
        answers.step()


def alone(model, asked):
    """Return what transformers generates for a prompt by itself."""
    ids = torch.tensor([asked.prompt])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=asked.sink.most,
        do_sample=False,
        pad_token_id=0,
    )
    return made[0, len(asked.prompt) :].tolist()


def prompts(count, seed=1, longest=60):
    numbers = random.Random(seed)
    return [[numbers.randrange(VOCABULARY) for _ in range(numbers.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize(("rows", "prompt_tokens"), [(8, 16), (3, 7), (1, 500), (16, 1)])
def test_answers_that_come_and_go_are_those_that_each_gets_alone(model, rows, prompt_tokens):
    numbers = random.Random(rows)
    asked = [wanted(prompt, numbers.randint(1, 40)) for prompt in prompts(30)]
    answers = group(model, rows, prompt_tokens)

    most = 0
    for each in asked:
        answers.submit(each)
        for _ in range(numbers.randint(0, 6)):
            answers.step()
            most = max(most, answers.active)
    run(answers)

    assert [each.sink.tokens for each in asked] == [alone(model, each) for each in asked]
    assert [each.sink.ended for each in asked] == [1] * len(asked)
    assert most > 1 or rows == 1
    assert most <= rows + 1  # and the prompt that is being read


def test_a_long_prompt_does_not_stop_the_others(model):
    answers = group(model, prompt_tokens=10)
    first = wanted([1, 2, 3], 100)
    answers.submit(first)
    answers.step()
    long = wanted(prompts(1, longest=200)[0] * 3, 5)
    answers.submit(long)

    before = len(first.sink.tokens)
    steps = 0
    while not long.sink.tokens:
        answers.step()
        steps += 1

    assert steps == -(-len(long.prompt) // 10)
    assert len(first.sink.tokens) - before >= steps - 1


def test_a_seed_gives_the_same_answer_whatever_else_runs(model):
    sampling = Sampling(temperature=1.5, seed=11)
    single = wanted([5, 6, 7], 25, sampling)
    answers = group(model)
    answers.submit(single)
    run(answers)

    among = wanted([5, 6, 7], 25, sampling)
    answers = group(model)
    others = [
        wanted(prompt, 30, Sampling(temperature=1.0, seed=number)) for number, prompt in enumerate(prompts(6))
    ]
    for each in (*others[:3], among, *others[3:]):
        answers.submit(each)
        answers.step()
    run(answers)

    assert among.sink.tokens == single.sink.tokens
    assert len({tuple(each.sink.tokens) for each in others}) == len(others)


class Rising:
    """A grammar whose answers only rise, and which gives up above a token."""

    def __init__(self, most=VOCABULARY):
        self.most = most

    def start(self):
        return RisingGuide(self.most)


class RisingGuide:
    def __init__(self, most):
        self.most, self.last = most, -1

    def allow(self, logits):
        if self.last >= self.most:
            raise ProtocolError("it cannot be followed", code="bad_schema")
        return logits.masked_fill(torch.arange(VOCABULARY) <= self.last, -torch.inf)

    def take(self, token):
        assert token > self.last
        self.last = token


def test_an_answer_with_a_grammar_follows_it_among_others(model):
    rising = [wanted([1, 2, 3], 4, GuidedSampling(grammar=Rising())) for _ in range(2)]
    broken = wanted([1, 2, 3], 40, GuidedSampling(grammar=Rising(most=2)))
    free = wanted([1, 2, 3], 12)
    answers = group(model)
    for each in (*rising, free, broken):
        answers.submit(each)
    run(answers)

    assert free.sink.tokens == alone(model, free)
    assert rising[0].sink.tokens == rising[1].sink.tokens == sorted(set(rising[0].sink.tokens))
    assert rising[0].sink.tokens != free.sink.tokens[:4]
    assert broken.sink.error.code == "bad_schema"
    assert broken.sink.ended == 1


def test_a_model_that_answers_one_at_a_time_follows_a_grammar_too(model):
    together, solo = (wanted([1, 2, 3], 4, GuidedSampling(grammar=Rising())) for _ in range(2))
    for answers, asked in ((group(model), together), (Solo(model), solo)):
        answers.submit(asked)
        run(answers)
    assert solo.sink.tokens == together.sink.tokens


def test_who_leaves_ends_between_two_steps_and_the_others_do_not_notice(model):
    asked = [wanted(prompt, 30) for prompt in prompts(6, seed=4)]
    answers = group(model)
    for each in asked:
        answers.submit(each)
    while not asked[3].sink.tokens:
        answers.step()

    asked[0].sink.is_wanted = asked[3].sink.is_wanted = False
    had = [len(asked[number].sink.tokens) for number in (0, 3)]
    run(answers)

    assert [len(asked[number].sink.tokens) for number in (0, 3)] == had
    assert [each.sink.ended for each in asked] == [1] * 6
    for number in (1, 2, 4, 5):
        assert asked[number].sink.tokens == alone(model, asked[number])


def test_an_answer_that_cannot_be_handed_on_ends_alone(model):
    asked = [wanted(prompt, 20) for prompt in prompts(4, seed=5)]
    broken = asked[1].sink

    def put(tokens, _logprobs):
        broken.tokens += tokens
        if len(broken.tokens) == 5:
            raise ValueError("no text")
        return True

    broken.put = put
    answers = group(model)
    for each in asked:
        answers.submit(each)
    run(answers)

    assert isinstance(broken.error, ValueError)
    for number in (0, 2, 3):
        assert asked[number].sink.tokens == alone(model, asked[number])


class Panic(BaseException):
    """What Rust raises where it should not."""


def test_a_panic_ends_its_answer_alone_and_nobody_waits_for_ever(model):
    asked = [wanted(prompt, 20) for prompt in prompts(3, seed=5)]

    def put(*_):
        raise Panic

    asked[1].sink.put = put
    answers = group(model)
    for each in asked:
        answers.submit(each)
    run(answers)

    assert isinstance(asked[1].sink.error, Panic)
    assert [each.sink.ended for each in asked] == [1, 1, 1]
    assert asked[2].sink.tokens == alone(model, asked[2])


def test_what_goes_wrong_behind_a_prompt_ends_that_answer(model, monkeypatch):
    first, second = (wanted(prompt, 5) for prompt in prompts(2, seed=7))
    answers = group(model)

    def short(row):
        if row.generation is first:
            raise MemoryError

    monkeypatch.setattr(answers, "_keep_prefix", short)
    for each in (first, second):
        answers.submit(each)
    run(answers)

    assert isinstance(first.sink.error, MemoryError)
    assert second.sink.tokens == alone(model, second)


def test_a_prompt_that_the_model_cannot_read_is_refused(model):
    answers = group(model)

    for prompt in ([1, VOCABULARY], [-1], []):
        with pytest.raises(ProtocolError, match="does not have"):
            answers.submit(wanted(prompt, 3))


def test_a_step_that_fails_ends_its_answers_and_the_next_ones_are_given(model, monkeypatch):
    asked = [wanted(prompt, 20) for prompt in prompts(3, seed=6)]
    answers = group(model)
    for each in asked:
        answers.submit(each)
    while not asked[-1].sink.tokens:
        answers.step()
    with monkeypatch.context() as patched:
        patched.setattr(model.model.layers[1], "forward", None)
        answers.step()

    assert [each.sink.error is not None for each in asked] == [True] * 3
    after = wanted([3, 1, 4], 10)
    answers.submit(after)
    run(answers)
    assert after.sink.tokens == alone(model, after)


def test_what_is_not_a_number_in_one_row_stays_there(model):
    # Given a long answer whose values are no numbers any more, which leaves its place to a short one before a long one comes
    lengths, most = (5, 4, 6, 40, 7, 42), (60, 60, 60, 4, 30, 5)
    texts = [text * 50 for text in prompts(6, seed=9)]
    asked = [wanted(text[:size], count) for text, size, count in zip(texts, lengths, most, strict=True)]
    answers = group(model, prompt_tokens=500)
    for each in asked[:4]:
        answers.submit(each)
    answers.step()
    with torch.inference_mode():
        for layer in answers._cache.cache.layers:
            layer.values[3] = torch.nan
    while not asked[3].sink.ended:
        answers.step()
    for each in asked[4:]:
        answers.submit(each)
        answers.step()
    run(answers)

    for each in (*asked[:3], *asked[4:]):
        assert each.sink.tokens == alone(model, each)


def test_memory_is_bounded_and_nobody_fails_for_it(model):
    asked = [wanted(prompt, 120) for prompt in prompts(12, seed=7, longest=20)]
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
    limit = 400 * per_token
    answers = group(model, rows=12, max_bytes=limit)

    highest = most = 0
    for each in asked:
        answers.submit(each)
    while not answers.is_idle:
        answers.step()
        highest, most = max(highest, answers.bytes), max(most, answers.active)

    assert [each.sink.tokens for each in asked] == [alone(model, each) for each in asked]
    assert 1 < most < 12
    assert limit < highest < 2 * limit  # a step may go over it, and is then undone
    assert answers._cache.bytes == 0


def passes(model, monkeypatch, fails=lambda _: False, told=lambda tokens: tuple(tokens.shape)):
    """Return a list that grows by what is ``told`` of each call, its rows and tokens of a row; one that ``fails`` says so fails."""
    read = []
    forward = model.model.forward

    def reading(input_ids, **given):
        read.append(told(input_ids))
        if fails(input_ids):
            raise ValueError("no such thing")
        return forward(input_ids=input_ids, **given)

    monkeypatch.setattr(model.model, "forward", reading)
    return read


def counted(model, monkeypatch):
    """Return a list that grows by how many tokens of a row each call reads."""
    return passes(model, monkeypatch, told=lambda tokens: tokens.shape[1])


def test_a_prompt_that_begins_like_the_one_before_is_not_read_again(model, monkeypatch):
    read = counted(model, monkeypatch)
    opening = (prompts(1, seed=8)[0] * SHORTEST_PREFIX)[: SHORTEST_PREFIX + 3]
    first, second = wanted([*opening, 1, 2], 3), wanted([*opening, 3, 4, 5], 3)
    answers = group(model, prompt_tokens=500)
    for each in (first, second):
        answers.submit(each)
        run(answers)

    monkeypatch.undo()
    assert read[0] == len(opening) + 2
    assert 3 in read  # all that the second one adds
    assert sum(read) < 2 * len(opening)
    assert [each.sink.tokens for each in (first, second)] == [alone(model, each) for each in (first, second)]


def test_a_short_prompt_is_always_read_whole(model, monkeypatch):
    read = counted(model, monkeypatch)
    answers = group(model, prompt_tokens=500)
    for _ in range(2):
        answers.submit(wanted([1, 2, 3] * 10, 1))
        run(answers)
    assert read == [30, 30]


def test_short_prompts_that_wait_are_read_in_one_pass(model, monkeypatch):
    read = passes(model, monkeypatch)
    asked = [wanted(prompt, 2) for prompt in ([1, 2], [3], [4, 5, 6], [7, 8], [9] * 40)]
    answers = group(model, prompt_tokens=100)
    for each in asked:
        answers.submit(each)
    run(answers)

    # the first tells what a token takes; three are filled up to one length; the last would fill up too much
    assert read[:3] == [(1, 2), (3, 3), (1, 36)]
    monkeypatch.undo()
    assert [each.sink.tokens for each in asked] == [alone(model, each) for each in asked]


def test_prompts_that_begin_alike_are_read_together_behind_what_they_have_in_common(model, monkeypatch):
    read = passes(model, monkeypatch)
    opening = (prompts(1, seed=8)[0] * SHORTEST_PREFIX)[: SHORTEST_PREFIX + 3]
    asked = [wanted([*opening, *end], 3) for end in ([1], [2, 3], [4], [5, 6, 7])]
    answers = group(model, prompt_tokens=500)
    for each in asked:
        answers.submit(each)
    run(answers)

    assert read[:2] == [(1, len(opening) + 1), (3, 3)]
    monkeypatch.undo()
    assert [each.sink.tokens for each in asked] == [alone(model, each) for each in asked]


def test_prompts_that_were_read_together_are_answered_where_one_finds_no_room_among_the_rows(
    model, monkeypatch
):
    answers = group(model, prompt_tokens=64)
    first = wanted([1, 2, 3], 30)
    answers.submit(first)
    answers.step()
    short = iter([True])
    join = RowCache.join

    def crowded(rows, prompt):
        if next(short, False):
            raise torch.OutOfMemoryError
        join(rows, prompt)

    monkeypatch.setattr(RowCache, "join", crowded)
    asked = [wanted(prompt, 5) for prompt in prompts(3, longest=8)]
    for each in asked:
        answers.submit(each)
    run(answers)

    every = [first, *asked]
    assert [each.sink.ended for each in every] == [1] * len(every)
    assert [each.sink.tokens for each in every] == [alone(model, each) for each in every]


def test_one_that_cannot_be_read_costs_those_nothing_that_were_read_with_it(model, monkeypatch):
    read = passes(model, monkeypatch, lambda tokens: tokens.tolist()[-1] == [59, 60])
    asked = [wanted(prompt, 4) for prompt in ([1, 2], [3, 4], [5, 6], [59, 60])]
    answers = group(model, prompt_tokens=100)
    for each in asked:
        answers.submit(each)
    run(answers)

    assert read[:5] == [(1, 2), (3, 2), (1, 2), (1, 2), (1, 2)]
    assert [type(each.sink.error) for each in asked] == [type(None)] * 3 + [ValueError]
    monkeypatch.undo()
    for each in asked[:3]:
        assert each.sink.tokens == alone(model, each)


def test_a_model_that_cannot_batch_answers_one_at_a_time(model):
    asked = [wanted(prompt, 12) for prompt in prompts(3, seed=3)]
    sampled = wanted([5, 6, 7], 10, Sampling(temperature=1.5, seed=11, max_tokens=10))
    together = wanted([5, 6, 7], 10, Sampling(temperature=1.5, seed=11, max_tokens=10))
    answers = Solo(model)
    for each in (*asked, sampled):
        answers.submit(each)
    run(answers)
    batched = group(model)
    batched.submit(together)
    run(batched)

    assert [each.sink.tokens for each in asked] == [alone(model, each) for each in asked]
    assert sampled.sink.tokens == together.sink.tokens
    assert [each.sink.ended for each in (*asked, sampled)] == [1] * 4


SPREAD = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "initializer_range": 0.5,
    "eos_token_id": None,
}
WINDOW = {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 8}


@pytest.mark.parametrize(
    "make",
    [
        lambda: MistralForCausalLM(MistralConfig(**SPREAD, **WINDOW)),
        lambda: MambaForCausalLM(MambaConfig(**SPREAD)),
    ],
    ids=["sliding", "mamba"],
)
def test_one_at_a_time_is_what_transformers_generates_and_a_step_is_a_token(make):
    torch.manual_seed(1)
    made = make().eval()
    asked = [wanted(prompt, 12) for prompt in prompts(3, seed=3)]
    answers = Solo(made)
    for each in asked:
        answers.submit(each)

    assert answers.step() == 1
    assert (answers.active, [len(each.sink.tokens) for each in asked]) == (1, [1, 0, 0])
    run(answers)

    assert [each.sink.tokens for each in asked] == [alone(made, each) for each in asked]
    assert len({tuple(each.sink.tokens) for each in asked}) > 1
    assert [each.sink.ended for each in asked] == [1] * 3


def test_one_at_a_time_who_leaves_ends_between_two_tokens_and_the_next_one_begins(model):
    left, stays = wanted([1, 2, 3], 50), wanted([4, 5], 5)
    answers = Solo(model)
    for each in (left, stays):
        answers.submit(each)
    answers.step()

    left.sink.is_wanted = False
    run(answers)

    assert (len(left.sink.tokens), left.sink.ended) == (1, 1)
    assert stays.sink.tokens == alone(model, stays)
    assert answers.active == 0


def test_one_at_a_time_what_goes_wrong_ends_that_answer(model):
    broken, after = wanted([1, 2, 3], 5, GuidedSampling(grammar=Rising(most=0))), wanted([4, 5], 5)
    answers = Solo(model)
    for each in (broken, after):
        answers.submit(each)
    run(answers)

    assert broken.sink.error.code == "bad_schema"
    assert after.sink.tokens == alone(model, after)


# how likely tokens were


@pytest.mark.parametrize("answers_of", [group, Solo], ids=["group", "solo"])
def test_probabilities_are_the_models_own_whatever_is_chosen_from_them(model, answers_of):
    # Given answers that are greedy, hot, held to one token, and held to a grammar
    how = [
        Sampling(logprobs=3),
        Sampling(logprobs=3, temperature=2.0, seed=1),
        Sampling(logprobs=0, temperature=2.0, top_p=0.0),
        GuidedSampling(logprobs=3, grammar=Rising()),
    ]
    asked = [wanted([1, 2, 3], 4, sampling) for sampling in how]
    plain = wanted([1, 2, 3], 4)
    answers = answers_of(model)
    for each in (*asked, plain):
        answers.submit(each)
    run(answers)

    assert plain.sink.logprobs == []
    for each in asked:
        told, count = each.sink.logprobs, each.sampling.logprobs
        assert [one.token for one in told] == each.sink.tokens
        text = torch.tensor([[*each.prompt, *each.sink.tokens]])
        likely = model(text).logits[0, len(each.prompt) - 1 : -1].log_softmax(-1)
        for one, row in zip(told, likely, strict=True):
            values, tokens = row.topk(count)
            assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
            assert [token for token, _ in one.top] == tokens.tolist()
            assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)


# memory that is short


class Short:
    """A machine on which a pass of more rows, or of a longer piece of a prompt, does not fit."""

    def __init__(self, model, monkeypatch, rows, tokens=10**6, error=None):
        self.rows, self.tokens, self.failed = rows, tokens, 0
        error = error or RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        forward = model.model.forward

        def failing(input_ids, **given):
            if input_ids.shape[0] > self.rows or input_ids.shape[1] > self.tokens:
                self.failed += 1
                raise error
            return forward(input_ids=input_ids, **given)

        monkeypatch.setattr(model.model, "forward", failing)


def test_a_step_that_does_not_fit_is_taken_by_fewer_and_nobody_fails(model, monkeypatch):
    asked = [
        wanted(prompt, 20, Sampling(temperature=1.0, seed=5) if number % 2 else None)
        for number, prompt in enumerate(prompts(8, seed=11))
    ]
    free = [wanted(each.prompt, 20, each.sampling) for each in asked]
    plain = group(model)
    for each in free:
        plain.submit(each)
    run(plain)
    machine = Short(model, monkeypatch, rows=3)
    answers = group(model, prompt_tokens=500)
    for each in asked:
        answers.submit(each)

    most = 0
    while not answers.is_idle:
        answers.step()
        most = max(most, answers.active)

    assert machine.failed > 0
    assert [each.sink.error for each in asked] == [None] * 8
    assert [each.sink.tokens for each in asked] == [each.sink.tokens for each in free]
    assert [each.sink.ended for each in asked] == [1] * 8
    assert 1 < most <= 3


def test_who_was_there_first_goes_on_first_where_memory_is_short(model, monkeypatch):
    Short(model, monkeypatch, rows=2)
    asked = [wanted(prompt, 30) for prompt in prompts(4, seed=12, longest=5)]
    answers = group(model, prompt_tokens=500)
    for each in asked:
        answers.submit(each)
    while not asked[1].sink.ended:
        answers.step()

    assert asked[0].sink.ended == 1
    assert all(len(each.sink.tokens) <= 2 for each in asked[2:])  # the first had ended a step before


def test_more_answers_share_steps_again_when_memory_has_come_back(model, monkeypatch):
    machine = Short(model, monkeypatch, rows=1)
    answers = group(model, prompt_tokens=500)
    for prompt in prompts(4, seed=13):
        answers.submit(wanted(prompt, 3))
    run(answers)
    machine.rows = 100

    for prompt in prompts(40, seed=14):
        answers.submit(wanted(prompt, 10))
    most = 0
    while not answers.is_idle:
        answers.step()
        most = max(most, answers.active)

    assert most >= 8


def test_a_prompt_that_does_not_fit_beside_others_waits_until_one_has_left(model, monkeypatch):
    long, others = wanted([1, 2, 3] * 30, 5), [wanted(prompt, 9) for prompt in prompts(3, seed=16)]
    machine = Short(model, monkeypatch, rows=8, tokens=70)
    answers = group(model, prompt_tokens=500)
    for each in (*others, long):
        answers.submit(each)
    while not others[0].sink.ended:
        answers.step()
    machine.tokens = 10**6
    run(answers)

    assert machine.failed == 1
    assert [each.sink.error for each in (*others, long)] == [None] * 4
    monkeypatch.undo()
    for each in (*others, long):
        assert each.sink.tokens == alone(model, each)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["python", "torch"],
)
def test_one_that_does_not_fit_alone_ends_with_the_error_and_the_others_go_on(model, monkeypatch, error):
    long, others = wanted([1, 2, 3] * 30, 5), [wanted(prompt, 30) for prompt in prompts(2, seed=15)]
    Short(model, monkeypatch, rows=8, tokens=70, error=error)
    answers = group(model, prompt_tokens=500)
    for each in (others[0], long, others[1]):
        answers.submit(each)
    run(answers)

    assert long.sink.error is error
    assert long.sink.tokens == []
    monkeypatch.undo()
    for each in others:
        assert each.sink.tokens == alone(model, each)


SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("made", "batches"),
    [
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32)), True),
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2)), True),
        (lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=32)), True),
        (
            lambda: MistralForCausalLM(MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=1)),
            False,
        ),
        (
            lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)),
            False,
        ),
    ],
    ids=["llama", "gpt2", "opt", "sliding", "mamba"],
)
def test_whether_answers_share_steps_is_tried(made, batches):
    torch.manual_seed(1)
    model = made().eval()

    found = fitness(model)

    assert found.batches is batches, found
    assert found.because


def test_a_model_that_would_answer_otherwise_in_a_batch_is_found_out():
    # Given one that counts positions from the left end of the buffer
    torch.manual_seed(1)
    model = a_model()
    forward = model.model.forward

    def shifted(position_ids=None, past_key_values=None, **given):
        if position_ids is not None and position_ids.shape[0] > 1:
            position_ids = torch.full_like(position_ids, past_key_values.get_seq_length())
        return forward(position_ids=position_ids, past_key_values=past_key_values, **given)

    model.model.forward = shifted

    found = fitness(model)

    assert not found.batches
    assert "differ" in found.because
