"""`exp(x)`, `exp(x) - 1` and `exp(x) - 1 - x` of log ratios; no kernel of its own.

`tl.exp` becomes the hardware's approximate power of two, whose error grows with `|x|`, and Triton
has no `expm1` that its interpreter knows. Here all three come from one short series, and are within
one unit in the last place (`exp(x) - 1 - x` within four).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exponentials(x):
    """Return `exp(x)`, `exp(x) - 1` and `exp(x) - 1 - x` for `|x| <= 20`, or NaN; elementwise.

    `x = n ln 2 + r` with `|r| <= 0.7`, and `q = exp(r) - 1 - r` from its series. Then
    `exp(x) - 1 = 2^n (r + q) + (2^n - 1)`. For `|x| < 0.7`, where most log ratios are, n is 0 and
    nothing cancels. ln 2 is split in two, so that n times its first part is exact.
    """
    n = tl.where(tl.abs(x) < 0.7, 0.0, tl.floor(x * 1.4426950408889634 + 0.5))
    if x.dtype == tl.float64:
        r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10
        p = r * 2.8114572543455206e-15 + 4.779477332387385e-14
        p = p * r + 7.647163731819816e-13
        p = p * r + 1.1470745597729725e-11
        p = p * r + 1.6059043836821613e-10
        p = p * r + 2.08767569878681e-09
        p = p * r + 2.505210838544172e-08
        p = p * r + 2.755731922398589e-07
    else:
        r = (x - n * 0.693145751953125) - n * 1.428606820309417e-06
        p = tl.zeros_like(r) + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    q = r * r * p
    whole = tl.where(n == n, n, 0.0)  # NaN has no whole part
    if x.dtype == tl.float64:
        power = ((whole.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        power = ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    minus_one = power * (r + q) + (power - 1.0)
    return power * (1.0 + (r + q)), minus_one, tl.where(n == 0.0, q, minus_one - x)
