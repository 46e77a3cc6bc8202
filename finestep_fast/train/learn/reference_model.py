"""The frozen policy of the KL term: as it was before the first update, kept in the run's folder."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from finestep_fast.errors import InputError
from finestep_fast.train.agree import from_main
from finestep_fast.train.state.checkpoint import RunState
from finestep_fast.train.state.checksums import file_sha256, partial

_FILE = "reference.pt"


def reference_model(
    folder: Path, policy: PreTrainedModel, accelerator: Accelerator, state: RunState
) -> PreTrainedModel:
    """Return the policy from before the first update; all processes must call this.

    Args:
        folder: Of the run. Before the first update the weights are written there, later read.
        policy: The policy as it is now.
        accelerator: Of the run.
        state: Of the run; it keeps the checksum of the weights.

    Raises:
        InputError: The weights are missing, or are not those that were written.
    """
    path = folder / _FILE
    what = "the KL term needs the weights from before the first update"

    def kept_sha256() -> str:
        if state.updates == 0:
            torch.save(policy.state_dict(), partial(path))
            partial(path).replace(path)
        if not path.exists():
            raise InputError(f"{path} is missing; {what}")
        return file_sha256(path)

    sha256 = from_main(accelerator, kept_sha256)
    if state.updates and state.kept.get(_FILE, sha256) != sha256:
        raise InputError(f"{path} is not as it was written; {what}")
    state.kept[_FILE] = sha256
    model: PreTrainedModel = copy.deepcopy(policy).requires_grad_(False).eval()
    model.load_state_dict(torch.load(path, map_location=accelerator.device, weights_only=True))
    return model
