#!/usr/bin/env bash
# Tool-call arguments as OpenAI's API gives them, a JSON text, are encoded twice by many chat templates.
#
# Guess: `arguments` may be a JSON text (as in the chat-completions format and in logs of served
# models) or a dict; a template renders both as the same call.
# Seen with the templates that trl 1.16.0 ships, rendered by transformers 5.23.0:
#   the same call     qwen3, qwen3_instruct_2507, qwen3_vl
#   encoded twice     qwen2_5, llama3_1, llama3_2, gptoss: "arguments": "{\"sql\": ...}"
#   double braces     gemma4 to gemma4_v4: call:run_query{{"sql": ...}}
#   refused           gemma4_v5, lfm2_v2 and lfm2_2_5_vl (with a reason), qwen3_5*, qwen3_6, glm4moe,
#                     nemotron
#   text only         deepseekv3: a dict is a TypeError; for training, deepseekv3_training takes
#                     the dict and encodes a text twice: the two want different data
#   no call at all    llama3, phi3, lfm2: the assistant's call vanishes from the conversation
# Nothing is raised in rows two, three and six: a model is trained on calls that its own parser cannot
# read, or on tool results that answer nothing. Remedy: decode `arguments` before rendering (deepseekv3:
# encode), and parse one rendered call back before training.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 jinja2==3.1.6
"$folder/venv/bin/pip" install -q --no-deps trl==1.16.0
cat >"$folder/show.py" <<'PYTHON'
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

print(f"trl {version('trl')}, transformers {version('transformers')}, jinja2 {version('jinja2')}")
TEMPLATES = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
SQL = "SELECT count(*) FROM singer"
TOOL = {
    "type": "function",
    "function": {
        "name": "run_query",
        "description": "Run a query.",
        "parameters": {
            "type": "object",
            "properties": {"sql": {"type": "string", "description": "The query."}},
            "required": ["sql"],
        },
    },
}


def rendered(template: str, arguments: object) -> str:
    call = {"id": "call00001", "type": "function", "function": {"name": "run_query", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "run_query", "content": "3"},
    ]
    texts, _ = render_jinja_template(
        [messages],
        tools=[TOOL],
        chat_template=(TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"),
        bos_token="<bos>",
        eos_token="<eos>",
    )
    return texts[0]


def kind(template: str) -> str:
    given = {"sql": SQL}
    try:
        of_dict = rendered(template, given)
    except TypeError:
        of_dict = None
    try:
        of_text = rendered(template, json.dumps(given))
    except Exception as error:  # each template has its own way to fail
        return f"refused: {type(error).__name__}"
    if of_dict is None:
        return "text only" if SQL in of_text else "?"
    if SQL not in of_dict:
        return "no call at all"
    if of_dict == of_text:
        return "the same call"
    if json.dumps(json.dumps(given)) in of_text:
        return "encoded twice"
    return "double braces" if "run_query{{" in of_text else "?"


EXPECTED = {
    "the same call": ["qwen3", "qwen3_instruct_2507", "qwen3_vl"],
    "encoded twice": ["qwen2_5", "llama3_1", "llama3_2", "gptoss", "deepseekv3_training"],
    "double braces": ["gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4"],
    "refused: TemplateError": ["gemma4_v5", "lfm2_v2", "lfm2_2_5_vl"],
    "refused: TypeError": ["qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "nemotron_3_nano"],
    "refused: UndefinedError": ["glm4moe", "lfm2_2_5", "lfm2_2_5_v2"],
    "text only": ["deepseekv3"],
    "no call at all": ["llama3", "phi3", "lfm2"],
}
for expected, templates in EXPECTED.items():
    print(f"{expected}: {', '.join(templates)}")
    seen = {template: kind(template) for template in templates}
    assert set(seen.values()) == {expected}, seen
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py"
