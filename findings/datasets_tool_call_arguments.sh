#!/usr/bin/env bash
# datasets fills tool-call arguments with null in `from_list`, and not in `load_dataset("json")`.
#
# Guess: one table of chat messages, however it came into `datasets`, holds the same calls; either all
# ways unite the arguments of different tools in one struct, or none.
# Seen with datasets 5.2.0, two rows with calls of different arguments (`table`, and `sql`):
#   Dataset.from_list            {'table': 'singer', 'sql': None}   a struct of both names
#   load_dataset("json")         {'table': 'singer'}                a column of type Json
#   its .map(...)                {'table': 'singer'}                the type is kept
#   from_list -> to_parquet -> load_dataset("parquet"): the null is in the file
# A chat template writes what it is given: "arguments": {"table": "singer", "sql": null}. A model that is
# warmed up on such rows learns to fill in every tool's arguments with null, which a strict tool refuses.
# Remedy, shown below: give `from_list` the features that the JSON reader infers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1
cat >"$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets
from datasets import Dataset, load_dataset

print(f"datasets {datasets.__version__}")
folder = Path(sys.argv[1])
datasets.disable_progress_bars()


def row(tool, **arguments):
    call = {"type": "function", "function": {"name": tool, "arguments": arguments}}
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}


def first_arguments(table):
    return table[0]["messages"][0]["tool_calls"][0]["function"]["arguments"]


rows = [row("describe_table", table="singer"), row("run_query", sql="SELECT 1")]
lines = folder / "rows.jsonl"
lines.write_text("".join(json.dumps(item) + "\n" for item in rows))
of_list = Dataset.from_list(rows)
of_file = load_dataset("json", data_files=str(lines), split="train", cache_dir=str(folder / "cache"))
again = of_file.map(lambda item: {"copy": item["messages"]}, remove_columns=["messages"])
again = again.rename_column("copy", "messages")
of_list.to_parquet(folder / "rows.parquet")
of_parquet = load_dataset(
    "parquet", data_files=str(folder / "rows.parquet"), split="train", cache_dir=str(folder / "cache")
)
declared = Dataset.from_list(rows, features=of_file.features)
seen = {
    "from_list": first_arguments(of_list),
    "json": first_arguments(of_file),
    "json, then map": first_arguments(again),
    "parquet": first_arguments(of_parquet),
    "from_list with features": first_arguments(declared),
}
for name, arguments in seen.items():
    print(f"{name}: {arguments}")
filled, own = {"table": "singer", "sql": None}, {"table": "singer"}
assert seen.pop("from_list") == seen.pop("parquet") == filled
assert all(arguments == own for arguments in seen.values())
print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/show.py" "$folder"
