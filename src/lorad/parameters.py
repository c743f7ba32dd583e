"""Materials: the parameters of a chat completion request, and which of them lorad supports.

What lives here: one table of what OpenAI's API and its imitators know, and the refusal of what would be ignored
though it changes an answer. What never does: values of what is done (``schemas``), HTTP.

Every parameter is done, harmless, or refused by its name. One that no server knows is let through, unless it looks
like a misspelt one that is done.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorad.errors import ProtocolError

DONE = frozenset(
    {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "stop",
        "seed",
    }
)
"""What ``schemas.ChatBody`` reads."""

HARMLESS = frozenset(
    {
        # who asks, and how a hosted service files, bills, stores and caches it
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache_prompt",
        "keep_alive",
        "priority",
        "request_id",
        "prediction",  # saves a hosted service time, and changes no answer
    }
)
"""What says something about a request and nothing about its answer."""

_EMPTY: tuple[Any, ...] = ("", [], {})


@dataclass(frozen=True, slots=True)
class Refused:
    """A parameter that changes answers and that lorad does not do."""

    why: str
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing, the plainest first."""

    def sentence(self, name: str) -> str:
        """Return what to do instead."""
        or_send = f" or send {json.dumps(self.neutral[0])}" if self.neutral else ""
        return f"lorad does not support {name}: {self.why}; leave it out{or_send}"


_ONE = "a request gets one answer"
_NO_LOGPROBS = "it returns text and no probabilities"
_NO_PENALTY = "it does not penalise repetition, since a learned answer may repeat itself; use temperature, top_p, top_k or min_p"
_NO_BIAS = "it does not change the probability of single tokens"
_NO_GRAMMAR = "it does not constrain an answer's format; ask for the format in the messages, or teach it"
_OLD_TOOLS = "this is the old form; write tools and tool_choice"
_TEXT_ONLY = "its models read and write text only"
_NO_REASONING = "its models answer without reasoning first"
_NO_SEARCH = "it answers from the model alone"
_ONE_TEMPLATE = "a prompt is always made with the base model's own chat template"
_NO_BEAMS = "it samples with temperature, top_p, top_k and min_p only"
_NO_ENDS = "an answer ends where the model ends it; use stop and max_tokens"
_BY_MODEL = "choose a version by its name: model chat@v0.1"

REFUSED: Mapping[str, Refused] = {
    # OpenAI's
    "n": Refused(_ONE, (1,)),
    "logprobs": Refused(_NO_LOGPROBS, (False, 0)),
    "top_logprobs": Refused(_NO_LOGPROBS, (0,)),
    "presence_penalty": Refused(_NO_PENALTY, (0,)),
    "frequency_penalty": Refused(_NO_PENALTY, (0,)),
    "logit_bias": Refused(_NO_BIAS, ({}, [])),
    "response_format": Refused(_NO_GRAMMAR, ({"type": "text"},)),
    "functions": Refused(_OLD_TOOLS, ([],)),
    "function_call": Refused(_OLD_TOOLS, ("none", "auto")),
    "parallel_tool_calls": Refused("it does not limit how many tools are called", (True,)),
    "modalities": Refused(_TEXT_ONLY, (["text"], [])),
    "audio": Refused(_TEXT_ONLY),
    "reasoning_effort": Refused(_NO_REASONING, ("none",)),
    "verbosity": Refused("answers are as long as they were learned; use max_tokens", ("medium",)),
    "web_search_options": Refused(_NO_SEARCH),
    "moderation": Refused("it does not moderate"),
    # of OpenAI's older and newer routes
    "best_of": Refused(_ONE, (1,)),
    "echo": Refused("an answer does not repeat its question", (False,)),
    "suffix": Refused("it does not write what stands before a text", ("",)),
    "previous_response_id": Refused("it keeps no conversations; send all messages"),
    "conversation": Refused("it keeps no conversations; send all messages"),
    "reasoning": Refused(_NO_REASONING, ({},)),
    "text": Refused(_NO_GRAMMAR, ({"format": {"type": "text"}}, {})),
    "truncation": Refused("it cuts no messages", ("disabled",)),
    "background": Refused("it answers at once", (False,)),
    # how other servers choose tokens: vLLM, llama.cpp, Ollama, TGI, transformers
    "repetition_penalty": Refused(_NO_PENALTY, (1,)),
    "repeat_penalty": Refused(_NO_PENALTY, (1,)),
    "encoder_repetition_penalty": Refused(_NO_PENALTY, (1,)),
    "no_repeat_ngram_size": Refused(_NO_PENALTY, (0,)),
    "dry_multiplier": Refused(_NO_PENALTY, (0,)),
    "length_penalty": Refused(_NO_BEAMS, (1, 0)),
    "diversity_penalty": Refused(_NO_BEAMS, (0,)),
    "penalty_alpha": Refused(_NO_BEAMS, (0,)),
    "num_beams": Refused(_NO_BEAMS, (1,)),
    "num_beam_groups": Refused(_NO_BEAMS, (1,)),
    "beam_width": Refused(_NO_BEAMS, (1,)),
    "use_beam_search": Refused(_NO_BEAMS, (False,)),
    "early_stopping": Refused(_NO_BEAMS, (False,)),
    "num_return_sequences": Refused(_ONE, (1,)),
    "typical_p": Refused(_NO_BEAMS, (1,)),
    "typical": Refused(_NO_BEAMS, (1,)),
    "tfs_z": Refused(_NO_BEAMS, (1,)),
    "top_a": Refused(_NO_BEAMS, (0,)),
    "top_n_sigma": Refused(_NO_BEAMS, (-1, 0)),
    "epsilon_cutoff": Refused(_NO_BEAMS, (0,)),
    "eta_cutoff": Refused(_NO_BEAMS, (0,)),
    "mirostat": Refused(_NO_BEAMS, (0,)),
    "mirostat_mode": Refused(_NO_BEAMS, (0,)),
    "dynatemp_range": Refused(_NO_BEAMS, (0,)),
    "dynamic_temperature": Refused(_NO_BEAMS, (False,)),
    "smoothing_factor": Refused(_NO_BEAMS, (0,)),
    "xtc_probability": Refused(_NO_BEAMS, (0,)),
    "samplers": Refused(_NO_BEAMS, ([],)),
    "guidance_scale": Refused(_NO_BEAMS, (1,)),
    "negative_prompt": Refused(_NO_BEAMS, ("",)),
    "do_sample": Refused("temperature decides, 0 takes the likeliest token", (False,)),
    "allowed_token_ids": Refused(_NO_BIAS, ([],)),
    "suppress_tokens": Refused(_NO_BIAS, ([],)),
    "bad_words": Refused(_NO_BIAS, ([],)),
    "bad_words_ids": Refused(_NO_BIAS, ([],)),
    "force_words_ids": Refused(_NO_BIAS, ([],)),
    "logits_processors": Refused(_NO_BIAS, ([],)),
    "prompt_logprobs": Refused(_NO_LOGPROBS, (0, False)),
    # how other servers end and form answers
    "ignore_eos": Refused(_NO_ENDS, (False,)),
    "min_tokens": Refused(_NO_ENDS, (0,)),
    "min_new_tokens": Refused(_NO_ENDS, (0,)),
    "min_length": Refused(_NO_ENDS, (0,)),
    "stop_token_ids": Refused(_NO_ENDS, ([],)),
    "include_stop_str_in_output": Refused(_NO_ENDS, (False,)),
    "skip_special_tokens": Refused(_NO_ENDS, (True,)),
    "spaces_between_special_tokens": Refused(_NO_ENDS, (True,)),
    "n_keep": Refused("it cuts no messages", (0,)),
    "truncate_prompt_tokens": Refused("it cuts no messages"),
    "transforms": Refused("it cuts no messages", ([],)),
    "num_ctx": Refused("the context is as long as the base model's"),
    **dict.fromkeys(
        (
            "format",
            "grammar",
            "json_schema",
            "structured_outputs",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "guided_decoding_backend",
            "regex",
            "ebnf",
        ),
        Refused(_NO_GRAMMAR, _EMPTY),
    ),
    # how other servers make the prompt
    "chat_template": Refused(_ONE_TEMPLATE, ("",)),
    "chat_template_kwargs": Refused(_ONE_TEMPLATE, ({},)),
    "instruction_template": Refused(_ONE_TEMPLATE, ("",)),
    "template": Refused(_ONE_TEMPLATE, ("",)),
    "raw": Refused(_ONE_TEMPLATE, (False,)),
    "add_generation_prompt": Refused(_ONE_TEMPLATE, (True,)),
    "add_special_tokens": Refused(_ONE_TEMPLATE, (False,)),
    "continue_final_message": Refused("it does not continue a started answer", (False,)),
    "safe_prompt": Refused(_ONE_TEMPLATE, (False,)),
    "preset": Refused("name each parameter", ("",)),
    "character": Refused(_ONE_TEMPLATE, ("",)),
    "documents": Refused("it has no place for documents; write them into a message", ([],)),
    "data_sources": Refused(_NO_SEARCH, ([],)),
    "plugins": Refused(_NO_SEARCH, ([],)),
    "images": Refused(_TEXT_ONLY, ([],)),
    "think": Refused(_NO_REASONING, (False,)),
    "thinking": Refused(_NO_REASONING, ({"type": "disabled"},)),
    "enable_thinking": Refused(_NO_REASONING, (False,)),
    "thinking_budget": Refused(_NO_REASONING, (0,)),
    # which weights answer
    **dict.fromkeys(
        ("adapter", "adapter_id", "adapters", "lora", "lora_adapter", "lora_path", "lora_request", "models"),
        Refused(_BY_MODEL, _EMPTY),
    ),
}
"""What changes answers elsewhere and is not done here; one at a neutral value asks for nothing and is let through."""

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("prompt", "input", "inputs", "query", "question"), "messages"),
    **dict.fromkeys(("system", "system_prompt", "instructions"), "a message with the role system"),
    **dict.fromkeys(
        ("max_new_tokens", "max_output_tokens", "max_length", "n_predict", "num_predict"), "max_tokens"
    ),
    **dict.fromkeys(("stop_sequences", "stop_strings", "stopping_strings"), "stop"),
    **dict.fromkeys(("model_name", "model_id", "engine", "deployment"), "model"),
    "temp": "temperature",
    "random_seed": "seed",
    "options": "each of the options by itself, beside model and messages",
    "parameters": "each of the parameters by itself, beside model and messages",
    "sampling_params": "each of the parameters by itself, beside model and messages",
    "extra_body": "what is in it by itself, beside model and messages",
    "generation_config": "each of its settings by itself, beside model and messages",
}
"""What other APIs call something that lorad does."""

REFUSED_IN_MESSAGES: Mapping[str, str] = {
    "function_call": "this is the old form; write tool_calls",
    "refusal": "what a model refused is its content here; write it there",
    "audio": _TEXT_ONLY,
    "images": _TEXT_ONLY,
    **dict.fromkeys(
        ("attachments", "files", "documents"), "the model reads content alone; write their text there"
    ),
    **dict.fromkeys(
        ("reasoning", "reasoning_content", "thinking"),
        "the model reads content and tool_calls alone; leave it out",
    ),
    **dict.fromkeys(
        ("prefix", "partial"), "lorad does not continue a started answer; end with the message to answer"
    ),
}
"""What a message may say elsewhere. Its other fields are let through: ``name``, as files are read without it too, and
what says nothing to a model, such as ``tool_call_id``."""


def check(request: Mapping[str, Any]) -> None:
    """Raise ``ProtocolError`` on the first parameter that would be ignored and changes the answer."""
    for name, value in request.items():
        if value is not None and (told := _refusal(name, value)):
            raise ProtocolError(told, code="unsupported_parameter", param=name)


def _refusal(name: str, value: Any) -> str | None:
    if name in DONE or name in HARMLESS:
        return None
    if refused := REFUSED.get(name):
        return None if value in refused.neutral else refused.sentence(name)
    if other := ELSEWHERE.get(name):
        return None if value in _EMPTY else f"lorad does not read {name}; write {other}"
    meant = _meant(name)
    return f"there is no parameter {name}; did you mean {meant}?" if meant else None


def _meant(name: str) -> str | None:
    """Return the parameter that is done and that a name is a misspelling of: ``maxTokens``, ``temprature``."""
    plain = {known.replace("_", ""): known for known in DONE}
    near = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), plain, n=1, cutoff=0.85)
    return plain[near[0]] if near else None


def check_message(message: Mapping[str, Any], where: str) -> None:
    """Raise ``ProtocolError`` when a message says something that the model would not be told."""
    for name, why in REFUSED_IN_MESSAGES.items():
        if message.get(name):
            raise ProtocolError(
                f"{where}.{name} is not read: {why}", code="unsupported_parameter", param=f"{where}.{name}"
            )
