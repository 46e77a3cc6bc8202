#!/usr/bin/env bash
# TRL's reader of LFM2.5 tool calls ends an SQL argument at its first single quote.
#
# Guess: what a chat template writes as a tool call, TRL's `parse_response` reads back as it was.
# Seen with trl 1.16.0, transformers 5.23.0: true for Qwen2.5, Qwen3, Llama 3.1, Gemma 4 and gpt-oss.
# LFM2.5 writes calls as Python would, `[run_query(sql='...')]`, and the reader takes everything up to
# the next single quote, escaped or not. No error is raised: the call is valid and holds half a query.
#   template                    written                                 read
#   lfm2_2_5, lfm2_2_5_v2       sql='SELECT x FROM t WHERE n = 'a''     SELECT x FROM t WHERE n =
#   lfm2_v2, lfm2_2_5_vl        sql='SELECT x FROM t WHERE n = \'a\''   SELECT x FROM t WHERE n = \
#   lfm2_v2, lfm2_2_5_vl        a newline as the two characters \n      the two characters \n
# The calls of the first two are no Python either. Who meets it: all who train an SQL agent on
# LFM2.5 with GRPOTrainer and tools; nearly every query with a text literal fails, as if the model
# could not write SQL. Queries with double quotes or numbers alone pass. Remedy: a reader of your own.
#
# The XML calls of Qwen3.5 and GLM 4 lose white space at both ends of a query, which SQL forgives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 trl==1.16.0 accelerate==1.15.0
cat >"$folder/show.py" <<'PYTHON'
from importlib.resources import files

import transformers
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from trl.chat_template_utils import add_response_schema, parse_response

print(f"trl {trl.__version__}, transformers {transformers.__version__}")
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
LITERAL = "SELECT x FROM t WHERE n = 'a'"
LINES = "SELECT x\nFROM t"
PLAIN = 'SELECT "x" FROM t WHERE n = 1'
ASKED = [{"role": "user", "content": "Which?"}]


def read_back(template: str, sql: str) -> str:
    """The query that TRL reads from the call that the template writes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|im_end|>")
    tokenizer.chat_template = (files("trl") / "chat_templates" / f"{template}.jinja").read_text()
    add_response_schema(tokenizer)
    call = {"type": "function", "function": {"name": "run_query", "arguments": {"sql": sql}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    render = lambda messages, **more: tokenizer.apply_chat_template(
        messages, tools=[TOOL], tokenize=False, **more
    )
    prompt, whole = render(ASKED, add_generation_prompt=True), render([*ASKED, answer])
    assert whole.startswith(prompt), template
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    reply = parse_response(tokenizer, ids(whole[len(prompt) :]), prefix=ids(prompt), tools=[TOOL])
    (parsed,) = reply["tool_calls"]
    return parsed["function"]["arguments"]["sql"]


for template in ("qwen2_5", "qwen3", "llama3_1", "gptoss"):
    assert [read_back(template, sql) for sql in (LITERAL, LINES, PLAIN)] == [LITERAL, LINES, PLAIN]
    print(f"{template}: every query is read as it was written")
for template, cut, lines in (
    ("lfm2_2_5", "SELECT x FROM t WHERE n = ", LINES),
    ("lfm2_2_5_v2", "SELECT x FROM t WHERE n = ", LINES),
    ("lfm2_v2", "SELECT x FROM t WHERE n = \\", "SELECT x\\nFROM t"),
    ("lfm2_2_5_vl", "SELECT x FROM t WHERE n = \\", "SELECT x\\nFROM t"),
):
    seen = [read_back(template, sql) for sql in (LITERAL, LINES, PLAIN)]
    print(f"{template}: {seen}")
    assert seen == [cut, lines, PLAIN], template
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py"
