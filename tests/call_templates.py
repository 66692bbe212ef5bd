"""Chat templates that write tool calls as the well-known families do, shortened, for the tests of tools."""

from __future__ import annotations

from typing import Any

from tests.fixtures_inference import SPECIAL_TOKENS, make_tokenizer

_TURN = "{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}"
_OPENING = "{% if add_generation_prompt %}<|assistant|>{% endif %}"

HERMES = (
    "{% if tools %}<|system|>You may call: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "<|user|><tool_response>{{ message.name + ': ' + message.content }}</tool_response><|end|>"
    "{% elif message.tool_calls %}<|assistant|>{{ message.content }}{% for call in message.tool_calls %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}"
    "{{ '}\n</tool_call>' }}{% endfor %}<|end|>"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}{_OPENING}"
)
"""Hermes and Qwen: JSON between tags, as many as there are; here a tool's message must have its name."""

LLAMA = (
    "{% for message in messages %}{% if message.role == 'user' and loop.first and tools %}"
    "<|user|>{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}{{ message.content }}<|end|>"
    "{% elif 'tool_calls' in message %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set call = message.tool_calls[0].function %}"
    '{{ \'<|assistant|>{"name": "\' + call.name + \'", "parameters": \' }}{{ call.arguments | tojson }}{{ "}<|end|>" }}'
    "{% elif message.role == 'tool' %}<|user|>{{ message.content | tojson }}<|end|>"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}{_OPENING}"
)
"""Llama 3: an answer that is nothing but JSON, one call an answer."""

MISTRAL = (
    "{% set questions = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{% if message == questions[-1] and tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "<|user|>{% if loop.last %}Be brief. {% endif %}{{ message.content }}<|end|>"
    "{% elif message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}{% if not loop.last %}, {% endif %}"
    "{% endfor %}]<|end|>"
    "{% elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]"
    "{% else %}{{ ' ' + message.content + '<|end|>' }}{% endif %}{% endfor %}"
)
"""Mistral's third tokenizer: a list after a special token, ids of nine characters, tools before the last question,
which itself is written in another way as long as it has no answer."""

MISTRAL_ARGS = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for message in messages %}{% if message.tool_calls %}{% for call in message.tool_calls %}"
    "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}{% endfor %}<|end|>"
    "{% elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}"
)
"""Mistral's later ones: the name between two special tokens."""

FENCED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}{% if message.tool_calls %}<|assistant|>[TOOL_CALLS]"
    "{% for call in message.tool_calls %}{{ 'function ' + call.function.name + '\n```json\n' + call.function.arguments "
    "+ '\n```' }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}[/TOOL_CALLS]<|end|>"
    f"{{% elif message.role == 'tool' %}}<|user|>{{{{ message.content }}}}<|end|>{{% else %}}{_TURN}{{% endif %}}"
    f"{{% endfor %}}{_OPENING}"
)
"""DeepSeek: arguments as text in a code fence."""

NAME_LAST = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "<|user|><tool_response>{{ message.name + ': ' + message.content }}</tool_response><|end|>"
    "{% elif message.tool_calls %}<|assistant|>{% for call in message.tool_calls %}"
    "{{ '<tool_call>\n{ \"arguments\": ' }}{{ call.function.arguments | tojson }}"
    "{{ ', \"name\": \"' + call.function.name + '\"}\n</tool_call>' }}{% endfor %}<|end|>"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}{_OPENING}"
)
"""The first Hermes: the name stands after the arguments, and a tool's message must have one."""

PLAIN = HERMES.replace("</tool_call>", "done").replace("<tool_call>", "functools")
"""Marks that are words like any other to the tokenizer."""

TEMPLATES = {
    "hermes": HERMES,
    "plain": PLAIN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "fenced": FENCED,
}

MARKS = ["[TOOL_CALLS]", "[/TOOL_CALLS]", "[ARGS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
WORDS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


def make_calling_tokenizer(template: str) -> Any:
    """The tiny tokenizer with the marks of all families: Mistral's are special, Hermes's are words that are not cut."""
    from tokenizers import AddedToken

    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS], special_tokens=True)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in WORDS])
    tokenizer.chat_template = template
    assert len(SPECIAL_TOKENS) + len(MARKS) < len(tokenizer)
    return tokenizer
