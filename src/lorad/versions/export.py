"""A version in the form that another program reads. Each is read back and asked its probes.

What lives here: writing an adapter, merged safetensors, GGUF or ONNX somewhere else. What never does: choosing or
changing versions.

The destination appears whole or not at all, and only after what was written answers the version's probes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, adapters, bases, hardware, heads, peft_io, version_weights
from lorad.models.heads import Head
from lorad.storage import files, targets
from lorad.tasks import Generating, Task
from lorad.tasks.chat import Chat
from lorad.versions import calibrations, export_template, llamacpp, modelfile, onnx, papers
from lorad.versions.loader import keep_tokenizer

FORMATS = ("adapter", "merged", "gguf", "onnx")
LABELS = "labels.json"
"""In an export with a head of its own: the names of its outputs, in order, which PEFT has no place for."""
PURPOSES = {"inference": "merged"}
"""What people want an export for, and the format that is: a folder that transformers' ``AutoModel…`` classes load alone."""
KNOWN_HEADS = (heads.CAUSAL, heads.SEQUENCE, heads.TOKEN)
"""What other programs load by transformers' own classes."""
GGUF_PRECISIONS = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
"""GGUF's words for how matrices are stored, and its numbers for a file of them."""
Q8_BLOCK = 32
"""Numbers of a row that share a scale in ``q8_0``."""
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS = (([BYTES], "gpt-2"), ([DIGITS, BYTES], "smollm"))
"""What ``tokenizer.json`` says, but for offsets in the text, where GGUF has a word for it."""
PLAIN_MODEL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "hidden_act": ("silu",),
    "mlp_bias": (None, False),
    "partial_rotary_factor": (None, 1.0),
    "sliding_window": (None,),
}
"""Properties of a Llama, and the values that the GGUF which is written here computes with."""
PLAIN_WORDS: dict[str, tuple[Any, ...]] = {
    "byte_fallback": (None, False),
    "continuing_subword_prefix": (None, ""),
    "dropout": (None, 0.0),
    "end_of_word_suffix": (None, ""),
    "ignore_merges": (None, False),
}
"""The same of a BPE vocabulary."""
SEEKING = ("lstrip", "rstrip", "single_word")
"""How an added token takes more or less than its own letters, which llama.cpp does not know."""
_SHOWN = 12
"""Outputs of a head that a note names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export: the largest difference of its probes' logits after reloading, and notes for people."""

    difference: float
    notes: tuple[str, ...] = ()


def export(
    version: Path,
    base: Path,
    target: Path,
    form: str,
    *,
    strict: bool = True,
    papers: Mapping[str, Any] | None = None,
    task: Task | None = None,
) -> Exported:
    """Write a version to ``target``, reload it and check it on the version's probes.

    Not ``strict``, for another base than it was made for, any difference will do. ``papers`` are JSON files to lie
    beside what is written, by their names. ``task`` is the track's, chat by default.

    Raise ``ConfigError`` when the target exists or the model has no such form, ``RegistryError`` when what was
    written does not answer like the version.
    """
    check(target, form)
    task = task or Chat()
    _check_head(task, version, base, form)
    with targets.beside(target) as scratch:
        made = scratch / "made"
        made.mkdir()
        told = _make(version, base, made, form, task, strict=strict)
        for name, content in (papers or {}).items():
            files.write_json(made / name, content)
        open_as_usual(made)
        files.sync_tree(made)
        targets.put(made, target)
    return told


def has_known_head(task: Task) -> bool:
    """Tell whether other programs may load what a task's versions are merged into."""
    return task.head in KNOWN_HEADS


def _check_head(task: Task, version: Path, base: Path, form: str) -> None:
    """Raise ``ConfigError`` where a model in this form would not answer like the version in other programs."""
    if task.head.is_whole:
        if form != "merged":
            raise ConfigError(
                f"a model from scratch has no form {form}; export it with: --for inference", code="is_whole"
            )
        return
    brings_head = bool(peft_io.read_labels(version))
    if form == "onnx":
        if not brings_head:
            raise ConfigError(
                f"the form onnx is for versions that learn labels, and this one learns {task.name}; use --format gguf or merged",
                code="no_onnx",
            )
        onnx.check_installed()
    fits = has_known_head(task) and bool(task.head.parts) == brings_head
    if not fits or (form == "gguf" and brings_head):
        raise ConfigError(
            f"a version that learns {task.name} has no form {form}; its folder {version} is a standard PEFT adapter already",
            code="has_head",
        )
    if form in ("merged", "gguf") and needs_own_mask(task, base):
        raise ConfigError(
            f"{task.name} lifts the causal mask of {base.name}, and no such file can tell another program to: export it with "
            "--format adapter or onnx, or give the track a base that is an encoder",
            code="own_mask",
        )


def needs_own_mask(task: Task, base: Path) -> bool:
    """Tell whether versions on this base answer rightly only with a mask that no plain model makes."""
    return task.own_mask and bases.kind(base) == "causal"


def check(target: Path, form: str, home: Path | None = None) -> None:
    """Raise ``ConfigError`` for an unknown format, or a target that cannot be written.

    The home's own folders are refused, because lorad reads and moves what appears there.
    """
    if form not in FORMATS:
        raise ConfigError(f"there is no format {form!r}; known: {', '.join(FORMATS)}", code="no_such_format")
    targets.check_new(target)
    place = target.resolve()
    for own in (home / name for name in ("inbox", "models") if home):
        if place.is_relative_to(own.resolve()):
            raise ConfigError(
                f"{target} lies in {own}, which lorad uses itself; choose another folder", code="bad_target"
            )


def _make(version: Path, base: Path, partial: Path, form: str, task: Task, *, strict: bool) -> Exported:
    write, read = _FORMS[form]
    write(version, base, partial, task)
    probes, notes = files.read_json(version / metrics.PROBES), []
    if form == "gguf":
        probes, told = _add_modelfile(partial, base, probes)
        notes = [told, _open_in_llamacpp(partial, base, probes, strict=strict)]
    if isinstance(task, Generating) and not task.head.is_whole:
        notes.append(_tell_of_template(partial, base, form))
    if form == "onnx":
        notes.append(_ask_onnx(version, partial, base, task, probes))
    for name in (papers.CONFIG, calibrations.OWN):
        if (version / name).is_file():
            files.write_bytes(partial / name, (version / name).read_bytes())
    if labels := version_weights.read_labels(version):
        files.write_json(partial / LABELS, labels)
        notes.append(f"{len(labels)} outputs, named in {LABELS}: {', '.join(labels[:_SHOWN])}")
    if form == "adapter" and needs_own_mask(task, base):
        notes.append(
            "answers like the version only with the causal mask lifted, by a four-dimensional attention_mask"
        )
    difference, limit = metrics.probe_again(task, read(partial, base, task.head), probes)
    if strict:
        _expect(difference, limit, f"what was written as {form}")
    return Exported(difference=difference, notes=tuple(notes))


def open_as_usual(folder: Path) -> None:
    """Give exported files the modes that the user's umask implies."""
    umask = os.umask(0)
    os.umask(umask)
    files.set_modes(folder, folder_mode=0o777 & ~umask, file_mode=0o666 & ~umask)


def _tell_of_template(folder: Path, base: Path, form: str) -> str:
    tokenizer = bases.load_tokenizer(base)
    if form != "gguf":
        return export_template.tell(
            tokenizer, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        )
    (file,) = folder.glob("*.gguf")
    field = gguf.GGUFReader(file).get_field(gguf.Keys.Tokenizer.CHAT_TEMPLATE)
    return export_template.tell_embedded(tokenizer, field and field.contents())


def _expect(difference: float, limit: float, what: str) -> None:
    if not difference <= limit:
        raise RegistryError(
            f"{what} answers differently from the version: a logit differs by {difference:.3g} (at most {limit:g}); "
            "nothing was exported",
            code="export_differs",
        )


# -- adapter: for PEFT, vLLM and their kin


def _write_adapter(version: Path, base: Path, target: Path, task: Task) -> None:
    peft_io.write_adapter(peft_io.read_adapter(version), target, base.name, task.head)
    _copy_tokenizer(base, target)


def _read_adapter(folder: Path, base: Path, head: Head) -> Any:
    stack = adapter_stack.AdapterStack(bases.load_base(base, torch.float32, head=head))
    stack.add("exported", folder)
    return stack.model("exported")


# -- merged: a model that needs no base


def _merged(version: Path | None, base: Path, head: Head) -> bases.Base:
    made = bases.load_base(base, torch.float32, head=head)
    if version is None:
        return made
    adapter = version_weights.read(version)
    if head.is_whole:
        version_weights.put(made.model, adapter)
        return made
    adapters.merge(made.model, adapter)
    if adapter.head:
        splits_words = adapter.splits_words
        heads.build(made.model, head, adapter.labels, adapter.problem_type, splits_words=splits_words)
        heads.put(made.model, adapter.head)
    return made


def _write_merged(version: Path, base: Path, target: Path, task: Task) -> None:
    model = _merged(version, base, task.head).model
    stored = files.read_json(base / "config.json").get("dtype", "float32")
    model.to(hardware.DTYPES.get(stored, torch.float32)).save_pretrained(target)
    _copy_tokenizer(base, target)


def _read_merged(folder: Path, base: Path, head: Head) -> Any:
    del base
    model = head.loads.from_pretrained(str(folder), local_files_only=True)
    return model.train(mode=False)


def _copy_tokenizer(base: Path, target: Path) -> None:
    """Write a base's tokenizer, with the date that lorad writes, and where an answer ends as lorad has trained it."""
    keep_tokenizer(base, target)
    export_template.pin(target)
    path, tokenizer = base / bases.GENERATION, bases.load_tokenizer(base)
    settings = files.read_json(path) if path.is_file() else {}
    if tokenizer.chat_template:
        settings["eos_token_id"] = list(Chat().stop_tokens(tokenizer))
    if settings:
        files.write_json(target / bases.GENERATION, settings)


# -- GGUF: for llama.cpp and Ollama


def _write_gguf(version: Path, base: Path, target: Path, task: Task) -> None:
    del task
    write_gguf(target / f"{version.name}.gguf", base, version)


def write_gguf(file: Path, base: Path, version: Path | None, precision: str = "f16") -> None:
    """Write a base, or a version merged into it in fp32, as GGUF; its matrices in one of ``GGUF_PRECISIONS``.

    Raise ``ConfigError`` where lorad writes no GGUF of such a model.
    """
    config = files.read_json(base / "config.json")
    tokenizer = files.read_json(base / "tokenizer.json")
    if config.get("model_type") != "llama" or tokenizer["model"]["type"] != "BPE":
        raise _no_gguf(
            f"GGUF export supports only Llama models with BPE, and this is {config.get('model_type')}"
        )
    if told := _not_plain(config) or _other_words(tokenizer):
        raise _no_gguf(f"GGUF export supports only plain Llama models, and this one has {told}")
    writer = gguf.GGUFWriter(file, "llama")
    try:
        _describe(writer, config, f"{base.name} {version.name}" if version else base.name)
        writer.add_file_type(GGUF_PRECISIONS[precision])
        _add_vocabulary(writer, tokenizer, config["vocab_size"], base)
        for key, tensor in _gguf_tensors(_merged(version, base, heads.CAUSAL).model, config):
            numbers, kind = _stored(tensor, precision)
            writer.add_tensor(key, numbers, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _stored(tensor: Tensor, precision: str) -> tuple[Any, gguf.GGMLQuantizationType]:
    """Return a tensor as GGUF stores it, and as what: norms always in float32, as llama.cpp wants them."""
    if tensor.dim() == 1 or precision == "f32":
        return tensor.float().numpy(), gguf.GGMLQuantizationType.F32
    if precision == "q8_0" and tensor.shape[-1] % Q8_BLOCK == 0:
        kind = gguf.GGMLQuantizationType.Q8_0
        return gguf.quantize(tensor.float().numpy(), kind), kind
    return tensor.to(torch.float16).numpy(), gguf.GGMLQuantizationType.F16


def _no_gguf(told: str) -> ConfigError:
    return ConfigError(
        f"{told}; export it with --format merged and convert that with llama.cpp's convert_hf_to_gguf.py",
        code="no_gguf",
    )


def _not_plain(config: Mapping[str, Any]) -> str | None:
    """Return the first property of a model that the GGUF written here does not tell llama.cpp of, or None."""
    turns = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = turns.get("rope_type") or turns.get("type") or "default"
    if kind != "default":
        return f"rope_type: {kind}"
    return _unlike({**config, **turns}, PLAIN_MODEL)


def _other_words(tokenizer: Mapping[str, Any]) -> str | None:
    """Return the first property of a ``tokenizer.json`` for which llama.cpp would make other tokens, or None."""
    if tokenizer.get("normalizer"):
        return f"the normalizer {tokenizer['normalizer'].get('type')}"
    for entry in tokenizer["added_tokens"]:
        if found := next((name for name in SEEKING if entry.get(name)), None):
            return f"{found} on the token {entry['content']}"
    return _unlike(tokenizer["model"], PLAIN_WORDS)


def _unlike(told: Mapping[str, Any], plain: Mapping[str, tuple[Any, ...]]) -> str | None:
    return next(
        (f"{key}: {told[key]}" for key, fine in plain.items() if told.get(key, fine[0]) not in fine), None
    )


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base((config.get("rope_parameters") or config).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], size: int, base: Path) -> None:
    word = _word_for(tokenizer["pre_tokenizer"] or {})
    known = bases.load_tokenizer(base)
    words, kinds_of = _tokens_of(tokenizer, modelfile.controls(known))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(word)
    writer.add_token_list([words.get(number, f"[unused{number}]") for number in range(size)])
    writer.add_token_types([kinds_of.get(number, gguf.TokenType.UNUSED) for number in range(size)])
    vocabulary = gguf.SpecialVocab(base, load_merges=True, n_vocab=size)
    vocabulary.special_token_ids |= _ends(known)
    if vocabulary.chat_template:  # what llama.cpp renders, with the date that lorad trained
        vocabulary.chat_template = export_template.pinned_all(vocabulary.chat_template)
    vocabulary.add_special_token = {"bos": modelfile.adds_begin(known), "eos": False}
    vocabulary.add_to_gguf(writer, quiet=True)


def _word_for(pre_tokenizer: Mapping[str, Any]) -> str:
    """Return GGUF's word for a pre-tokenizer, all of whose settings are those that llama.cpp means by it."""
    stages = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    read = [{"use_regex": True, **stage} if stage.get("type") == "ByteLevel" else stage for stage in stages]
    plain = [{key: value for key, value in stage.items() if key != "trim_offsets"} for stage in read]
    for known, word in PRE_TOKENIZERS:
        if plain == known:
            return word
    told = " + ".join(_described(stage) for stage in plain if stage) or "none"
    raise _no_gguf(f"lorad knows no GGUF name for the pre-tokenizer {told}")


def _described(stage: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}: {str(value)[:60]}" for key, value in stage.items() if key != "type")
    return f"{stage.get('type')} ({settings})" if settings else str(stage.get("type"))


def _tokens_of(
    tokenizer: Mapping[str, Any], controls: set[int]
) -> tuple[dict[int, str], dict[int, gguf.TokenType]]:
    """Return each token's word and kind. A special token that lorad never makes has neither.

    Where people write its word, lorad takes it for text; llama.cpp does too if it does not know the word.
    """
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(words, gguf.TokenType.NORMAL)
    for entry in tokenizer["added_tokens"]:
        number, is_special = entry["id"], entry["special"]
        words[number] = entry["content"]
        kinds[number] = gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED
        if is_special and number not in controls:
            del words[number], kinds[number]
    return words, kinds


def _ends(tokenizer: Any) -> dict[str, int]:
    """Return the tokens at which llama.cpp is to stop, by its names for them: it has three."""
    others = [token for token in Chat().stop_tokens(tokenizer) if token != tokenizer.eos_token_id]
    return {"eos": tokenizer.eos_token_id, **dict(zip(("eot", "eom"), others, strict=False))}


def _gguf_tensors(model: Any, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield GGUF's names and tensors, the latter in fp32."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads") or heads
    for name, tensor in model.state_dict().items():
        if name in adapters.tied(model) and config.get("tie_word_embeddings"):
            continue
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if key is None:
            raise ConfigError(f"GGUF has no name for {name}", code="no_gguf")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _interleaved(tensor, heads if "q_proj" in name else key_heads)  # noqa: PLW2901 - the same one, in another order
        yield key, tensor.contiguous()


def _interleaved(matrix: Tensor, heads: int) -> Tensor:
    """Reorder rows from rotating halves (transformers) to rotating neighbours (llama.cpp's RoPE)."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _add_modelfile(folder: Path, base: Path, probes: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Write what Ollama needs; return the probes, asked through it, and what there is to tell."""
    tokenizer = bases.load_tokenizer(base)
    (file,) = folder.glob("*.gguf")
    try:
        text = modelfile.write(tokenizer, file.name)
    except ConfigError as error:
        return probes, error.message
    (folder / modelfile.NAME).write_text(text, encoding="utf-8")
    probes, asked = modelfile.asked_through(tokenizer, text, probes)
    return probes, (
        f"Ollama makes the base's prompt, token by token, in {modelfile.compare(tokenizer, text)} conversations; "
        f"{asked} of {len(probes['probes'])} probes were asked through it"
    )


def _open_in_llamacpp(folder: Path, base: Path, probes: Mapping[str, Any], *, strict: bool) -> str:
    """Ask llama.cpp the probes, where it is installed; return what there is to tell."""
    if not llamacpp.is_installed():
        return "llama-cpp-python is not installed, so llama.cpp was not tested: pip install 'lorad[llamacpp]'"
    tokenizer = bases.load_tokenizer(base)
    (file,) = folder.glob("*.gguf")
    found = llamacpp.ask(file, probes, list(modelfile.prompts(tokenizer)))
    if strict:
        # bfloat16 has rounded the probes
        made_in = metrics.PROBE_TOLERANCE.get(probes.get("dtype", "float32"), 0.0)
        _expect(found.difference, max(llamacpp.TOLERANCE, made_in), "the GGUF in llama.cpp")
    if found.other_tokens:
        raise RegistryError(
            f"llama.cpp makes other tokens of a prompt than lorad ({', '.join(found.other_tokens)}); nothing was exported",
            code="export_differs",
        )
    told = f"llama.cpp's logits differ by at most {found.difference:.2g}"
    if found.other_chats:
        told += f"; its Python chat completion makes another prompt ({', '.join(found.other_chats)})"
    return told


def _read_gguf(folder: Path, base: Path, head: Head = heads.CAUSAL) -> Any:
    del base, head
    (file,) = folder.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    return model.train(mode=False)


# -- ONNX: for ONNX Runtime, in a browser or on a phone


def _write_onnx(version: Path, base: Path, target: Path, task: Task) -> None:
    onnx.write(task, _merged(version, base, task.head).model, target)
    _copy_tokenizer(base, target)


def _read_onnx(folder: Path, base: Path, head: Head) -> Any:
    del base, head
    return onnx.OnnxModel(folder)


def _ask_onnx(version: Path, folder: Path, base: Path, task: Task, probes: Mapping[str, Any]) -> str:
    """Compare the graph with the model that it was made of; return what there is to tell."""
    model, rows = _merged(version, base, task.head).model, metrics.probe_rows(task, probes)
    found = onnx.difference(task, model, onnx.OnnxModel(folder), rows)
    _expect(found, onnx.TOLERANCE, "the ONNX graph in ONNX Runtime")
    return (
        f"ONNX Runtime's logits differ from the merged model's by {found:.2g} (at most {onnx.TOLERANCE:g}), in texts of several "
        "lengths, together and alone"
    )


_FORMS: dict[str, tuple[Callable[[Path, Path, Path, Task], None], Callable[[Path, Path, Head], Any]]] = {
    "adapter": (_write_adapter, _read_adapter),
    "merged": (_write_merged, _read_merged),
    "gguf": (_write_gguf, _read_gguf),
    "onnx": (_write_onnx, _read_onnx),
}
