"""A program: the memory that one optimiser step adds, in MiB, with a head of many words.

Started as `-m support.learning_peak HEAD`. Everything but the head is as small as can be.
"""

from __future__ import annotations

import sys
from typing import cast

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from finestep_fast.train.config import HeadKind
from finestep_fast.train.memory import forget_peak, peak_mib
from support.rollouts import learner_of, plain_rollouts

VOCABULARY = 32768
NUM_ROLLOUTS = 24


def main(head: str) -> None:
    """Print what a step took at its peak beyond what was there before."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    learner = learner_of(
        Qwen3ForCausalLM(config), head=cast(HeadKind, head), micro_batch_tokens=10**6
    )
    rollouts = plain_rollouts(NUM_ROLLOUTS, vocab_size=VOCABULARY)
    longest = max(len(rollout.transcript.token_ids) for rollout in rollouts)
    device = torch.device("cpu")
    forget_peak(device)
    before = peak_mib(device)
    learner.learn(rollouts, seed=0)
    print(peak_mib(device) - before, NUM_ROLLOUTS * longest * VOCABULARY * 4 / 2**20)


if __name__ == "__main__":
    main(*sys.argv[1:])
