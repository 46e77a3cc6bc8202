#!/usr/bin/env bash
# accelerate's load_state on more processes than saved leaves the new ones' random numbers as they are, silently.
#
# Guess: load_state restores the random state of every process, or warns of those that it has no state for.
# Seen with accelerate 1.15.0 and torch 2.13.0: each process saves a random_states_RANK.pkl of its own. load_state
# reads that file inside a try that catches every exception, and a missing or unreadable one is one line at level
# INFO, which is not shown by default. Saved by one process and loaded by two: rank 0 goes on with the saved
# stream, rank 1 with whatever it had before the call. Exit status 0, no warning.
# Who meets it: whoever resumes sampling or dropout on another number of processes and counts on load_state for
# the seeds. Seed each process by (seed, update, rank) where numbers are drawn, or check that the file exists.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 accelerate==1.15.0
cd "$folder"
cat >show.py <<'PYTHON'
import os
import sys

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
accelerator.prepare(torch.nn.Linear(1, 1))
torch.manual_seed(1000 + rank)
own = torch.rand(()).item()
torch.manual_seed(7)
if sys.argv[1] == "save":
    accelerator.save_state("checkpoint")
    print("files", [name for name in os.listdir("checkpoint") if "random" in name])
    print("saved", rank, torch.rand(()).item())
else:
    torch.manual_seed(1000 + rank)
    accelerator.load_state("checkpoint")
    drawn = torch.rand(()).item()
    print("loaded", rank, drawn, "its own, as before" if drawn == own else "restored", flush=True)
PYTHON
run() { OMP_NUM_THREADS=1 venv/bin/python -m torch.distributed.run --nproc-per-node "$1" show.py "$2" 2>&1; }
run 1 save | tee saved
run 2 load | tee loaded
grep -q "files \['random_states_0.pkl'\]" saved
number=$(sed -n 's/^saved 0 //p' saved)
grep -q "loaded 0 $number restored" loaded
grep -qE "loaded 1 .* its own, as before" loaded
if grep -qi "random states" loaded; then exit 1; fi
echo "as described"
