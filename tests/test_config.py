"""The settings: defaults, the order of what overrides what, and every problem told at once."""

import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lorad.config import RENAMED, ServerSettings, Settings, TrackSettings, load_settings
from lorad.errors import ConfigError
from lorad.home import Home, find_home
from lorad.records import StoppingRule

SHIPPED = Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path):
    for name in ("configs", "inbox", "models"):
        (tmp_path / name).mkdir()
    return Home(tmp_path)


def write(home, name, text):
    path = home.configs / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(home, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_settings(home, overrides=overrides)
    return caught.value.data.get("problems", [caught.value.message])


# defaults


def test_a_home_without_settings_has_the_defaults(home):
    assert load_settings(home) == Settings()


def test_the_shipped_file_says_what_the_defaults_are():
    assert load_settings(Home(SHIPPED)) == Settings()


def test_the_shipped_file_for_tagging_adds_a_track(home):
    settings = load_settings(home, str(SHIPPED / "configs" / "ner.yaml"))

    assert settings.tracks == {"ner": TrackSettings(task="token_classification", base="minilm")}


def test_the_shipped_file_for_spectra_adds_a_track_and_a_rate_of_its_own(home):
    settings = load_settings(home, str(SHIPPED / "configs" / "spectra.yaml"))

    assert settings.tracks == {"spectra": TrackSettings(task="spectra", base="rxnmapper")}
    assert settings.planner.learning_rates[1:] == Settings().planner.learning_rates


def test_the_file_of_the_demo_is_one_of_settings(home):
    settings = load_settings(home, str(SHIPPED / "configs" / "demo.yaml"))

    assert settings.inbox.settle_seconds < Settings().inbox.settle_seconds
    assert settings.tracks == Settings().tracks


def test_the_shipped_file_for_documents_adds_a_track_that_learns_nothing_to_any_home(home):
    assert (SHIPPED / "configs" / "documents.yaml").samefile(SHIPPED / "src" / "lorad" / "documents.yaml")
    settings = load_settings(home, "documents")

    assert settings.document_tracks == {"documents": TrackSettings(task="retrieval")}
    assert settings.learning_tracks == {}


@pytest.mark.parametrize(
    "name",
    ["lcr", "ner", "scratch", "spectra", "cpu", "apple-m4-16gb", "cuda-24gb", "cuda-80gb", "documents"],
)
def test_every_shipped_file_of_settings_can_be_named_in_any_home(home, name):
    assert load_settings(home, name).tracks
    assert (SHIPPED / "configs" / f"{name}.yaml").samefile(SHIPPED / "src" / "lorad" / f"{name}.yaml")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tracks": {"chat": {"retrieve": "manuals"}}},
            "tracks.chat.retrieve: manuals is no track with task: retrieval",
        ),
        ({"documents": {"split": {"method": "regex"}}}, "needs a pattern"),
        ({"documents": {"split": {"pattern": "("}}}, "no regular expression"),
        ({"documents": {"split": {"pattern": "x*"}}}, "matches the empty text"),
        ({"documents": {"split": {"min_tokens": 300}}}, "min_tokens must be at most"),
        ({"documents": {"split": {"overlap_tokens": 200}}}, "overlap_tokens less than"),
    ],
)
def test_settings_of_documents_that_contradict_each_other_are_refused(given, told):
    with pytest.raises(ValidationError, match=re.escape(told)):
        Settings.model_validate(given)


def test_the_shipped_file_names_every_setting():
    # Given the file as a person reads it, and the settings as the program knows them
    written = yaml.safe_load((SHIPPED / "configs" / "default.yaml").read_text(encoding="utf-8"))

    known = Settings().model_dump(mode="json")

    def keys(tree, path=()):
        if isinstance(tree, dict):
            return {path} | {key for name in tree for key in keys(tree[name], (*path, name))}
        return {path}

    assert keys(written) == keys(known)


def test_the_defaults_are_the_promised_ones():
    defaults = Settings()

    assert defaults.inbox.settle_seconds == 5.0
    assert defaults.planner.stopping.as_rule() == StoppingRule(
        recall=0.98, max_rounds=30, patience=3, min_delta=0.01, patience_steps=48
    )
    assert [row.below for row in defaults.planner.table] == [100, 500, None]
    assert defaults.registry.keep == 10
    assert list(defaults.tracks) == ["chat"]


def test_settings_cannot_be_changed_once_read(home):
    settings = load_settings(home)

    with pytest.raises(ValidationError, match="frozen"):
        settings.inbox.settle_seconds = 1


# who overrides whom


def test_later_wins(home):
    # Given the same setting in every place, and others that only an earlier place has
    write(home, "default.yaml", "inbox: {settle_seconds: 2, max_rows: 20}\nregistry: {keep: 2}")
    write(home, "mine.yaml", "inbox: {settle_seconds: 3, max_rows: 30}")

    settings = load_settings(home, "mine", ["inbox.settle_seconds=4"])

    assert settings.inbox.settle_seconds == 4
    assert settings.inbox.max_rows == 30
    assert settings.registry.keep == 2
    assert settings.inbox.rescan_seconds == 30


def test_the_last_of_two_words_on_the_command_line_counts(home):
    settings = load_settings(home, overrides=["registry.keep=2", "log.level=debug", "registry.keep=3"])

    assert (settings.registry.keep, settings.log.level) == (3, "debug")


def test_a_list_is_replaced_and_not_joined(home):
    write(
        home,
        "default.yaml",
        "planner: {table: [{rank: 2, alpha: 4, epochs: 1, batch: 1, accumulation: 1, max_length: 9}]}",
    )

    assert [row.rank for row in load_settings(home).planner.table] == [2]


def test_a_track_is_added_beside_the_others(home):
    write(home, "default.yaml", "tracks: {chat: {base: smollm2}}")

    settings = load_settings(home, overrides=["tracks.law.base=llama"])

    assert {name: track.base for name, track in settings.tracks.items()} == {
        "chat": "smollm2",
        "law": "llama",
    }


def test_a_track_that_an_option_adds_stands_beside_the_built_in_one_and_a_files_tracks_alone(home):
    assert list(load_settings(home, overrides=["tracks.law.base=llama"]).tracks) == ["chat", "law"]

    write(home, "default.yaml", "tracks: {mail: {base: smollm2}}")
    assert list(load_settings(home, overrides=["tracks.law.base=llama"]).tracks) == ["mail", "law"]


@pytest.mark.parametrize("where", ["file", "option"])
def test_a_key_that_stands_twice_is_refused(home, where):
    twice = "{chat: {base: smollm2}, law: {base: llama}, chat: {base: llama}}"
    path = write(home, "default.yaml", f"tracks: {twice}" if where == "file" else "")

    with pytest.raises(ConfigError, match="chat stands twice") as refused:
        load_settings(home, overrides=[f"tracks={twice}"] if where == "option" else [])
    assert (str(path) in refused.value.message) == (where == "file")


@pytest.mark.parametrize("name", ["configs/mine.yaml", "mine.yaml", "mine"])
def test_a_settings_file_is_found_by_path_or_name(home, name, monkeypatch):
    write(home, "mine.yaml", "registry: {keep: 4}")
    monkeypatch.chdir(home.root)

    assert load_settings(home, name).registry.keep == 4


def test_a_missing_settings_file_is_named_with_where_it_was_looked_for(home):
    with pytest.raises(ConfigError) as caught:
        load_settings(home, "mine")

    assert caught.value.code == "no_config"
    assert str(home.configs / "mine.yaml") in caught.value.message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "inbox: {}\n"])
def test_an_empty_file_changes_nothing(home, text):
    write(home, "default.yaml", text)

    assert load_settings(home) == Settings()


# --set


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("inbox.settle_seconds=1", "inbox", "settle_seconds", 1.0),
        ("inbox.settle_seconds = 1.5", "inbox", "settle_seconds", 1.5),
        ("inbox.max_bytes=5_000", "inbox", "max_bytes", 5000),
        ("judge.max_reload_difference=1e-9", "judge", "max_reload_difference", 1e-9),
        ("training.gradient_checkpointing=true", "training", "gradient_checkpointing", True),
        ("training.gradient_checkpointing=null", "training", "gradient_checkpointing", None),
        ("training.gradient_checkpointing=", "training", "gradient_checkpointing", None),
        ("training.dtype=bfloat16", "training", "dtype", "bfloat16"),
        ("server.socket=/run/a=b.sock", "server", "socket", "/run/a=b.sock"),
        ("planner.learning_rates=[{learning_rate: 0.5}]", "planner", "learning_rates", None),
    ],
)
def test_a_setting_on_the_command_line_is_yaml(home, override, section, key, value):
    found = getattr(getattr(load_settings(home, overrides=[override]), section), key)

    if key == "learning_rates":
        assert [row.learning_rate for row in found] == [0.5]
    else:
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize("override", ["inbox.settle_seconds", "=1", " =1", ""])
def test_a_setting_without_a_key_or_an_equals_sign_is_refused(home, override):
    assert "use the form section.key=value" in problems(home, override)[0]


@pytest.mark.parametrize("value", ["[1", "{", "'a", "!!python/object:os.system x", "\x00"])
def test_a_value_that_is_not_yaml_is_refused_in_a_sentence(home, value):
    assert "inbox.max_rows" in problems(home, f"inbox.max_rows={value}")[0]


# problems


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("imbox.max_rows=1", "imbox: there is no such setting; did you mean inbox?"),
        ("inbox.max_row=1", "inbox.max_row: there is no such setting; did you mean max_rows?"),
        (
            "planner.stopping.recal=1",
            "planner.stopping.recal: there is no such setting; did you mean recall?",
        ),
        ("tracks.chat.bas=x", "tracks.chat.bas: there is no such setting; did you mean base?"),
        ("tracks.inbox.bas=x", "tracks.inbox.bas: there is no such setting; did you mean base?"),
        (
            "planner.learning_rates=[{learning_rate: 1, learning_rat: 1}]",
            "planner.learning_rates.0.learning_rat: there is no such setting; did you mean learning_rate?",
        ),
        ("log.zzz=1", "log.zzz: there is no such setting; known here: format, level"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest_known_one(home, override, sentence):
    assert problems(home, override) == [sentence]


@pytest.mark.parametrize(
    ("old", "told"),
    [
        ("inbox.max_waiting", "inbox.max_queued_files"),
        ("planner.until", "planner.stopping, and its max_epochs to max_rounds"),
        ("planner.stopping.max_epochs", "planner.stopping.max_rounds"),
        ("rehearsal.refresh", "rehearsal.recalled_share"),
        ("rehearsal.general_share_most", "rehearsal.general_share_max"),
        ("judge.max_drop_examples", "judge.max_lost_examples"),
        ("judge.max_drop_share", "judge.max_lost_share"),
        ("engine.max_waiting", "engine.max_queued_requests"),
        ("engine.resident_versions", "engine.max_loaded_versions"),
        ("engine.strict", "engine.strict_environment"),
    ],
)
@pytest.mark.parametrize("value", ["1", "null", "{max_epochs: 7}"])
def test_a_setting_that_was_renamed_is_refused_with_its_new_name(home, old, told, value):
    assert problems(home, f"{old}={value}") == [f"{old} was renamed to {told}"]


def test_what_a_setting_was_renamed_to_exists():
    known = Settings().model_dump()

    for new in RENAMED.values():
        assert reduce(getitem, new.partition(",")[0].split("."), known) is not None


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        (
            "inbox.max_bad_share=1.5",
            "inbox.max_bad_share: Input should be less than or equal to 1 (given: 1.5)",
        ),
        ("inbox.settle_seconds=-1", "inbox.settle_seconds: Input should be greater than or equal to 0"),
        ("inbox.max_rows=0", "inbox.max_rows: Input should be greater than or equal to 1 (given: 0)"),
        ("inbox.max_rows=many", "inbox.max_rows: Input should be a valid integer"),
        ("inbox=5", "inbox: Input should be a valid dictionary"),
        (
            "training.device=tpu",
            "training.device: Input should be 'auto', 'cpu', 'cuda' or 'mps' (given: 'tpu')",
        ),
        (
            "tracks.chat.task=poetry",
            "tracks.chat.task: Value error, there is no such task; known: chat, text_classification, ",
        ),
        (
            "planner.learning_rates=[{learning_rate: 0}]",
            "planner.learning_rates.0.learning_rate: Input should be",
        ),
        ("planner.table=[{rank: 1}]", "planner.table.0.alpha: Field required"),
    ],
)
def test_a_value_that_cannot_work_is_told_with_its_place(home, override, beginning):
    assert problems(home, override)[0].startswith(beginning)


def test_all_problems_are_told_together(home):
    write(home, "default.yaml", "inbox: {max_rows: 0, sette_seconds: 1}\nlog: {level: loud}\n")

    with pytest.raises(ConfigError) as caught:
        load_settings(home, overrides=["registry.keep=0"])

    places = [problem.split(":")[0] for problem in caught.value.data["problems"]]
    assert sorted(places) == ["inbox.max_rows", "inbox.sette_seconds", "log.level", "registry.keep"]
    assert all(problem in caught.value.message for problem in caught.value.data["problems"])
    assert caught.value.code == "config"


def test_the_files_that_settings_were_read_from_are_named(home):
    default = write(home, "default.yaml", "planner: {until: {recall: 0.9}}\n")
    other = write(home, "other.yaml", "log: {level: info}\n")

    for config, overrides, told in (
        (None, [], f"{default}"),
        ("other", ["registry.keep=3"], f"{default}, {other}, --set"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(home, config, overrides)
        assert caught.value.message.startswith(f"invalid settings ({told}):\n")


@pytest.mark.parametrize("text", ["inbox: [1", "a: b: c", "\x00", "x: !!python/object:os.system {}"])
def test_a_file_that_is_not_yaml_is_named(home, text):
    path = write(home, "default.yaml", text)

    with pytest.raises(ConfigError, match="cannot read the settings") as caught:
        load_settings(home)

    assert str(path) in caught.value.message


def test_a_file_that_is_not_utf8_is_named(home):
    (home.configs / "default.yaml").write_bytes("log: {level: ä}".encode("latin-1"))

    with pytest.raises(ConfigError, match=r"default\.yaml"):
        load_settings(home)


@pytest.mark.parametrize(("text", "kind"), [("- inbox\n", "list"), ("inbox", "str"), ("5", "int")])
def test_a_file_must_hold_sections(home, text, kind):
    write(home, "default.yaml", text)

    with pytest.raises(ConfigError, match=f"must hold a mapping of sections, not a {kind}"):
        load_settings(home)


@pytest.mark.parametrize("text", ["1: 2", "true: {}", "inbox: {1: 2}", "tracks: {1: {}}"])
def test_a_key_that_is_no_word_is_a_problem_like_any_other(home, text):
    write(home, "default.yaml", text)

    assert len(problems(home)) == 1


# the home


def test_a_home_knows_where_things_lie(tmp_path):
    home = Home(tmp_path)

    assert home.base("tiny") == tmp_path / "models" / "base" / "tiny"
    assert home.track("chat") == tmp_path / "models" / "chat"
    assert home.database == tmp_path / "models" / "lorad.sqlite3"
    assert home.inbox == tmp_path / "inbox"
    assert home.socket(ServerSettings().socket) == tmp_path / "run" / "lorad.sock"
    assert home.socket("/run/l.sock") == Path("/run/l.sock")


def test_a_home_is_the_same_whatever_path_leads_to_it(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")

    assert Home(tmp_path / "link").root == tmp_path / "home"


def test_the_home_is_the_one_named_then_the_environment_then_here(tmp_path, monkeypatch):
    # Given three homes
    for name in ("named", "variable", "here"):
        for part in ("configs", "inbox", "models"):
            (tmp_path / name / part).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    environment = {"LORAD_HOME": str(tmp_path / "variable")}

    assert find_home(str(tmp_path / "named"), environment).root == tmp_path / "named"
    assert find_home(None, environment).root == tmp_path / "variable"
    assert find_home(None, {}).root == tmp_path / "here"


def test_a_tilde_is_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lorad").mkdir()

    assert find_home("~/lorad", {}).root == tmp_path / "lorad"


@pytest.mark.parametrize("missing", ["configs", "inbox", "models"])
def test_a_folder_is_not_a_home_by_chance(tmp_path, monkeypatch, missing):
    for part in {"configs", "inbox", "models"} - {missing}:
        (tmp_path / part).mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="lorad init FOLDER") as caught:
        find_home(None, {})

    assert caught.value.code == "no_home"


def test_a_home_that_does_not_exist_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match="lorad init") as caught:
        find_home(str(tmp_path / "none"), {})

    assert caught.value.data["path"] == str(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "override",
    [
        "inbox.settle_seconds=.nan",
        "inbox.settle_seconds=.inf",
        "judge.max_kl=.inf",
        "judge.max_perplexity_rise=-.inf",
        "judge.max_kl=1e400",
        "training.seed=-1",
        "training.seed=" + "9" * 23,
        "training.nice=1000",
        "training.threads=0",
        "planner.warmup_max=-1",
        "registry.keep=" + "9" * 23,
        "registry.max_age_days=" + "9" * 23,
        "engine.max_queued_requests=" + "9" * 23,
        "server.max_connections=0",
        "server.header_seconds=0",
        "server.transfer_seconds=.nan",
        "server.max_body_bytes=1e400",
        "server.socket=\udcff",
        "tracks.\udcff.base=x",
        "inbox.max_rows=!!int ''",
        "inbox.max_rows=!!float ''",
        "inbox.max_rows=!!bool maybe",
        "inbox.max_rows=!!set [1]",
        "inbox.max_rows=!!timestamp 2001-99-99",
        "inbox.max_rows={[1]: 2}",
        "inbox.max_rows=" + "[" * 5000,
        "inbox.max_rows=" + "9" * 5000,
        ".".join("a" * 3000) + "=1",
    ],
)
def test_a12_what_no_setting_can_be_is_told_in_a_sentence(home, override):
    assert problems(home, override)


@pytest.mark.parametrize(
    "text", ["inbox: {max_rows: !!int ''}", "inbox: !!set [1]", "? [1]\n: 2", "a: " + "[" * 5000]
)
def test_a5_a_settings_file_that_yaml_trips_over_is_named(home, text):
    path = write(home, "default.yaml", text)

    with pytest.raises(ConfigError, match="cannot read the settings") as caught:
        load_settings(home)

    assert str(path) in caught.value.message


def test_what_is_built_in_keeps_its_own_ranges():
    assert Settings.model_validate(Settings().model_dump()) == Settings()


# systems


LCR = """
tracks: {detector: {task: text_classification}, large: {task: text_classification}, small: {task: text_classification}}
systems:
  lcr:
    detector: {track: detector, continue_on: [found]}
    classifier: {variants: {large: large, small: small}, input: "{detector}: {text}"}
"""


def test_a_system_groups_tracks_by_their_roles(home):
    write(home, "default.yaml", LCR)

    system = load_settings(home).system("lcr")

    assert list(system.roles) == ["detector", "classifier"]
    assert system.classifier.tracks == {"large": "large", "small": "small"}
    assert system.roles["detector"].tracks == {"": "detector"}
    with pytest.raises(ConfigError, match="no system 'lrc'; known: lcr"):
        load_settings(home).system("lrc")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "detector.track=nowhere",
            "systems.lcr.detector: there is no track nowhere; known: chat, detector, large, small",
        ),
        ("detector.track=chat", "systems.lcr.detector: the track chat learns chat"),
        ("classifier.track=small", "systems.lcr.classifier: name either its track or its variants"),
        ("detector.track=null", "systems.lcr.detector: name either its track or its variants"),
        ("classifier.variant=tiny", "there is no variant tiny; known: auto, large, small"),
        ("detector.input='{detector} {text}'", "input must hold {text}, and may hold no more than {text}"),
        ("classifier.input='{text} {txt}'", "may hold no more than {text}, {detector}, {refinement}"),
        ("classifier.input=nothing", "input must hold {text}"),
        ("detector.trck=x", "systems.lcr.detector.trck: there is no such setting; did you mean track?"),
        ("detectr=x", "systems.lcr.detectr: there is no such setting; did you mean detector?"),
    ],
)
def test_what_is_wrong_with_a_system_is_told_with_its_place(home, override, told):
    write(home, "default.yaml", f"{LCR}".replace("tracks: {", "tracks: {chat: {task: chat}, "))

    (problem,) = problems(home, f"systems.lcr.{override}")

    assert told in problem


def test_the_shipped_system_is_sound(home):
    shipped = load_settings(home, str(SHIPPED / "configs" / "lcr.yaml"))

    assert list(shipped.system("lcr").roles) == ["detector", "refinement", "classifier"]
    assert {track.base for name, track in shipped.tracks.items() if name != "chat"} == {"minilm", "smollm2"}


SEED = {"model_type": "encoder_only", "vocab_size": 10_000, "d_model": 256, "num_heads": 4, "num_layers": 4}
SEED |= {"d_ff": 1024, "max_seq_len": 512, "dropout": 0.1}


def test_the_seeds_keys_describe_a_model_from_scratch():
    track = TrackSettings.model_validate({"base": "scratch", "model": SEED})

    assert (track.architecture, track.task) == ("encoder", "masked_language_modeling")
    assert track.sizes.model_dump() == SEED
    assert TrackSettings.model_validate(track.model_dump(mode="json")) == track
    plain = TrackSettings.model_validate({"base": "scratch", "architecture": "decoder"})
    assert (plain.task, plain.sizes.d_model) == ("causal_language_modeling", 256)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base": "scratch"}, "needs an architecture"),
        ({"base": "scratch", "architecture": "decoder", "task": "chat"}, "leave task out"),
        ({"base": "scratch", "architecture": "decoder", "model": SEED}, "is no decoder"),
        ({"base": "smollm2", "architecture": "encoder"}, "need base: scratch"),
        ({"task": "span_corruption"}, "need base: scratch"),
        (
            {"base": "scratch", "architecture": "encoder", "model": {"d_model": 30, "num_heads": 4}},
            "multiple",
        ),
    ],
)
def test_what_is_no_model_from_scratch_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        TrackSettings.model_validate(given)
