"""A masked language model of SMILES as other packages carry it, made into a folder as transformers has them.

What lives here: rxnmapper's ALBERT (Schwaller et al. 2021): its weights as safetensors, and its regular expression as a
tokenizer. What never does: storing bases (``bases``), chemistry. Nothing of the package is run.
"""

from pathlib import Path

from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lorad.models.peft_io import read_tensors
from lorad.storage import files

PICKLE, VOCABULARY = "pytorch_model.bin", "vocab.txt"
ATOMS = (
    r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"
)
"""What is one token of a SMILES (Schwaller et al. 2019, as rxnmapper 0.4.3 has it)."""
LONGEST = 512
UNUSED = "albert.pooler."
"""What the package stores beside a masked language model, which has no place for it."""
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def prepare(folder: Path) -> None:
    """Put safetensors and ``tokenizer.json`` in the place of a folder's pickled weights and its vocabulary.

    Weights are read as tensors alone (``read_tensors``). Raise ``RegistryError`` where that is not all that they are.
    """
    tensors = read_tensors(folder / PICKLE)
    # names that share a tensor are told apart: safetensors keeps each by itself
    save_file(
        {name: each.clone().contiguous() for name, each in tensors.items() if not name.startswith(UNUSED)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    words = (folder / VOCABULARY).read_text(encoding="utf-8").splitlines()
    for name in (PICKLE, VOCABULARY, "training_args.bin", "special_tokens_map.json", "tokenizer_config.json"):
        files.remove(folder / name)
    tokenizer(words).save_pretrained(folder)


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a vocabulary: one token for each atom, bond, bracket and ring."""
    numbers = {word: number for number, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(numbers, unk_token=_SPECIAL["unk"]))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(ATOMS), "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(word, numbers[word]) for word in (_SPECIAL["cls"], _SPECIAL["sep"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=LONGEST,
        **{f"{name}_token": word for name, word in _SPECIAL.items()},
    )
