"""Chat templates in the styles that bases have, each with a tokenizer that knows bytes and the style's own tokens."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n' + system + '<|eot_id|>' }}"
    "{% for m in rest %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] TRIM+ '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{'<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}{% if m['role'] == 'user' %}{{ '[INST] ' + (system if WHERE else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
NASTY = (
    '{% for m in messages %}{{ \'"""\\\\{{ \' + m.role + \' }}\\"\\t\u00a0\u2028\' + m.content + "<|im_end|> \\n" }}'
    "{% endfor %}{% if add_generation_prompt %}{{ ' {{- .Content -}} \n ' }}{% endif %}"
)
DATED = PLAIN.replace("{% for", "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}{% for", 1)
DEEP = PLAIN.replace("'<|im_start|>' +", "loop.index ~ '<|im_start|>' +", 1)
CHATML = ("<|im_start|>", "<|im_end|>", "<filename>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

EQUAL = {
    "smollm": (SMOLLM, CHATML),
    "plain": (PLAIN, CHATML),
    "dated": (DATED, CHATML),
    "llama3": (LLAMA3.replace("TRIM", ""), LLAMA),
    "gemma": (GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>")),
    "phi3": (PHI3, ("<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
    "mistral": (MISTRAL.replace("WHERE", "loop.first"), ("<s>", "[INST]", "[/INST]", "</s>")),
    "qwen3": (QWEN3, CHATML),
    "nasty": (NASTY, CHATML),
}
"""What an Ollama template can say; the first token begins, the last but ``<filename>`` ends."""
OTHER = {
    "llama3 trims": (LLAMA3.replace("TRIM", "| trim "), LLAMA, "it trims or changes white space"),
    "mistral moves": (
        MISTRAL.replace("WHERE", "loop.last"),
        EQUAL["mistral"][1],
        "it moves, repeats or leaves out",
    ),
    "counts": (DEEP, CHATML, "more than who spoke before"),
    "none": (None, CHATML, "there is no chat template"),
    "refuses": ("{{ raise_exception('not today') }}", CHATML, "it refuses user: .* not today"),
}
"""What none can say, and the reason that is told."""


def tokenizer(template, words, *, adds_begin=False):
    """Return a byte-level tokenizer with these special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(words))
    end = [word for word in words if word != "<filename>"][-1]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=words[0],
        eos_token=end,
        add_bos_token=adds_begin,
        chat_template=template,
    )
