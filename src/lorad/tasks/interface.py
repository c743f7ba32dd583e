"""The one interface of all tasks. A new kind of learning is one file with one class, and one line of configuration.

    tracks:
      mail: {task: "my_package.spam:Spam", base: minilm}

What a task says:

- **rows**: which formats its dataset files have (``formats``), what of a row cannot be learned (``check``), and how an
  example becomes a row (``encode``, ``complete``): a frozen dataclass of JSON data with ``__len__`` (what it costs, in tokens) and
  ``weight`` (how many predictions it is graded on: answer tokens, tagged words, 1 for a text's label);
- **model**: which head stands on its base (``head``), and which outputs that has (``labels``);
- **learning**: what a model says of some rows (``forward``), and how far that is from right (``loss``);
- **grading**: which rows are right (``grade``) and how sure the model is (``log_probabilities``, ``confidences``); right
  rows are *recalled*, and rehearsal, the judge and the retention matrix count nothing else;
- **metrics**: the field's own numbers, which are told with each version (``metrics``);
- **checks** of the judge beside those for all tasks: ``perplexity``, ``kl`` and ``degenerate`` measure a causal model;
- **serving**: a task is ``Predicting`` (``POST /lorad/predict``) or ``Generating`` (chat completions).

Everything else is the same for all and asks the task for nothing more: reading files, memory, planning, rehearsal, exact
cumulative adapters, the judge, versions, probes, hot swap, rollback, the command line. The building blocks that a task
file is made of are in ``models``: ``heads``, ``scoring`` (cross entropy, grades), ``packing`` (rows of a causal model in
one sequence), ``generation``. ``tests/support/toy_task.py`` is the smallest complete task, ``tasks/chat.py`` the largest.

A model from scratch (``base: scratch``) has a head that ``is_whole``: its base has random weights (``models.scratch``), a
version brings all of them, and a session of its own trains them (``training.pretraining``); see ``tasks/pretraining.py``.

A task holds no state: one instance serves all tracks and threads. Tensors stay on the device of the model that made them;
what it returns to others (targets, grades) is on the CPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lorad.models import packing, scoring
from lorad.models.heads import Head
from lorad.models.scoring import Outputs
from lorad.records import Example, Trial

PASS_TOKENS = 1024
"""Tokens that go through a model together where no plan says how many."""


class Row(Protocol):
    """An example as a model takes it, without tensors."""

    def __len__(self) -> int:
        """Count the tokens (peaks, patches) that it costs: plans, packs and limits of length go by it."""

    @property
    def weight(self) -> int:
        """Count its predictions: how many rows of logits ``forward`` gives for it."""


class Task(ABC):
    """What every task offers; the class has a constructor without arguments."""

    name: ClassVar[str]
    """One word, for people and for what is stored once per base and task."""
    formats: ClassVar[str]
    """Which formats its files have: ``chat``, ``tagging``, ``classify`` or ``retrieval``, documents (``datasets.reader``), which also
    say what ``Example.input`` and ``target`` are."""
    head: ClassVar[Head]
    """What stands on the base: one of ``models.heads``, or one of the task's own."""
    checks: ClassVar[frozenset[str]] = frozenset()
    """Checks of the judge that apply beside those for all: ``perplexity``, ``kl`` (also: general conversation is trained
    beside the rows), ``degenerate``."""
    row: ClassVar[type]
    """The dataclass that ``encode`` returns; probes are stored and read by its fields."""
    own_mask: ClassVar[bool] = False
    """Whether ``forward`` gives a causal model's attention a mask of its own (``mask``): without it, a model that is exported
    would answer otherwise in other programs."""
    is_text: ClassVar[bool] = True
    """Whether all that a client asks becomes tokens: then what is far too long is refused before it is read."""

    # -- the base

    def check_tokenizer(self, tokenizer: Any) -> None:  # noqa: B027 - most take any
        """Raise ``ConfigError`` when a base model's tokenizer cannot serve this task."""

    def trials(self, tokenizer: Any) -> Sequence[Trial]:
        """Return what trying a base model for this task has shown."""
        del tokenizer
        return ()

    # -- rows

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return a dropped example as it is learned; raise ``SampleError`` when ``encode`` would."""
        self.encode(tokenizer, example)
        return example

    @abstractmethod
    def encode(self, tokenizer: Any, example: Example) -> Any:
        """Return the ``Row`` to train and test an example with, never truncated.

        Raise ``SampleError`` for an example that cannot be learned or could not be given back as it was taught.
        """

    def complete(self, examples: Sequence[Example], rows: Sequence[Any]) -> Sequence[Any]:
        """Return the rows of these examples with what only their whole datasets tell; a session completes all its rows at once.

        What a tagging dataset annotates nowhere, for example, its rows must not teach.
        """
        del examples
        return rows

    def labels(self, rows: Sequence[Any]) -> Sequence[str]:
        """Return the labels that these rows teach, each once; none for a head whose outputs are given.

        A version's labels are its parent's with the new ones behind them: outputs keep their places.
        """
        del rows
        return ()

    def problem_type(self, rows: Sequence[Any]) -> str | None:
        """Return transformers' word for what the outputs of a head for these rows say together.

        ``None`` where one of them is right. A version keeps its parent's.
        """
        del rows
        return None

    def splits_words(self, rows: Sequence[Any]) -> bool:
        """Tell whether the spans of these rows begin or end inside words: a version may then say such, and its children."""
        del rows
        return False

    def checker(
        self, targets: Callable[[], Iterable[Any]], named: Sequence[str] = ()
    ) -> Callable[[Example], None]:
        """Return what checks the examples of one file, in their order, beside the targets that its track knows.

        It raises ``SampleError`` for one that cannot be learned beside them. ``named`` are the labels of the file's
        sidecar.
        """
        del targets, named
        return lambda _: None

    def notes(self, rows: Sequence[Any]) -> Sequence[str]:
        """Return what a session's papers say of all rows that it trains, completed: that rare labels weigh more, say."""
        del rows
        return ()

    def chance(self, rows: Sequence[Any]) -> float:
        """Return the share of these rows, 0 to 1, that one and the same answer gets right.

        As long as no more are right, nothing is learned: the rate stays high and nobody gives up.
        """
        del rows
        return 0.0

    def held_out(
        self, examples: Sequence[Example], already: AbstractSet[str] = frozenset()
    ) -> AbstractSet[str]:
        """Return the ids of those that are never trained, so that calibration can be fitted and measured on them.

        The same ones in every session: an example that was trained once says nothing. So a session still trains those that an
        ancestor has trained, which its papers tell; and ``already`` are those that these say were never trained: they stay so where
        a dataset becomes too small to hold any out.
        """
        del examples, already
        return frozenset()

    # -- learning and grading

    @abstractmethod
    def forward(self, model: Any, rows: Sequence[Any], guests: Sequence[Any] = ()) -> Outputs:
        """Return what a model says of these rows in one pass: ``weight`` predictions for each, in their order.

        A label's output is ``model.config.label2id[label]``; the target of one that the model does not know is
        ``scoring.UNKNOWN``. ``guests`` are rows whose loss is measured against another model's distribution; only a task
        with the check ``kl`` is given any.
        """

    def mask(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the attention mask of tokens [B, S], of which those that are ``seen`` are 1 and padding is 0: that itself."""
        del dtype
        return seen

    def loss(self, outputs: Outputs) -> Tensor:
        """Return the loss summed over all predictions, a scalar in float32; the caller divides it by their number."""
        return scoring.loss_sum(outputs.logits, outputs.targets)

    def grade(self, outputs: Outputs) -> list[bool]:
        """Tell for each row whether it is right."""
        return scoring.grade(outputs)

    def log_probabilities(self, outputs: Outputs) -> list[float]:
        """Return for each row the log probability of what is right, in nats."""
        return scoring.log_probabilities(outputs)

    def confidences(
        self, model: Any, tokenizer: Any, rows: Sequence[Any], tell: Callable[[int], None] = lambda _: None
    ) -> list[tuple[float, bool]]:
        """Answer the rows as it is served; return how sure each answer is (0 to 1), and whether it is the row's own.

        ``tell`` is told how many more rows are done.
        """
        del tokenizer
        found = [(0.0, False)] * len(rows)
        for numbers in packing.divide(rows, PASS_TOKENS):
            outputs = self.forward(model, [rows[number] for number in numbers])
            for number, answer in zip(numbers, scoring.confidences(outputs), strict=True):
                found[number] = answer
            tell(len(numbers))
        return found

    def temperature(self, model: Any, rows: Sequence[Any]) -> float:
        """Return what the logits are to be divided by, so that answers are right as often as they are sure.

        Fitted on rows that the model never learned; 1 leaves the logits as they are.
        """
        del model, rows
        return 1.0

    def metrics(self, model: Any, rows: Sequence[Any]) -> Mapping[str, float]:
        """Return the field's own numbers of a candidate on all rows of its session: F1, say.

        There may be thousands of rows: divide them into passes (``packing.divide``).
        They are told with the version and decide nothing; a check of the judge is in ``evaluation.judge``.
        """
        del model, rows
        return {}

    def held_out_metrics(self, model: Any, rows: Sequence[Any]) -> Mapping[str, float]:
        """Return numbers of the rows that were never trained (``held_out``), told beside the others."""
        del model, rows
        return {}


class Predicting(Task):
    """A task whose answer is data: labels, spans, properties. Served at ``/lorad/predict``."""

    @abstractmethod
    def question(self, tokenizer: Any, asked: Any) -> Any:
        """Return what a client asks (JSON data, as ``Example.input``) as a row; raise ``SampleError`` when it is none."""

    @abstractmethod
    def predict(self, model: Any, rows: Sequence[Any]) -> list[Any]:
        """Return the answer to each of these rows as JSON data, how sure the model is included."""

    def said(self, tokenizer: Any, answer: Any) -> Any:
        """Return an answer as it is served: as JSON data, with words where the model says tokens."""
        del tokenizer
        return answer


class Generating(Task):
    """A task whose answer is text, token by token. Served as chat completions."""

    @abstractmethod
    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the tokens after which the model is to answer; raise ``SampleError`` when it cannot be asked.

        A chat task is asked with messages, or with a text (or its tokens) that is to be continued as it stands.
        """

    @abstractmethod
    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the tokens that end an answer; the first is the one that is trained."""

    @abstractmethod
    def text(self, tokenizer: Any, tokens: Sequence[int]) -> str:
        """Return the text that is served for an answer's tokens."""

    def call_form(self, tokenizer: Any) -> tuple[str, str, str] | None:
        """Return what an answer writes before the name of a tool that it calls, between that and its arguments, and behind these.

        ``None`` where the base's template has no place for calls, or writes arguments otherwise than as a JSON object.
        """
        del tokenizer
        return None
