"""llama-cpp-python as ``lorad.versions.llamacpp`` uses it, answered by transformers: the package itself has to be compiled."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def install(monkeypatch, fault=""):
    """Make it the library that is found; with a ``fault`` in its logits, tokens or chat."""
    library = ModuleType("llama_cpp")
    library.__spec__ = ModuleSpec("llama_cpp", None)
    library.Llama = lambda **how: Llama(how["model_path"], fault)
    monkeypatch.setitem(sys.modules, "llama_cpp", library)


class Llama:
    """A GGUF, opened."""

    def __init__(self, model_path, fault):
        file = Path(model_path)
        how = {"gguf_file": file.name, "local_files_only": True}
        self._model = AutoModelForCausalLM.from_pretrained(
            file.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **how
        )
        self._tokenizer = AutoTokenizer.from_pretrained(file.parent, **how)
        self._fault = fault
        self.input_ids = []
        self.scores = []

    def reset(self):
        self.input_ids, self.scores = [], []

    def close(self):
        self._model = None

    @torch.inference_mode()
    def eval(self, tokens):
        self.input_ids = list(tokens)
        logits = self._model(input_ids=torch.tensor([self.input_ids])).logits[0]
        self.scores = (logits + 9.0 * (self._fault == "logits")).tolist()

    def tokenize(self, text, *, add_bos, special):
        assert special
        text = text.decode() + " " * (self._fault == "tokens")
        return self._tokenizer(text, add_special_tokens=add_bos)["input_ids"]

    def create_chat_completion(self, messages, *, max_tokens, temperature):
        assert (max_tokens, temperature) == (1, 0.0)
        asked = messages[-1:] if self._fault == "chat" else messages
        text = self._tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        text += "!" * (self._fault == "chat")
        self.eval([*self._tokenizer(text, add_special_tokens=False)["input_ids"], 0])
        return {"usage": {"prompt_tokens": len(self.input_ids) - 1}}
