"""What a folder from outside holds, before it is loaded as a base model.

What lives here: why a folder cannot become a base model, told from its names, its JSON and its tensors' headers; which
of two models' settings compute otherwise; whether it writes text; whether a tokenizer is the one in the folder. What
never does: loading a model (``bases``).
"""

import contextlib
import stat
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from lorad.storage import files

MOST_FILES = 10_000
MOST_BYTES = {".json": 128 * 2**20, ".jinja": 2**20, ".model": 128 * 2**20, ".txt": 128 * 2**20}
"""Of what is read whole; the largest tokenizers of 2026 take 35 MB."""
FEW, MANY = 1024, 2**20
"""Layers or experts, and any other size, that are built at no cost whether or not there are tensors for them."""
MATRIX = 2
"""Dimensions; experts are stacked into one more."""
UNCOUNTED = (
    *("position", "theta", "token", "window", "length", "seq", "ctx", "context", "base", "seed", "param"),
    *("factor", "scale", "version"),
)
"""Words in the names of numbers that are no sizes of tensors."""
Kind = Literal["causal", "encoder"]
WITHOUT_TEXT = (
    *("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification"),
    *("ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction"),
)
"""How the names of transformers' classes end that write no text; GPT-2 and others of its age end in LMHeadModel."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
QUANTISED_BESIDE = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "quantised",
    "hf_quant_config.json": "modelopt",
}
"""Files by which older tools told of what they did, where config.json is silent."""
PACKED = ("F8", "F4", "F6", "U8", "I8", "I16", "U16", "I32", "U32")
"""How tensors' types begin that hold packed or scaled numbers; a float model's own whole numbers are I64 or BOOL."""

NOT_COMPUTED = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "transformers_version",
        "use_cache",
    }
)
"""Settings of config.json that change no logit; dropout does not either, where nothing is trained."""
WRITTEN = (
    "Who keeps the key of room B-217? It's 3,75 or 12-4; we'll see.",
    "  two  blanks before,\tone tab,\n\n two line breaks behind \n",
    "def f(x):\n    return x[0] == 'a' and {\"b\": 1_000}",
    "Óskarsdóttir, Ærø, façade, ΑΒΓ, Привет, שלום, مرحبا, नमस्ते, e\u0301",
    "漢字かな交じり文 한국어 ไทย 1234567890",
    "① ﬁne ² \uff21 ½ … “quoted” \u2013 a\u00a0b \u3000",
    "😀 👩‍👩‍👧 🇮🇸 \ufffd \u200f",
)
"""What tokenizers are compared on: letters, digits, blanks, other scripts, and signs that normal forms change."""
LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")
"""Change logits only where the rotation of positions is scaled by them."""


def kind(folder: Path) -> Kind:
    """Return what a folder's config.json says that the model is for.

    An ``encoder`` is saved without a head that writes text; what says nothing is taken for ``causal``.
    """
    named = _read(folder / "config.json").get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    return "encoder" if first.endswith(WITHOUT_TEXT) and not first.endswith("LMHeadModel") else "causal"


def unreadable(source: Path) -> str | None:
    """Return why a file or folder from outside must not be opened at all, or None.

    Pipes and devices stop whoever opens them, and some files are larger than any that are what their names say.
    """
    paths = list(islice(source.iterdir(), MOST_FILES + 1)) if source.is_dir() else [source]
    if len(paths) > MOST_FILES:
        return f"{source} holds more than {MOST_FILES} files; give a folder with the model's own alone"
    templates = source / "additional_chat_templates"
    paths += list(islice(templates.iterdir(), MOST_FILES)) if templates.is_dir() else []
    return next(filter(None, map(_unreadable_file, sorted(paths))), None)


def _unreadable_file(path: Path) -> str | None:
    try:
        found = path.stat()
    except OSError:  # a link to nothing: told by whoever needs the file
        return None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return f"{path} is not a regular file; remove it, and give a folder with the model's own files alone"
    most = MOST_BYTES.get(path.suffix)
    if most is not None and stat.S_ISREG(found.st_mode) and found.st_size > most:
        return f"{path} is larger than {most / 2**20:.0f} MiB, which no such file of a language model is"
    return None


def objection(folder: Path) -> str | None:
    """Return why a folder cannot become a base model, in one sentence that says what to do, or None."""
    if not folder.is_dir():
        return f"{folder} is not a folder; give a folder with config.json, *.safetensors and a tokenizer"
    if told := unreadable(folder):
        return told
    names = {path.name for path in folder.iterdir()}
    config, tokenizer = (_read(folder / name) for name in ("config.json", "tokenizer_config.json"))
    return (
        _of_another_kind(folder, names)
        or _quantised(folder, config, names)
        or _own_code(folder, config, tokenizer)
        or _without_weights(folder, names)
        or _elsewhere(folder)
        or _absurd(folder, config)
    )


def another_setting(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Return the first setting of two configurations, defaults included, that makes them compute otherwise, or None."""
    is_scaled = any(_rotation(config) != "default" for config in (theirs, ours))
    for key in sorted(theirs.keys() | ours.keys()):
        if key in NOT_COMPUTED or "dropout" in key or (key in LENGTHS and not is_scaled):
            continue
        if theirs.get(key) != ours.get(key):
            return key
    return None


def _rotation(config: Mapping[str, Any]) -> Any:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found.get("rope_type") or found.get("type") or "default"


def other_tokens(tokenizer: Any, path: Path) -> str | None:
    """Return the first text of which a tokenizer makes other tokens than a ``tokenizer.json``, or gives back another."""
    own = Tokenizer.from_file(str(path))
    own.no_truncation()
    own.no_padding()
    words = [token.content for token in own.get_added_tokens_decoder().values()]
    marked = [f"{word}a {word} b\n{word}" for word in words]
    for text in (*WRITTEN, *marked):
        tokens = own.encode(text, add_special_tokens=False).ids
        if list(tokenizer(text, add_special_tokens=False)["input_ids"]) != tokens:
            return text
        if tokenizer.decode(tokens, clean_up_tokenization_spaces=False) != own.decode(tokens, False):
            return text
    return None


def vocabulary(folder: Path) -> set[str]:
    """Return every word that a folder's tokenizer knows, none where there is no tokenizer."""
    path, words = folder / "tokenizer.json", set()
    if path.is_file():
        with contextlib.suppress(Exception):  # tokenizers raises nothing more special
            words = set(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
    listed = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
    tokens = listed.values() if isinstance(listed, dict) else ()
    named = {str(token["content"]) for token in tokens if isinstance(token, dict) and "content" in token}
    return words | named | set(_read(folder / "added_tokens.json"))


def chat_template(folder: Path) -> Any:
    """Return the chat template that a folder brings, the first of several, or None."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    found = _read(folder / "tokenizer_config.json").get("chat_template")
    return (
        first_template({each.get("name"): each.get("template") for each in found})
        if isinstance(found, list)
        else found
    )


def first_template(found: Any) -> Any:
    """Return the template that is asked without tools."""
    return found.get("default") if isinstance(found, dict) else found


def _of_another_kind(folder: Path, names: set[str]) -> str | None:
    if "adapter_config.json" in names and "config.json" in names:
        return (
            f"{folder} holds a model and an adapter (adapter_config.json), and transformers would load the adapter's "
            "base in its place; move the adapter to a folder of its own"
        )
    if "adapter_config.json" in names:
        return f"{folder} holds an adapter; add it to its base with: lorad versions add v0.N {folder}"
    if "config.json" in names:
        return None
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        return f"{folder} holds no config.json; to add the GGUF in it name the file: {folder / ggufs[0]}"
    return f"{folder} holds no language model: there is no config.json"


def _quantised(folder: Path, config: dict[str, Any], names: set[str]) -> str | None:
    method = next(
        (QUANTISED_BESIDE[name] for name in sorted(names) if name in QUANTISED_BESIDE), None
    ) or next(_packed(folder), None)
    for told in (config, *(value for value in config.values() if isinstance(value, dict))):
        found = told.get("quantization_config") or told.get("quantization") or told.get("compression_config")
        method = _method(found) if found else method
    return method and (
        f"the model in {folder} is quantised ({method}), and adapters cannot be merged exactly into quantised "
        "weights; add the unquantised model that it was made of"
    )


def _method(found: Any) -> str:
    if not isinstance(found, dict):
        return str(found)[:40]
    bits = found.get("bits") or next(
        (bits for key, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)) if found.get(key)), None
    )
    method = str(found.get("quant_method") or found.get("quant_algo") or "mlx")
    return f"{method}, {bits} bits" if bits else method


def _packed(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a mapping
                    tensor = handle.get_slice(name)
                    if tensor.get_dtype().startswith(PACKED) and len(tensor.get_shape()) > 1:
                        yield f"{name} is {tensor.get_dtype()}"
        except (OSError, SafetensorError):
            return  # what cannot be read is told when it is loaded


def _own_code(folder: Path, *configs: dict[str, Any]) -> str | None:
    for config in configs:
        if config.get("auto_map"):
            return (
                f"the model in {folder} brings code of its own (auto_map), which lorad never runs; add one whose "
                "architecture transformers has, or remove auto_map from its JSON if transformers has this one"
            )
    return None


def _without_weights(folder: Path, names: set[str]) -> str | None:
    if any(name.endswith(".safetensors") for name in names):
        return None
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return (
            f"{folder} holds its weights as pickles ({pickles[0]}), which lorad never opens; load it with transformers, "
            "save_pretrained it as safetensors, and add that"
        )
    return f"{folder} holds no weights: there is no .safetensors file"


def _elsewhere(folder: Path) -> str | None:
    """Return what an index of weights names that is not a file of its folder, or None."""
    for path in sorted(folder.glob("*.index.json")):
        named = _read(path).get("weight_map")
        for name in sorted(set(map(str, named.values()))) if isinstance(named, dict) else ():
            if Path(name).name != name or not (folder / name).is_file():
                return f"{path} names {name[:80]!r}, which is no file beside it; give the whole folder"
    return None


def _absurd(folder: Path, config: dict[str, Any]) -> str | None:
    """Return a size that config.json says and no tensor beside it has, or None: to build that may take all memory."""
    shapes = list(_shapes(folder))
    if not shapes:
        return None  # what cannot be read is told when it is loaded
    largest = max((size for shape in shapes for size in shape), default=1)
    stacked = max((shape[0] for shape in shapes if len(shape) > MATRIX), default=0)
    limits = {
        "layer": max(len(shapes), FEW),
        "expert": max(len(shapes), stacked, FEW),
        "": max(largest, MANY),
    }
    for key, value in _counts(config):
        limit = next(most for word, most in limits.items() if word in key)
        if value > limit:
            return (
                f"config.json in {folder} says {key}: {str(value)[:40]}, and the {len(shapes)} tensors beside it are "
                "not of such a model; put its own config.json there"
            )
    return None


def _counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield what a configuration counts, and how long its lists are, by the names that it gives them."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, Mapping):
            left += [(str(name).lower(), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [(key, inner) for inner in value if isinstance(inner, list | Mapping)]
            yield f"{key} (a list for each layer)", len(value)
        elif type(value) is int and not any(word in key for word in UNCOUNTED):
            yield key, value


def _shapes(folder: Path) -> Iterator[list[int]]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as handle:
                yield from (handle.get_slice(name).get_shape() for name in handle.keys())  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError):
            return


def _read(path: Path) -> dict[str, Any]:
    try:
        found = files.read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}  # what is wrong with it is told when it is loaded
    return found if isinstance(found, dict) else {}
