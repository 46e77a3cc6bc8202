"""Tokenizers with chat templates, made in the test: the quickstart has one of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.tools import TOOL_SCHEMAS

# The form of Qwen's templates: tools stand in the system message, an observation in a user's.
QWEN_LIKE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' + messages[0].content + '\\n\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages[1:] %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}
"""

# No control token anywhere: a turn ends with the end of the text only.
PLAIN = """\
{%- for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{%- endif %}
"""

CALL = render_call(ToolCall("execute_sql", {"sql": "SELECT count(*) FROM items WHERE a > 'ü'"}))


def made_tokenizer(
    texts: Iterable[str], template: str | None, *, whole_tags: bool, vocab_size: int = 400
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE fitted to `texts`.

    Args:
        texts: What it is fitted to; few merges are found in few texts.
        template: Its chat template.
        whole_tags: Whether the tags of a tool call are tokens of their own, as in Qwen's.
        vocab_size: Tokens, added ones not counted.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if whole_tags:
        tokenizer.add_tokens(
            [AddedToken(tag, normalized=False) for tag in ("<tool_call>", "</tool_call>")]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def shaped(
    *,
    tools: bool = True,
    call: str = '<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>',
    observation: str = "message.content",
    header: str = "",
) -> str:
    """Return a chat template of a chosen shape, as other models bring it.

    Args:
        tools: Whether the tools stand in the prompt.
        call: How a call is written; NAME, ARGUMENTS and VALUE stand for its parts. Empty if calls
            are left out.
        observation: The expression that writes an observation.
        header: What follows the header of a reply that is to be written.
    """
    parts = {
        "NAME": "{{ call.function.name }}",
        "ARGUMENTS": "{{ call.function.arguments | tojson }}",
        "VALUE": "{{ call.function.arguments.sql }}",
    }
    for name, expression in parts.items():
        call = call.replace(name, expression)
    return (
        "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
        "{%- if m.role == 'tool' -%}{{ " + observation.replace("message.", "m.") + " }}"
        "{%- else -%}{{ m.content }}{%- endif -%}"
        + ("{%- for call in m.tool_calls or [] -%}" + call + "{%- endfor -%}" if call else "")
        + ("{%- if loop.first and tools -%}{{ tools | tojson }}{%- endif -%}" if tools else "")
        + "<|im_end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant:" + header + "{%- endif -%}"
    )


def chat_of(template: str, **settings: Any) -> ChatFormat:
    """Return the format of a chat under a template."""
    tokenizer = made_tokenizer(["a"], template, whole_tags=True)
    return ChatFormat(
        tokenizer, TOOL_SCHEMAS, **{"system_prompt": "S", "describe_tools": True, **settings}
    )


def ends(chat: ChatFormat, text: str, turn: int) -> list[str]:
    """Return the text up to every place where the turn would be cut."""
    ids = chat.reply_ids(text)
    cuts = [n for n in range(1, len(ids) + 1) if chat.ends_reply(ids[:n], turn=turn)]
    return [str(chat.tokenizer.decode(ids[:n])) for n in cuts]
