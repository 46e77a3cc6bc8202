"""Where a run goes on: its newest whole checkpoint, with logs and folder as they were by then."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from finestep_fast.errors import InputError
from finestep_fast.train.agree import from_main
from finestep_fast.train.state.checkpoint import Checkpoints, RunState
from finestep_fast.train.state.folder import generated_checksums
from finestep_fast.train.state.logs import Logs


def restored_state(
    checkpoints: Checkpoints, logs: Logs, accelerator: Accelerator, say: Callable[[str], None]
) -> RunState:
    """Load the newest whole checkpoint and cut the logs back to it; all processes must call this.

    Args:
        checkpoints: Of the run.
        logs: Of the run; those of a run without a checkpoint are emptied.
        accelerator: Of the run; what is registered with it is loaded.
        say: Called with what was found, and with what was lost.

    Returns:
        The state of the checkpoint, or that of a run that begins.

    Raises:
        InputError: All checkpoints are damaged, or the folder does not hold what the run began
            with.
    """
    state = RunState(num_processes=accelerator.num_processes)
    latest = from_main(accelerator, checkpoints.latest)
    for folder, problem in checkpoints.passed_over.items():
        say(f"warning: {folder.name} is passed over: {problem}")
    if latest is not None:
        path, state = latest
        for name, sha256 in generated_checksums(logs.folder).items():
            if state.kept.get(name, sha256) != sha256:
                raise InputError(f"{logs.folder / name} is not the one that the run began with")
        if state.num_processes != accelerator.num_processes:
            say(
                f"warning: the run had {state.num_processes} processes and goes on with "
                f"{accelerator.num_processes}: not as if it had never stopped"
            )
            state.num_processes = accelerator.num_processes
    lost = from_main(accelerator, lambda: logs.cut_back(state.logs))
    if latest is not None:
        accelerator.load_state(str(path))
        say(
            f"resumed from {path.name}: {state.warm_steps} steps of warm start, "
            f"{state.updates} updates"
        )
    for loss in lost:
        say(f"warning: {loss}")
    return state
