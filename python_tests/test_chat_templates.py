"""What a chat template must show: tools, calls, observations, ends of turns; else it is refused."""

from __future__ import annotations

import pytest

from finestep_fast.env.chat import ChatFormat
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.errors import InputError
from support.chat_templates import CALL, chat_of, ends, made_tokenizer, shaped


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(InputError, match="model: its tokenizer has no chat template; expected one"):
        ChatFormat(made_tokenizer(["a"], None, whole_tags=False))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}",
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
        "{{ messages[2].content + messages[1].content }}",
    ],
    ids=["drops the tool", "drops the assistant", "turns them round"],
)
def test_a_template_that_cannot_show_an_observation_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="does not render a 'tool' message after an assistant's"):
        ChatFormat(made_tokenizer(["a"], template, whole_tags=False))


def test_a_template_that_refuses_tools_is_refused_by_name() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}"
        "{{ raise_exception('only user and assistant') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(InputError, match=r"refuses .* user, assistant, tool: only user and"):
        ChatFormat(made_tokenizer(["a"], template, whole_tags=False))


def prompt_text(chat: ChatFormat, *, system: str = "S", question: str = "Q") -> str:
    messages = [{"role": "system", "content": system}] if system else []
    ids = chat.prompt_ids([*messages, {"role": "user", "content": question}])
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))


TOOLS = [tool["function"]["name"] for tool in TOOL_SCHEMAS]


def test_tools_that_a_template_leaves_out_are_described_and_reported() -> None:
    chat = chat_of(shaped(tools=False, call=""))
    assert all(f'"name": "{name}"' in chat.description for name in TOOLS)
    assert '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>' in chat.description
    for question in ("Q", "Q <|im_end|>"):  # in the second, a control token is only spelled
        text = prompt_text(chat, question=question)
        assert text.startswith(f"<|im_start|>systemS\n\n{chat.description}<|im_end|>")
        assert question in text
    # Where there is no system message, the question is preceded by nothing but its own header.
    alone = chat_of(shaped(tools=False, call=""), system_prompt="")
    assert f"<|im_start|>userQ\n\n{alone.description}<|im_end|>" in prompt_text(alone, system="")


def test_nothing_is_added_where_a_template_shows_all_or_where_it_is_not_wanted() -> None:
    assert chat_of(shaped()).description == ""
    silent = chat_of(shaped(tools=False, call=""), describe_tools=False)
    assert silent.description == ""
    assert prompt_text(silent) == (
        "<|im_start|>systemS<|im_end|><|im_start|>userQ<|im_end|><|im_start|>assistant:"
    )


def test_only_what_is_missing_is_described() -> None:
    names = chat_of(shaped(tools=False))
    assert "# Tools" in names.description
    assert "between tags" not in names.description
    form = chat_of(shaped(call=""))
    assert "# Tools" not in form.description
    assert "between tags" in form.description
    named = f"Use {', '.join(TOOLS)} by <tool_call>..."
    assert chat_of(shaped(tools=False, call=""), system_prompt=named).description == ""


@pytest.mark.parametrize(
    ("call", "form"),
    [
        (
            "<tool_call>\n<function=NAME>\n<parameter=sql>\nVALUE\n</parameter>\n</function>\n"
            "</tool_call>",
            r"<tool_call>\n<function=finestep_probe>\n<parameter=sql>",
        ),
        (
            "<tool_call>NAME\n<arg_key>sql</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>",
            r"<tool_call>finestep_probe\n<arg_key>sql</arg_key>",
        ),
        (
            '{"name": "NAME", "parameters": ARGUMENTS}',
            r'{"name": "finestep_probe", "parameters": {"sql": ',
        ),
        (
            '<tool_call>{"name": "NAME", "parameters": ARGUMENTS}</tool_call>',
            r'"parameters": {"sql": ',
        ),
        ('<|tool_call_start|>[NAME(sql="VALUE")]<|tool_call_end|>', "[finestep_probe(sql="),
    ],
    ids=["Qwen3.5", "GLM", "Llama 3.1", "other keys", "LFM2"],
)
@pytest.mark.parametrize("observation", ["message.content", "message.content | tojson"])
def test_a_template_that_writes_calls_in_another_form_is_refused_with_that_form(
    call: str, form: str, observation: str
) -> None:
    with pytest.raises(InputError) as caught:
        chat_of(shaped(call=call, observation=observation))
    message = str(caught.value)
    assert message.startswith("model: its chat template writes a tool call as ")
    assert form in message
    assert "the form that is read here is <tool_call>" in message


def test_calls_with_arguments_that_a_template_wants_as_text_are_checked() -> None:
    call = "<calls>{{ 'call ' + call.function.name + ' ' + call.function.arguments }}</calls>"
    with pytest.raises(InputError, match=r"writes a tool call as '<calls>call finestep_probe "):
        chat_of(shaped(call=call))


def test_an_observation_is_escaped_where_the_template_escapes_it() -> None:
    chat = chat_of(shaped(observation="message.content | tojson"))
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "tool", "content": 'a "b"\nü'},
    ]
    rendered = chat.template.render(messages, add_generation_prompt=True)
    ids = chat.observation_ids('a "b"\nü', chat.reply_ids("A"))
    text = str(chat.tokenizer.decode(ids, skip_special_tokens=False))
    assert text == '<|im_end|><|im_start|>tool"a \\"b\\"\\nü"<|im_end|><|im_start|>assistant:'
    assert rendered.endswith(text)


def test_a_template_that_changes_an_observation_is_refused() -> None:
    with pytest.raises(InputError, match="changes the text of a tool's message"):
        chat_of(shaped(observation="message.content | replace('\\n', ' ')"))


def test_a_template_that_leaves_out_the_system_message_is_refused_with_a_remedy() -> None:
    template = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}"
    with pytest.raises(InputError, match=r"leaves out the system message; .*env.system_prompt=''"):
        chat_of(template + shaped())
    assert chat_of(template + shaped(), system_prompt="").description == ""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(InputError, match=r"roles system, user: no system; env.system_prompt=''"):
        chat_of(refusing + shaped())


def test_every_end_of_a_text_ends_a_reply_and_is_no_part_of_it() -> None:
    chat = chat_of(shaped())
    user, other = chat.reply_ids("<")[0], chat.reply_ids(";")[0]
    reply = chat.reply_ids("a b")
    assert not chat.ends_reply([*reply, user])
    chat.stop_at([user, other])
    for end in (user, other, chat.tokenizer.eos_token_id, chat.end_of_turn_id):
        assert chat.ends_reply([*reply, end])  # type: ignore[list-item]
        assert chat.reply_text([*reply, end]) == "a b"  # type: ignore[list-item]


def test_reasoning_that_the_template_has_begun_is_known_by_turn() -> None:
    always = chat_of(shaped(header="<think>\\n"))
    text = f"Perhaps {CALL}</think>\n{CALL}"
    for turn in (0, 1, 5):
        assert ends(always, text, turn) == [text]
        assert always.reply_text(always.reply_ids(text), turn=turn) == f"<think>{text}"
    closed = chat_of(shaped(header="<think>\\n\\n</think>"))
    first = chat_of(shaped(header="{% if messages[-1].role == 'user' %}<think>{% endif %}"))
    assert ends(closed, CALL, 0) == ends(first, CALL, 1) == [CALL]
    assert ends(first, CALL, 0) == []
    assert first.reply_text(first.reply_ids("a"), turn=1) == "a"
