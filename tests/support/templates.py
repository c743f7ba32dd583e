"""Small tokenizers and chat templates in the styles of well-known base models, written by hand; nothing is downloaded."""

import functools

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

#: SmolLM2's special tokens, some of which are plain words.
SMOLLM2_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: Adds a system message where there is none.
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Smol.<|im_end|>\n' }}{% endif %}"
    + CHATML
)

#: Knows no ``add_generation_prompt``.
CHATML_WITHOUT_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)

#: Refuses a system message, trims, calls the assistant model, and ends a turn with another token than eos.
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

#: Ends a turn with another token than eos.
PHI3 = """{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

#: Writes today's date, and what a tool answered as JSON.
LLAMA3 = """{{ bos_token }}{% if strftime_now is defined %}{% set date = strftime_now("%d %b %Y") %}{% endif %}\
{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date + '\n\n' }}\
{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}\
{% if tools %}{{ tools | tojson }}{% endif %}{{ '<|eot_id|>' }}\
{% for m in messages %}{% if m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}\
{% elif m.tool_calls %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' + m.tool_calls[0].function | tojson + '<|eot_id|>' }}\
{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

#: Puts an empty thinking block before the last answer, and leaves the thoughts of earlier ones out.
QWEN3 = """{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}\
{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}\
{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ said }}\
{% for c in m.tool_calls or [] %}{{ '<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}\
{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}\
{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}\
{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

#: Plain text around what a user says, a blank before what the assistant says.
MISTRAL = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}\
{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

#: Opens the assistant's turn inside a thought.
THINKER = CHATML.replace("assistant\n", "assistant\n<think>\n")


def _bytes(template, special, *, plain=(), **named):
    """Return a tokenizer whose every byte is a token (GPT-2, Llama 3, Qwen)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *alphabet, "Ġa", "Ġb"]
    core = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [("Ġ", "a"), ("Ġ", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _finish(core, template, special, plain, named)


def _pieces(template, special, *, prepends="never", plain=(), **named):
    """Return a tokenizer of sentence pieces, ``▁`` for a blank, and bytes for what it has no piece for (Gemma, Mistral)."""
    signs = [chr(sign) for sign in range(33, 127)] + ["▁", "é", "ß"]
    words = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256)), *signs, "▁a"]
    vocabulary = {word: at for at, word in enumerate(dict.fromkeys(words))}
    core = Tokenizer(
        models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if prepends == "never":
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prepends, split=False)
        core.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    return _finish(core, template, special, plain, named | {"unk_token": "<unk>"})


def _finish(core, template, special, plain, named):
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    core.add_tokens([AddedToken(word, special=False, normalized=False) for word in plain])
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **named)


def smollm2(template=SMOLLM2):
    """Return a tokenizer with SmolLM2's special tokens."""
    return _bytes(
        template,
        SMOLLM2_TOKENS,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def chatml_without_prompt():
    """Return a ChatML tokenizer whose template does not open the assistant's turn."""
    return smollm2(CHATML_WITHOUT_PROMPT)


def gemma():
    """Return a tokenizer in Gemma's style."""
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    return _pieces(GEMMA, special, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def phi3():
    """Return a tokenizer in Phi-3's style."""
    special = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<s>")
    return _pieces(PHI3, special, prepends="first", bos_token="<s>", eos_token="<|endoftext|>")


def llama3():
    """Return a tokenizer in Llama 3's style."""
    special = (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    )
    return _bytes(LLAMA3, special, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def qwen3():
    """Return a tokenizer in Qwen3's style."""
    plain = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>")
    return _bytes(QWEN3, special, plain=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def mistral():
    """Return a tokenizer in the style of Mistral's first instruction models."""
    return _pieces(MISTRAL, ("<s>", "</s>"), prepends="first", bos_token="<s>", eos_token="</s>")


def thinker():
    """Return a ChatML tokenizer whose template opens the assistant's turn inside a thought."""
    return smollm2(THINKER)


STYLES = {
    made.__name__: functools.cache(made)
    for made in (smollm2, chatml_without_prompt, gemma, phi3, llama3, qwen3, mistral, thinker)
}
