"""Counts FLOPs on a function's jaxpr, with all trips of every loop; tables of peak FLOPs; MFU.

The compiler's own cost analysis counts a loop's body once, whatever its number of trips, and does not see into the
kernels it calls: attention in tiles would look almost free. Here a scan's body counts as often as it runs.

FLOPs per operation:

- `dot_general`: 2 per multiply-add; convolutions likewise, over the kernel's window;
- `fft` over N points: 5 N log₂ N per complex transform, half of it if one side is real (Cooley & Tukey's radix 2);
- `qr` of m×n, m ≥ n: 4 n² (m − n/3), for the reduction and for forming Q (Golub & Van Loan, section 5.2);
- arithmetic and transcendental functions of floating-point numbers: 1 per output element;
- sums, products, maxima and cumulative sums of them: 1 per input element; scatter-add: 1 per element of the update;
- of complex numbers, in operations on their parts: sums and differences 2, products 6, quotients 11 (a product with the
  conjugate, 3 for the modulus, 2 divisions), modulus 4, e^z and e^z − 1 5 (e^x, sine, cosine, 2 products), any other
  function 6 as a product has; so 8 per multiply-add, 4 times as many as of real ones. Taking a number apart, and
  putting it together, is free;
- cuDNN's attention, T queries on S keys, heads of width K: per head, 2 products of 2·T·S·K forwards, 5 backwards;
- `cond`: its most expensive branch. `shard_map`: its body on every device of the mesh.

Integers, comparisons, selections, conversions, random bits and moving data count 0. The count is NaN if the program
does not show a `while` loop's number of trips, or a kernel does not state its cost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
    "conj", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "integer_pow", "lgamma", "log", "log1p", "logistic", "max", "min", "mul", "neg", "nextafter", "pow", "rem",
    "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh",
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "cumsum", "cumprod", "cummax", "cummin",
    "cumlogsumexp",
}  # fmt: skip
COMPLEX = {
    "add": 2, "add_any": 2, "sub": 2, "neg": 2, "conj": 1, "div": 11, "abs": 4, "exp": 5, "expm1": 5, "reduce_sum": 2,
    "cumsum": 2,
}  # fmt: skip
"""FLOPs per element of operations on complex numbers; 6 where nothing is said, as for a product."""
UNKNOWN = {
    "ffi_call", "tpu_custom_call", "cholesky", "eig", "eigh", "lu", "svd",
    "householder_product",
}  # fmt: skip
"""Primitives without a rule: they make the count NaN."""


def count(function: Callable[..., Any], *args: Any) -> float:
    """Counts the FLOPs of `function(*args)` as written, before the compiler's optimisation; NaN if unknown.

    Only the shapes of the arguments are used: nothing is computed.
    """
    return _count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _count_jaxpr(jaxpr: Jaxpr) -> float:
    return math.fsum(map(_count_equation, jaxpr.eqns))


def _count_equation(eqn: JaxprEqn) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name in ELEMENTWISE:
        return _weight(eqn) * _size(eqn.outvars[0]) if _floating(eqn.outvars[0]) else 0
    if name in REDUCTIONS:
        return _weight(eqn) * _size(eqn.invars[0]) if _floating(eqn.invars[0]) else 0
    if name in COUNTED:
        return COUNTED[name](eqn)
    if name in UNKNOWN:
        return math.nan
    if name == "pallas_call":  # its loops may depend on data: only the kernel's own estimate counts
        return math.nan if params["cost_estimate"] is None else float(params["cost_estimate"].flops)
    if name == "scan":
        return float(params["length"]) * _count_jaxpr(params["jaxpr"].jaxpr)
    if name == "while":
        return trips(eqn) * (_count_jaxpr(params["body_jaxpr"].jaxpr) + _count_jaxpr(params["cond_jaxpr"].jaxpr))
    if name == "cond":
        branches = [_count_jaxpr(branch.jaxpr) for branch in params["branches"]]
        return math.nan if any(map(math.isnan, branches)) else max(branches)
    inner = math.fsum(map(_count_jaxpr, bodies(params)))
    return inner * params["mesh"].size if name == "shard_map" else inner


def bodies(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yields the jaxprs that a call (jit, custom derivatives, rematerialisation) runs."""
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def _floating(variable: Any) -> bool:
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.inexact))


def _weight(eqn: JaxprEqn) -> int:
    """FLOPs per element of an elementwise operation or a reduction."""
    return COMPLEX.get(eqn.primitive.name, 6) if _is_complex(eqn.invars[0]) else 1


def _multiply_add(eqn: JaxprEqn) -> float:
    return 8.0 if _is_complex(eqn.invars[0]) else 2.0


def _count_dot(eqn: JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    return _multiply_add(eqn) * _size(eqn.outvars[0]) * math.prod(left[i] for i in contracted)


def _count_convolution(eqn: JaxprEqn) -> float:
    numbers, kernel = eqn.params["dimension_numbers"], _shape(eqn.invars[1])
    _, inputs, *window = numbers.rhs_spec  # a kernel's input axis has the channels of one group
    return _multiply_add(eqn) * _size(eqn.outvars[0]) * math.prod(kernel[i] for i in (inputs, *window))


def _count_fft(eqn: JaxprEqn) -> float:
    lengths = eqn.params["fft_lengths"]
    points = math.prod(lengths)
    real = eqn.outvars[0] if _is_complex(eqn.invars[0]) else eqn.invars[0]
    share = 1.0 if _is_complex(real) else 0.5
    transforms = _size(real) / points
    return share * transforms * 5 * points * math.log2(max(points, 1))


def _is_complex(variable: Any) -> bool:
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.complexfloating))


def _count_qr(eqn: JaxprEqn) -> float:
    *batch, m, n = _shape(eqn.invars[0])
    most, least = max(m, n), min(m, n)
    return 2 * math.prod(batch) * 2.0 * least**2 * (most - least / 3)


def _count_scatter(eqn: JaxprEqn) -> float:
    if not _floating(eqn.invars[2]):
        return 0
    addition = eqn.primitive.name in ("scatter-add", "scatter_add")
    each = (2 if addition else 6) if _is_complex(eqn.invars[2]) else 1
    return each * _size(eqn.invars[2])


def _count_window(eqn: JaxprEqn) -> float:
    each = 2.0 if _is_complex(eqn.invars[0]) else 1.0
    return each * _size(eqn.outvars[0]) * math.prod(eqn.params["window_dimensions"])


def _count_cudnn(products: int) -> Callable[[JaxprEqn], float]:
    def count_attention(eqn: JaxprEqn) -> float:
        query, key = map(_shape, eqn.invars[:2])
        positions, heads = (2, 1) if eqn.params["layout"] else (1, 2)  # BNTH is 1, BTNH is 0
        return 2.0 * products * query[0] * query[heads] * query[positions] * key[positions] * query[3]

    return count_attention


COUNTED: dict[str, Callable[[JaxprEqn], float]] = {
    "dot_general": _count_dot,
    "conv_general_dilated": _count_convolution,
    "fft": _count_fft,
    "qr": _count_qr,
    "scatter-add": _count_scatter,
    "scatter_add": _count_scatter,
    "scatter-mul": _count_scatter,
    "scatter_mul": _count_scatter,
    "reduce_window_sum": _count_window,
    "reduce_window_max": _count_window,
    "dot_product_attention_fwd_wrapper": _count_cudnn(2),
    "dot_product_attention_bwd_wrapper": _count_cudnn(5),
}


def trips(eqn: JaxprEqn) -> float:
    """Returns the number of trips of a `while` that is a `fori_loop` with constant bounds; NaN for any other."""
    condition, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    skip = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    if len(condition.eqns) != 1 or condition.eqns[0].primitive.name != "lt" or eqn.params["cond_nconsts"]:
        return math.nan
    places = {v: i for i, v in enumerate(condition.invars)}
    sides = [places.get(v) if not isinstance(v, Literal) else None for v in condition.eqns[0].invars]
    if None in sides:
        return math.nan
    start, stop = (eqn.invars[skip + i] for i in sides if i is not None)
    counter, limit = (body.invars[eqn.params["body_nconsts"] + i] for i in sides if i is not None)
    increments = [e for e in body.eqns if e.outvars[0] is body.outvars[sides[0]] and e.primitive.name == "add"]
    by_one = (
        len(increments) == 1
        and increments[0].invars[0] is counter
        and isinstance(increments[0].invars[1], Literal)
        and increments[0].invars[1].val == 1
        and body.outvars[sides[1]] is limit
    )
    if not (by_one and isinstance(start, Literal) and isinstance(stop, Literal)):
        return math.nan
    return float(max(0, stop.val - start.val))


PEAKS: tuple[tuple[str, float | None, float], ...] = (
    (r"V100-SXM", None, 15.7),  # NVIDIA V100 datasheet; no bfloat16, and no TF32
    (r"V100-PCIE", None, 14.0),
    (r"\bT4\b", None, 8.1),  # NVIDIA T4 datasheet
    (r"A100", 312, 156),  # NVIDIA A100 datasheet
    (r"\bA10\b", 125, 62.5),  # NVIDIA A10 datasheet
    (r"\bL4\b", 121, 60),  # NVIDIA L4 datasheet, half of its figures with sparsity
    (r"\bL40S\b", 362, 183),  # NVIDIA L40S datasheet, half of its figures with sparsity
    (r"RTX 3090$", 71, 35.6),  # NVIDIA Ampere GA102 whitepaper, sums in float32
    (r"RTX 4090$", 165.2, 82.6),  # NVIDIA Ada whitepaper, sums in float32
    (r"H[12]00 NVL", 835.5, 417.5),  # NVIDIA H100 and H200 datasheets, half of their figures with sparsity
    (r"H100 PCIe", 756, 378),  # NVIDIA H100 datasheet
    (r"H[12]00", 989.4, 494.7),  # the SXM boards: NVIDIA H100 and H200 datasheets
    (r"\bB200", 2250, 1125),  # NVIDIA HGX B200 datasheet, an eighth of its eight GPUs, without sparsity
    (r"TPU v3", 61.5, 61.5),  # Google Cloud's TPU documentation, as all below: half a chip is a device
    (r"TPU v4$", 275, 275),
    (r"TPU v5 ?(lite|e)", 197, 197),
    (r"TPU v5(p|$)", 459, 459),
    (r"TPU v6 ?(lite|e)", 918, 918),
)
"""Pattern in the device's kind, and its dense peak in bfloat16 and in float32, in 10¹² FLOPs per second.

'float32' means matrix products at JAX's default precision: TF32 on NVIDIA GPUs since Ampere, bfloat16 on TPUs. None
if the device has no fast path for the type. The first matching pattern counts.
"""


def peak(kind: str, precision: str) -> float | None:
    """Returns the peak FLOPs per second of a device of this kind (`device_kind`); None if unknown."""
    for pattern, half, single in PEAKS:
        if re.search(pattern, kind):
            tera = half if precision == "bfloat16" else single
            return None if tera is None else tera * 1e12
    return None


def mfu(flops: float | None, steps_per_second: float, kind: str, precision: str, devices: int = 1) -> float | None:
    """Computes the model FLOPs utilisation: the fraction of the devices' peak that training reaches; None if unknown.

    Args:
        flops: FLOPs of one training step, over all devices.
        steps_per_second: training steps per second.
        kind: the devices' kind (`device_kind`).
        precision: 'bfloat16' or 'float32'.
        devices: number of devices.
    """
    device_peak = peak(kind, precision)
    if device_peak is None or flops is None:
        return None
    return flops * steps_per_second / (device_peak * devices)
