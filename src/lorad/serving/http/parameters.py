"""The parameters of a request for an answer, and which of them lorad supports.

What lives here: one table of what OpenAI's API and its imitators know, and the refusal of what would be ignored
though it changes an answer. What never does: values of what is done (``schemas``, ``openai_bodies``), HTTP.

Every parameter is done, harmless, or refused by its name, in whatever case and with whatever between its words. One
that no server knows is let through, unless it looks like a misspelt one that is known.
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
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "stop",
        "seed",
        "response_format",
        "logprobs",
        "top_logprobs",
        "lorad",
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


_OTHER_LOGPROBS = "it tells the probabilities of an answer's tokens alone, with logprobs and top_logprobs"
_NO_PENALTY = "it does not penalise repetition, since a learned answer may repeat itself; use temperature, top_p, top_k or min_p"
_NO_BIAS = "it does not change the probability of single tokens"
_NO_GRAMMAR = "the form of an answer is a JSON schema under response_format"
_OLD_TOOLS = "this is the old form; write tools and tool_choice"
_TEXT_ONLY = "its models read and write text only"
_NO_REASONING = "its models answer without reasoning first"
_NO_SEARCH = "it answers from what it was taught alone"
_ONE_TEMPLATE = "a prompt is always made with the base model's own chat template"
_NO_BEAMS = "it samples with temperature, top_p, top_k and min_p only"
_NO_ENDS = "an answer ends where the model ends it; use stop and max_tokens"
_BY_MODEL = "choose a version by its name: model chat@v0.1"

REFUSED: Mapping[str, Refused] = {
    # OpenAI's
    "presence_penalty": Refused(_NO_PENALTY, (0,)),
    "frequency_penalty": Refused(_NO_PENALTY, (0,)),
    "logit_bias": Refused(_NO_BIAS, ({}, [])),
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
    "best_of": Refused("it chooses among no answers; n returns several", (1,)),
    "echo": Refused("an answer does not repeat its question", (False,)),
    "suffix": Refused("it does not write what stands before a text", ("",)),
    "previous_response_id": Refused("it keeps no conversations; send all messages"),
    **dict.fromkeys(
        ("conversation", "conversation_id", "thread_id", "history", "chat_history", "context"),
        Refused("it keeps no conversations; send all messages", _EMPTY),
    ),
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
    "do_sample": Refused("temperature decides, 0 takes the likeliest token"),
    "allowed_token_ids": Refused(_NO_BIAS, ([],)),
    "suppress_tokens": Refused(_NO_BIAS, ([],)),
    "bad_words": Refused(_NO_BIAS, ([],)),
    "bad_words_ids": Refused(_NO_BIAS, ([],)),
    "force_words_ids": Refused(_NO_BIAS, ([],)),
    "logits_processors": Refused(_NO_BIAS, ([],)),
    **dict.fromkeys(
        (
            "prompt_logprobs",
            "return_logprobs",
            "n_probs",
            "top_n_tokens",
            "output_scores",
            "decoder_input_details",
        ),
        Refused(_OTHER_LOGPROBS, (0, False)),
    ),
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
            "json",
            "json_mode",
            "json_schema",
            "schema",
            "response_schema",
            "response_mime_type",
            "output_format",
            "output_schema",
            "structured_outputs",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "guided_decoding_backend",
            "regex",
            "ebnf",
        ),
        Refused(_NO_GRAMMAR, (*_EMPTY, False)),
    ),
    # how other servers make the prompt
    "chat_template": Refused(_ONE_TEMPLATE, ("",)),
    "chat_template_kwargs": Refused(_ONE_TEMPLATE, ({},)),
    "instruction_template": Refused(_ONE_TEMPLATE, ("",)),
    "template": Refused(_ONE_TEMPLATE, ("",)),
    "raw": Refused(_ONE_TEMPLATE, (False,)),
    "add_generation_prompt": Refused(_ONE_TEMPLATE, (True,)),
    "add_special_tokens": Refused(_ONE_TEMPLATE, (False,)),
    "continue_final_message": Refused("it does not continue an answer", (False,)),
    "safe_prompt": Refused(_ONE_TEMPLATE, (False,)),
    "preset": Refused("name each parameter", ("",)),
    "character": Refused(_ONE_TEMPLATE, ("",)),
    "documents": Refused("it has no place for documents; write them into a message", ([],)),
    "data_sources": Refused(_NO_SEARCH, ([],)),
    "plugins": Refused(_NO_SEARCH, ([],)),
    **dict.fromkeys(
        ("images", "image", "image_url", "videos", "files", "file_ids", "attachments"),
        Refused(_TEXT_ONLY, _EMPTY),
    ),
    **dict.fromkeys(
        ("safety_settings", "guardrails", "guardrail_config"), Refused("it does not moderate", _EMPTY)
    ),
    **dict.fromkeys(("tool_config", "tool_resources"), Refused("use tools and tool_choice", _EMPTY)),
    "think": Refused(_NO_REASONING, (False,)),
    "thinking": Refused(_NO_REASONING, ({"type": "disabled"},)),
    "enable_thinking": Refused(_NO_REASONING, (False,)),
    "thinking_budget": Refused(_NO_REASONING, (0,)),
    # which weights answer
    **dict.fromkeys(
        (
            "adapter",
            "adapter_id",
            "adapters",
            "lora",
            "lora_adapter",
            "lora_name",
            "lora_path",
            "lora_request",
            "models",
            "revision",
        ),
        Refused(_BY_MODEL, _EMPTY),
    ),
}
"""What changes answers elsewhere and is not done here; one at a neutral value asks for nothing and is let through."""

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("prompt", "input", "inputs", "query", "question", "message", "contents"), "messages"),
    **dict.fromkeys(
        (
            "system",
            "system_prompt",
            "system_message",
            "system_instruction",
            "instructions",
            "preamble",
            "developer",
        ),
        "a message with the role system",
    ),
    **dict.fromkeys(
        (
            "max_new_tokens",
            "max_output_tokens",
            "max_gen_len",
            "max_tokens_to_sample",
            "max_length",
            "n_predict",
            "num_predict",
        ),
        "max_tokens",
    ),
    **dict.fromkeys(
        ("stop_sequences", "stop_strings", "stop_words", "stopping_strings", "antiprompt"), "stop"
    ),
    **dict.fromkeys(("model_name", "model_id", "engine", "deployment"), "model"),
    **dict.fromkeys(("num_completions", "candidate_count", "num_generations", "num_return_sequences"), "n"),
    "temp": "temperature",
    "p": "top_p",
    "k": "top_k",
    "random_seed": "seed",
    **dict.fromkeys(
        ("options", "settings", "config", "params", "parameters", "sampling_params", "model_kwargs"),
        "each of them by itself, beside model and messages",
    ),
    **dict.fromkeys(
        ("generation_config", "inference_config"),
        "each of its settings by itself, beside model and messages",
    ),
    "extra_body": "what is in it by itself, beside model and messages",
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
        ("prefix", "partial"), "lorad does not continue an answer; end with the message to answer"
    ),
}
"""What a message may say elsewhere. Its other fields are let through: ``name``, as files are read without it too, and
``tool_call_id``, which says whose answer it is."""


READ_IN_MESSAGES = ("role", "content", "tool_calls", "tool_call_id")
"""What ``schemas`` reads of a message."""


class Parameters:
    """What one route reads of a request, and what it says of everything else that servers know."""

    def __init__(
        self,
        done: frozenset[str],
        refused: Mapping[str, Refused] = REFUSED,
        elsewhere: Mapping[str, str] = ELSEWHERE,
    ) -> None:
        self._done = done
        self._refused = {name: each for name, each in refused.items() if name not in done}
        self._elsewhere = {name: each for name, each in elsewhere.items() if name not in done}
        self._known = {_plain(name): name for name in (*done, *HARMLESS, *self._refused, *self._elsewhere)}

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise ``ProtocolError`` on the first parameter that would be ignored and changes the answer."""
        for name, value in request.items():
            if value is not None and (told := self._refusal(name, value, request)):
                raise ProtocolError(told, code="unsupported_parameter", param=name)

    def _refusal(self, name: str, value: Any, request: Mapping[str, Any]) -> str | None:
        meant = self._meant(name)
        if meant is None or meant in HARMLESS or (meant == name and name in self._done):
            return None
        if refused := self._refused.get(meant):
            asks_nothing = value in refused.neutral or _says_the_same(meant, value, request)
            return None if asks_nothing else refused.sentence(name)
        if other := self._elsewhere.get(meant):
            return None if value in _EMPTY else f"lorad does not read {name} here; write {other}"
        return f"there is no parameter {name}; did you mean {meant}?"

    def _meant(self, name: str) -> str | None:
        """Return the known parameter of this name, however it is written or misspelt."""
        plain = _plain(name)
        if plain in self._known:
            return self._known[plain]
        near = difflib.get_close_matches(plain, self._known, n=1, cutoff=_LIKENESS)
        return None if not near or plain.endswith("id") else self._known[near[0]]


def _says_the_same(name: str, value: Any, request: Mapping[str, Any]) -> bool:
    """Tell whether a parameter asks only for what others of the request do anyway."""
    if name == "parallel_tool_calls":  # a choice that is forced is exactly one call (decision 64)
        is_one = request.get("tool_choice") not in (None, "auto") or not request.get("tools")
        return value is False and is_one
    return name == "do_sample" and isinstance(value, bool) and value == bool(request.get("temperature"))


def _plain(name: str) -> str:
    """Return a name without what programs spell differently: ``maxTokens``, ``Max-Tokens``, ``max_tokens``."""
    return "".join(filter(str.isalnum, name.casefold()))


_KNOWN_IN_MESSAGES = {_plain(name): name for name in (*READ_IN_MESSAGES, *REFUSED_IN_MESSAGES)}
_LIKENESS = 0.85
"""From here on a name is a misspelling: ``temprature``, ``response_formt``; what ends in ``id`` names another thing."""


CHAT = Parameters(DONE)
"""Of chat completions."""

_NOT_A_CHAT = "a completion is no conversation; use POST /v1/chat/completions"
COMPLETION = Parameters(
    DONE
    - {
        *("messages", "tools", "tool_choice", "max_completion_tokens", "response_format", "top_logprobs"),
        "lorad",
    }
    | {"prompt"},
    {
        **REFUSED,
        "tools": Refused(_NOT_A_CHAT, ([],)),
        "tool_choice": Refused(_NOT_A_CHAT, ("none", "auto")),
        "response_format": Refused(_NOT_A_CHAT, ({"type": "text"},)),
        "lorad": Refused("it looks nothing up for a completion", ({}, {"retrieve": False})),
        "top_logprobs": Refused("a completion says with logprobs how many it wants, 0 to 5", (0,)),
    },
    {
        **ELSEWHERE,
        **dict.fromkeys(
            ("messages", "input", "inputs", "query", "question", "message", "contents"), "prompt"
        ),
        "max_completion_tokens": "max_tokens",
        "system": "it into the prompt",
    },
)
"""Of text completions."""


def check_message(message: Mapping[str, Any], where: str) -> None:
    """Raise ``ProtocolError`` when a message says something that the model would not be told."""
    for name in filter(message.get, message):
        meant = _KNOWN_IN_MESSAGES.get(_plain(name))
        if meant is not None and (meant != name or meant in REFUSED_IN_MESSAGES):
            why = REFUSED_IN_MESSAGES.get(meant, f"write {meant}")
            raise ProtocolError(
                f"{where}.{name} is not read: {why}", code="unsupported_parameter", param=f"{where}.{name}"
            )
