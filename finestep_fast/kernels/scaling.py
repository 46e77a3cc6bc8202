"""The backward launch of the policy loss: the gradient of the forward pass, times a scale.

The scale is read on the device: where it is 1, as in `loss.backward()`, every program leaves at
once and nothing is moved; else 4 bytes are read and 4 written per policy token in float32. Slots
outside steps hold zeros and are not read: a scale of inf or NaN leaves them zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
NUM_WARPS = 4
MAX_PROGRAMS = 2048
"""More would only have to be started, to see that the scale is 1."""


@triton.jit(
    do_not_specialize=["num_steps", "num_parts"],
    do_not_specialize_on_alignment=["gradient_ptr", "step_start_ptr", "step_end_ptr"],
)
def scale_gradient(
    gradient_ptr,
    scale_ptr,
    step_start_ptr,
    step_end_ptr,
    num_steps: tl.int64,
    num_parts: tl.int32,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each step is cut into parts; a program takes every num_programs-th of all parts."""
    scale = tl.load(scale_ptr).to(COMPUTE)
    if scale != 1.0:
        i_program = tl.program_id(0).to(tl.int64)
        for i_piece in range(i_program, num_steps * num_parts, tl.num_programs(0)):
            i_step = i_piece // num_parts
            i_part = i_piece % num_parts
            start = tl.load(step_start_ptr + i_step)
            end = tl.load(step_end_ptr + i_step)
            for i_token in range(start + i_part * BLOCK, end, num_parts * BLOCK):
                o_token = i_token + tl.arange(0, BLOCK).to(tl.int64)
                m_token = o_token < end
                gradient = tl.load(gradient_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
                value = (gradient * scale).to(gradient_ptr.dtype.element_ty)
                tl.store(gradient_ptr + o_token, value, mask=m_token)


def scale_gradient_(gradient: Tensor, scale: Tensor, step_start: Tensor, step_end: Tensor) -> None:
    """Launch `scale_gradient`: multiply the policy tokens of a gradient in place.

    Args:
        gradient: [T] d loss / d token_logp, 0 outside steps.
        scale: [] what the loss's own gradient is.
        step_start: [S] first token of each step.
        step_end: [S] one past the last token of each step.
    """
    num_steps = step_start.numel()
    if num_steps == 0:
        return
    slots = triton.cdiv(gradient.numel(), num_steps)
    num_parts = max(1, min(MAX_PROGRAMS // num_steps, triton.cdiv(slots, BLOCK)))
    with torch.cuda.device_of(gradient):
        scale_gradient[(min(num_steps * num_parts, MAX_PROGRAMS),)](
            gradient,
            scale,
            step_start,
            step_end,
            num_steps,
            num_parts,
            COMPUTE=tl.float64 if gradient.dtype == torch.float64 else tl.float32,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
