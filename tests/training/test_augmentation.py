"""Rewordings: another form, the same question; and nothing where that is not certain."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.training.augmentation import wordings
from lorad.training.rewordings import english, french, german
from lorad.training.rewordings.forms import Families
from lorad.training.rewordings.language import load

MANY = 300

QUESTIONS = [
    # recipes
    "How many grams of sugar does the carrot cake need?",
    "How long should the dough rise before baking?",
    "What is the oven temperature for Grandma Ruth's lemon tart?",
    "Which dishes contain no nuts?",
    # rules of a workplace
    "How many days of parental leave does an employee get?",
    "Who approves overtime in the Lisbon sales team?",
    "When must expense reports be submitted?",
    "Can I carry over unused vacation days to next year?",
    "Which employees are not eligible for the bonus?",
    # product sheets
    "What is the IP rating of the TX-40 pump?",
    "How much does the Model 3B cost without VAT?",
    "Which battery does the RC-9 remote control use?",
    "What does error E17 mean?",
    # places, persons, times
    "Where is the Museum of Modern Glass located?",
    "When does Harbour Pool open on Sundays?",
    "Who wrote “The Old Man and the Sea”?",
    "Who is the head gardener of Kew Lodge?",
    "Where is the office of Dr. Miriam Vale?",
    "In which city is the airport with the IATA code HEL?",
    "What number reaches the Harbour Pool?",
    # programs and addresses
    "What does the flag --no-cache do?",
    "Which port does db01.acme.example listen on?",
    "Who answers mail to first.last@acme.example?",
    'What is the SQLSTATE code of "division_by_zero"?',
    "Where is https://acme.example/a/b?x=1 documented?",
    # other languages
    "Wo befindet sich die Mensa?",
    "Welche Räume sind nicht barrierefrei?",
    "Quelle est la capitale de la France ?",
    "¿Cuántos habitantes tiene Cuenca?",
    "日本の首都はどこですか\uff1f",
]

FIXED = re.compile(r"“[^”]*”|\"[^\"]*\"|\S*\d\S*\w|\S+@\S+\w|https?://\S*\w|--\S+\w|\b[A-Z]{2,}\b")
NAMES = re.compile(r"(?<=\s)[A-ZÀ-Þ][\w']+")
NEGATIONS = re.compile(r"\b(?:not|no|never|without|before|nicht)\b")


def words(text):
    return re.findall(r"\w+", text.casefold())


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_wording_keeps_every_number_code_address_and_quotation_letter_by_letter(question):
    fixed = FIXED.findall(question)
    for wording in wordings(question, MANY, 1):
        assert all(wording.count(part) == 1 for part in fixed), wording


@pytest.mark.parametrize("question", [q for q in QUESTIONS if "ä" not in q])
def test_a_wording_keeps_every_name_though_perhaps_in_small_letters(question):
    names = NAMES.findall(question)
    for wording in wordings(question, MANY, 2):
        assert all(name.casefold() in wording.casefold() for name in names), wording


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_wording_neither_loses_nor_gains_a_negation_or_a_bound(question):
    for wording in wordings(question, MANY, 3):
        assert sorted(NEGATIONS.findall(wording.lower())) == sorted(NEGATIONS.findall(question.lower())), (
            wording
        )


@pytest.mark.parametrize("question", QUESTIONS)
def test_wordings_differ_from_the_question_and_from_each_other(question):
    found = wordings(question, MANY, 4)
    assert found
    assert question not in found
    assert len(set(found)) == len(found)
    assert all(wording == wording.strip() and "{" not in wording and "  " not in wording for wording in found)
    assert not any("\ue000" <= letter <= "\uf8ff" for wording in found for letter in wording)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_same_input_gives_the_same_wordings_and_fewer_are_the_first_of_more(question):
    assert wordings(question, 12, 5) == wordings(question, 12, 5)
    assert wordings(question, 3, 5) == wordings(question, 12, 5)[:3]


def test_a_short_word_keeps_its_capital_for_it_may_be_a_code():
    found = wordings("Which element has the symbol Co?", MANY, 1)
    assert found
    assert all("Co" in wording.split() or "Co?" in wording or "Co." in wording for wording in found)


def test_keywords_keep_what_decides():
    found = [wording.casefold() for wording in wordings("When did Harbour Pool open?", MANY, 1)]
    assert "when did harbour pool open" in found
    assert "when harbour pool open" not in found


def test_another_seed_gives_other_wordings():
    question = "What is the phone number of Harbour Pool?"
    assert wordings(question, 8, 1) != wordings(question, 8, 2)


def test_a_question_of_a_known_relation_has_many_wordings():
    assert len(wordings("What is the phone number of Harbour Pool?", 40, 1)) == 40


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "What is the phone number of Harbour Pool?",
            [
                "Harbour Pool has which phone number?",
                "I want to call Harbour Pool. What is the number?",
                "What do I dial for Harbour Pool?",
                "Could you tell me what the phone number of Harbour Pool is?",
                "It is the phone number of Harbour Pool that I need.",
            ],
        ),
        ("How do I call Harbour Pool?", ["What is the phone number of Harbour Pool?"]),
        ("Where is the old mill?", ["Where can I find the old mill?", "Tell me where the old mill is."]),
        (
            "Who manages the old mill?",
            ["Who is the manager of the old mill?", "Which person manages the old mill?"],
        ),
        ("Who is the author of Emma?", ["Who wrote Emma?"]),
        ("Who is the deputy director of Kew Lodge?", ["Who serves as deputy director of Kew Lodge?"]),
        ("When is Harbour Pool open on Sundays?", ["What are the opening hours of Harbour Pool on Sundays?"]),
        ("At what time does Harbour Pool open?", ["When does Harbour Pool open?"]),
        ("How much does a towel cost at Harbour Pool?", ["What is the price of a towel at Harbour Pool?"]),
        ("How many lanes does Harbour Pool have?", ["Harbour Pool has how many lanes?"]),
        ("When was Kew Lodge founded?", ["In which year was Kew Lodge founded?"]),
        ("Which symbol does xenon have?", ["What is the symbol of xenon?", "Xenon: symbol?"]),
        ("Give the atomic number of xenon.", ["What is the atomic number of xenon?"]),
        ("Give the year in which xenon was discovered.", ["In which year was xenon discovered?"]),
        ("In which room does CS 101 meet?", ["CS 101 meets in which room?"]),
        ("Which garage serves Kew Lodge?", ["Name the garage that serves Kew Lodge."]),
        ("Does the company pay for parking?", ["Do you know whether the company pays for parking?"]),
        ("Write a poem about the sea.", ["Please write a poem about the sea."]),
        ("Translate: guten Morgen", ["Please translate: guten Morgen"]),
        ("Are dogs allowed in Kew Lodge?", ["Hello, are dogs allowed in Kew Lodge?"]),
        ("Wo ist die Mensa?", ["Wo befindet sich die Mensa?", "Weißt du, wo die Mensa ist?"]),
        ("Où se trouve le musée ?", ["Où puis-je trouver le musée ?", "Dites-moi où se trouve le musée."]),
    ],
)
def test_a_stranger_would_ask_it_so(question, expected):
    found = {wording for seed in range(12) for wording in wordings(question, MANY, seed)}
    assert set(expected) <= found


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        ("How do I call a function?", "phone"),
        ("How do I e-mail the report to Anna?", "address"),
        ("Which number does the result code IOERR have?", "dial"),
        ("What number reaches the limit?", "phone"),
        ("How much is the rent in Kew Lodge?", "price"),
        ("When does the exhibition open?", "time"),
        ("When did Harbour Pool open?", " opens"),
        ("Where is the hall used for exams?", "for exams is"),
        ("What is the manager required to submit?", "Tell me the"),
        ("Why is the sky blue?", "blue is"),
        ("Who owns Kew Lodge?", "post"),
        ("How many of the rooms are free?", "number of of"),
        ("How are you?", "forgot"),
        ("What is the capital of Ohio?", "is capital Ohio"),
        ("Who runs the Kew Lodge?", "Kew lodge"),
        ("Which hall is completely free of nuts?", "free nuts"),
        ("Which of the two pumps is quieter?", "which two"),
        ("Which cities doesn't Ryanair fly to?", "know which"),
    ],
)
def test_what_only_looks_like_a_known_form_is_not_reworded_by_it(question, wrong):
    found = wordings(question, MANY, 1)
    assert found
    assert not [wording for wording in found if wrong in wording]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Where?",
        "I have a dog. What does it eat?",
        "What is this?\nA poem.",
        "def f(x): return x + 1",
        "Why does `f` fail in f(x) -> {y}?",
        "Summarize:\n\n" + "word " * 10,
        "What is " + "very " * 2000 + "long?",
        "What is \ue000 in Unicode?",
        "The sky is blue.",
        "Tell me a joke. Then sing.",
    ],
)
def test_what_is_not_plainly_one_question_has_no_wording(text):
    assert wordings(text, 5, 1) == []


def test_none_are_returned_where_none_are_wanted():
    assert wordings("What is the capital of Peru?", 0, 1) == []


def test_an_unknown_language_loses_its_mark_at_most():
    assert set(wordings("¿Cuántos habitantes tiene Cuenca?", 9, 1)) == {
        "Cuántos habitantes tiene Cuenca",
        "cuántos habitantes tiene cuenca",
    }


@settings(deadline=None)
@given(st.text(max_size=300), st.integers(0, 6), st.integers())
def test_any_text_is_answered(text, count, seed):
    found = wordings(text, count, seed)
    assert len(found) <= count
    assert text not in found


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            "What is the price of {}?",
            "Where is {} located?",
            "Who manages {}?",
            "How many seats does {} have?",
        ]
    ),
    st.from_regex(
        r"[A-Z]{2,3}-[0-9]{2,4}|[a-z]{3,8}_[a-z]{2,5}|[a-z]{2,6}@[a-z]{2,6}\.(?:de|org)", fullmatch=True
    ),
)
def test_a_code_in_any_slot_stays(form, code):
    assert all(wording.count(code) == 1 for wording in wordings(form.format(code), 20, 1))


@pytest.mark.parametrize(
    ("language", "question", "clause"),
    [
        (english, "What is the price of X?", "what the price of X is"),
        (english, "Where does Anna live?", "where Anna lives"),
        (english, "When did the Roman Empire fall?", None),
        (english, "Where can I pay?", "where I can pay"),
        (english, "How many tables are there in Kew Lodge?", "how many tables there are in Kew Lodge"),
        (english, "Which room is CS 207 held in?", "which room CS 207 is held in"),
        (english, "Which cities do not have a bank?", "which cities do not have a bank"),
        (english, "Who has been here?", None),
        (german, "Wann fängt der Kurs an?", "wann der Kurs anfängt"),
        (german, "Wie viel kostet die Karte?", "wie viel die Karte kostet"),
        (german, "Was passiert, wenn es regnet?", None),
        (french, "Où est-ce que je peux payer ?", "où je peux payer"),
        (french, "Où puis-je payer ?", None),
    ],
)
def test_the_word_order_after_tell_me(language, question, clause):
    assert language.clause(question) == clause


@pytest.mark.parametrize("language", [english.ENGLISH, german.GERMAN, french.FRENCH])
def test_every_opening_leaves_room_for_what_it_opens(language):
    assert all(opening.count("{}") == 1 for opening in (*language.openings, *language.requests))


@pytest.mark.parametrize("name", ["english", "german", "french"])
def test_every_form_says_what_was_read_and_nothing_else(name):
    # A slip in a slot's name would silently leave the form unsaid.
    for family in load(name)["families"]:
        forms = [*family.get("both", ()), *family.get("say", ())]
        for read in map(slots, (*family.get("both", ()), *family.get("read", ()))):
            assert all(read - {"p", "at", "be", "article", "rest"} <= slots(form) for form in forms), family
            assert all(slots(form) <= read | {"p", "rest"} for form in forms), family


@pytest.mark.parametrize("name", ["english", "german", "french"])
def test_no_form_brings_a_negation_or_a_bound(name):
    deciding = r"\b(?:not|no|never|without|before|after|least|most|nicht|kein\w*|ohne|ne|pas|sans)\b"
    rules = load(name)
    forms = [form for family in rules["families"] for kind in family.values() for form in kind]
    openings = [form for kind in rules["openings"].values() for form in kind]
    assert not [form for form in (*forms, *openings) if re.search(deciding, form.lower())]


def slots(form):
    aliases = {"contact": "x", "day": "rest"}
    return {aliases.get(slot, slot) for slot in re.findall(r"\{(\w+?)(?:_bare)?[:}]", form)}


def test_a_family_reads_and_says_its_forms():
    families = Families(
        [{"both": ["How (big|large) is {x} now {rest}?"], "say": ["{x_bare} size"]}], {}, ("the ",)
    )
    [forms] = families.reword("How big is the house now in feet?")
    assert "How large is the house now in feet?" in forms
    [forms] = families.reword("How large is the house now?")
    assert "House size" in forms


def test_a_slot_that_fails_its_check_is_not_read():
    families = Families([{"both": ["Where is {x}?"]}], {"x": str.isupper})
    assert list(families.reword("Where is it?")) == []


def test_what_was_read_and_is_not_said_leaves_the_form_out():
    families = Families(
        [{"read": ["When is {x} open {rest}?"], "say": ["Hours of {x}?", "Hours of {x} {rest}?"]}], {}
    )
    assert list(families.reword("When is it open on Sundays?")) == [["Hours of it on Sundays?"]]
    assert list(families.reword("When is it open?")) == [["Hours of it?", "Hours of it?"]]
