"""Which task a word of the settings means."""

import pytest
import toy_task

from lorad.config import TASKS
from lorad.errors import ConfigError
from lorad.tasks import Generating, Predicting, Task, find


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
