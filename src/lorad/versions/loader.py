"""Bringing a version into memory, after it has proven that it is what was promoted.

What lives here: the checks between verified files and the first answer, in the order in which the cheaper and
the more certain comes first. What never does: hashes (``version_folders.verify``), what happens to a version that fails.

    files as promoted -> header -> config against weights -> vocabulary -> environment -> calibration -> probes
"""

import contextlib
import platform
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from lorad.errors import RegistryError
from lorad.evaluation import metrics
from lorad.models import bases, hardware, version_weights
from lorad.models.adapter_stack import AdapterStack
from lorad.storage import files
from lorad.tasks import Task
from lorad.versions import calibrations, papers

CALIBRATION_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1}
"""How far the probability of a probe's answer may move; bfloat16 rounds."""
PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""What a version keeps of the tokenizer that it was trained with, with the templates beside its own."""


def environment(device: str, dtype: str, quantization: str = "none") -> dict[str, str]:
    """Return what the numbers of a model may depend on: versions, device, precision, and how its base is quantised."""
    quantizer = {"bitsandbytes": installed("bitsandbytes")} if quantization != "none" else {}
    return {
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "device": device,
        "processor": _processor(device),
        "dtype": dtype,
        "quantization": quantization,
        **quantizer,
        **hardware.cuda_libraries(device),
    }


def _processor(device: str) -> str:
    """Name what computes: another card or processor may round otherwise."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def compare(made_in: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Return one sentence for each thing that differs; what was not noted then cannot differ."""
    return [
        f"{name} was {made_in[name]} and is {value}"
        for name, value in now.items()
        if made_in.get(name) is not None and str(made_in[name]) != value
    ]


def check(folder: Path, base: bases.Base, base_folder: Path | None, *, strict: bool) -> list[str]:
    """Check a version against itself, its base and this environment; return what differs without being refused.

    Raise ``RegistryError``; its codes are those of ``version_weights.check``, ``other_tokenizer`` and, when
    ``strict``, ``other_environment``.
    """
    version_weights.check(folder, base.model)
    if base_folder is not None:
        _check_tokenizer(folder, base_folder)
    made_in = _made_in(folder)
    now = environment(base.model.device.type, _dtype(base.model), base.quantization)
    differs = compare({"quantization": made_for(folder), **made_in} if made_in else made_in, now)
    if differs and strict:
        raise RegistryError(
            f"{folder.name} was made in another environment: {'; '.join(differs)}; restore that one, set "
            "engine.strict_environment to false, or train again with: lorad consolidate --refit",
            code="other_environment",
            version=folder.name,
            differs=differs,
        )
    return differs


def keep_tokenizer(base_folder: Path, folder: Path) -> None:
    """Copy what there is of a base's tokenizer into a version's folder."""
    for name in (*TOKENIZER_FILES, *bases.additional_templates(base_folder)):
        if (base_folder / name).is_file():
            files.write_bytes(folder / name, (base_folder / name).read_bytes())


def _check_tokenizer(folder: Path, base_folder: Path) -> None:
    for name in (*TOKENIZER_FILES, *bases.additional_templates(folder)):
        kept, present = folder / name, base_folder / name
        if kept.is_file() and (not present.is_file() or kept.read_bytes() != present.read_bytes()):
            raise RegistryError(
                f"{folder.name} was trained with another {name} than its base model has now; restore that base",
                code="other_tokenizer",
                version=folder.name,
                file=name,
            )


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def made_for(folder: Path) -> str:
    """Return in which form of the base a version was judged: ``none``, which older papers do not say, ``8bit`` or ``4bit``."""
    return str(_made_in(folder).get("quantization", "none"))


def _made_in(folder: Path) -> dict[str, Any]:
    """Return the environment that a version's metadata tells of; an import may tell of none."""
    try:
        return dict(files.read_json(folder / papers.METADATA)["framework"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def load(
    task: Task,
    stack: AdapterStack,
    slot: str,
    folder: Path,
    base_folder: Path | None = None,
    *,
    strict: bool = False,
    is_calibration_checked: bool = True,
) -> list[str]:
    """Bring a version whose files are verified into a stack, or leave the stack as it was and raise ``RegistryError``.

    Return what differs from the environment that it was made in.
    """
    differs = check(folder, stack.base, base_folder, strict=strict)
    stack.add(slot, folder)
    try:
        if made_for(folder) != stack.base.quantization:
            prove_in_another_form(task, stack.model(slot), stack.base.quantization, folder)
        else:
            if is_calibration_checked:
                check_calibration(task, stack.model(slot), stack.base.tokenizer, folder)
            prove(task, stack.model(slot), folder)
    except BaseException:
        stack.unload(slot)
        raise
    return differs


def prove(task: Task, model: Any, folder: Path) -> None:
    """Ask a version that is loaded as this model its probes; raise if it answers otherwise than when it was made."""
    path, version = folder / metrics.PROBES, folder.name
    if not path.is_file():  # whether it should be there is the manifest's business
        return
    try:
        with hardware.passing_errors(f"asking {version} its probes"):
            found, limit = metrics.probe_again(task, model, files.read_json(path))
    except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise RegistryError(
            f"the probes of {version} cannot be asked: {error}", code="probes_damaged", version=version
        ) from error
    if not found <= limit:
        raise RegistryError(
            f"{version} does not answer its probes as when it was made: a logit differs by {found:.3g} "
            f"(at most {limit:g}); lorad serves the newest intact version instead",
            code="probes_failed",
            version=version,
        )


def prove_in_another_form(task: Task, model: Any, form: str, folder: Path) -> None:
    """Ask a version its probes over a base that is quantised otherwise than when it was judged.

    Its logits are others then, so what counts is that it says the same. Raise ``RegistryError`` (``other_quantization``) where it
    does not, or has no probes to tell by.
    """
    path, version, made = folder / metrics.PROBES, folder.name, made_for(folder)
    try:
        says_the_same = path.is_file() and metrics.says_the_same(task, model, files.read_json(path))
    except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise RegistryError(
            f"the probes of {version} cannot be asked: {error}", code="probes_damaged", version=version
        ) from error
    if not says_the_same:
        raise RegistryError(
            f"{version} was judged on the base with quantization {made}, and over one with {form} it cannot be shown to answer "
            f"alike; set training.quantize to {made}, or train again with: lorad consolidate --refit",
            code="other_quantization",
            version=version,
            made=made,
            served=form,
        )


def check_calibration(task: Task, model: Any, tokenizer: Any, folder: Path) -> None:
    """Hold how sure a version is of its probes against how sure it was when it was calibrated; raise if that has moved."""
    version = folder.name
    own = calibrations.own(folder)
    if own is None:
        return
    try:
        with hardware.passing_errors(f"asking {version} how sure it is"):
            probes = files.read_json(folder / metrics.PROBES)
            found = metrics.probe_confidences(task, model, tokenizer, metrics.probe_rows(task, probes))
            moves = [abs(now - then) for now, then in zip(found, own["probes"], strict=True)]
            precisions = {str(own["environment"]["dtype"]), _dtype(model)}
    except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise RegistryError(
            f"the calibration of {version} cannot be checked: {error}",
            code="calibration_damaged",
            version=version,
        ) from error
    moved = max(moves, default=0.0)
    limit = CALIBRATION_TOLERANCE["bfloat16" if "bfloat16" in precisions else "float32"]
    if not moved <= limit:
        raise RegistryError(
            f"the calibration of {version} has drifted: of a probe it is {moved:.3g} surer or less sure than when it was made "
            f"(at most {limit:g}); lorad serves the newest intact version instead; see: lorad calibrate {version} --check",
            code="calibration_drifted",
            version=version,
            moved=moved,
        )


def prove_alike(task: Task, model: Any, reference: Any, folder: Path) -> None:
    """Ask another form of a version that is loaded its probes; raise also where it gets other ones of them right."""
    prove(task, model, folder)
    path = folder / metrics.PROBES
    if path.is_file():
        rows = metrics.probe_rows(task, files.read_json(path))
        if metrics.recalled(task, model, rows) != metrics.recalled(task, reference, rows):
            raise RegistryError(
                f"{folder.name} gets other probes right in this form",
                code="probes_failed",
                version=folder.name,
            )
