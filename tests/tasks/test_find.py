"""Which task a word of the settings means."""

import pytest
import tiny_encoder
import toy_task

from lorad.config import TASKS
from lorad.errors import ConfigError
from lorad.records import Example
from lorad.tasks import Generating, Predicting, Task, find, sampled
from lorad.tasks.token_classification import TokenClassification


@pytest.mark.parametrize("name", TASKS)
def test_each_task_of_lorads_own_is_found_under_its_word(name):
    task = find(name)

    assert task.name == name
    assert isinstance(task, Generating | Predicting)
    assert find(name) is task


def test_a_task_of_ones_own_is_found_by_its_class():
    assert isinstance(find("toy_task:Toy"), toy_task.Toy)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("poetry", "there is no task 'poetry'; known: .*chat, "),
        ("toy_task", "there is no task"),
        ("toy_task:Text", "there is no task"),
        ("toy_task:Toys", "cannot be loaded: .*Toys"),
        ("no_such_module:Toy", "cannot be loaded: No module"),
        (":Toy", "cannot be loaded: Empty module name"),
    ],
)
def test_what_is_no_task_is_refused(name, says):
    with pytest.raises(ConfigError, match=says) as caught:
        find(name)

    assert caught.value.code == "no_such_task"


def test_a_task_that_lacks_a_part_cannot_be_made():
    class Half(Task):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()


def tagged(text, *spans):
    return Example(task="tagging", input=text, target=list(spans), dataset="d")


class Counting(TokenClassification):
    """Tells what it has encoded."""

    def __init__(self):
        self.encoded = []

    def encode(self, tokenizer, example):
        self.encoded.append(example.input)
        return super().encode(tokenizer, example)


def test_a_sample_means_what_its_whole_dataset_says():
    everything = [tagged("she took the fig", [13, 16, "fruit"]), tagged("she took the owl", [13, 16, "bird"])]
    task = Counting()

    rows = sampled(task, tiny_encoder.tokenizer(), everything[:1], everything)

    assert rows.keys() == {everything[0].id}
    assert rows[everything[0].id].annotated == ("bird", "fruit")


def test_of_a_task_whose_rows_say_it_all_only_the_sample_is_read():
    class Alone(Counting):
        complete = Task.complete

    everything = [tagged("she took the fig"), tagged("she took the owl"), tagged(" ")]
    task = Alone()

    rows = sampled(task, tiny_encoder.tokenizer(), everything[::2], everything)

    assert (rows.keys(), task.encoded) == ({everything[0].id}, ["she took the fig", " "])
