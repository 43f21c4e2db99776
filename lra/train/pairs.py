"""Pair interaction: how much a model's read-out depends on two tokens together, by their distance.

Pooling hides it: whatever a head with a hidden layer computes of the pooled states depends on all tokens together, also
in a bag of words. So the read-out is linearised: f(x') = g · (pooled states of x'), where g is the gradient of the
label's logit minus the mean of the others in the pooled vector, taken at the example x and then held fixed. Then

    I(d) = E |f(x) − f(xⁱ) − f(xʲ) + f(xⁱʲ)|,  j = i + d,

where the tokens at i, at j, or at both are replaced by others of the data. With mean pooling it is exactly 0 where no
state depends on both tokens; with CLS pooling, the CLS token's state is all there is, and it may join any two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lra.train.data import Batch, tokens_of
from lra.train.reach import Make, Sample, Tree, powers
from lra.train.shuffles import draw_bits

PAIRS = 256
"""Pairs of tokens at each distance."""


class Drawn(NamedTuple):
    """What is changed, of each pair: the example, the places i and j, and the raw values that replace theirs, [N]."""

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray
    new_first: np.ndarray
    new_second: np.ndarray


def draw(sample: Sample, distance: int) -> Drawn | None:
    """Draws `PAIRS` pairs at a distance, of the examples' first documents; None where all are too short.

    Examples, places and the replacing tokens (of any first document) are uniform, and depend on the sample alone.
    """
    lengths = sample.lengths[:, 0].astype(np.int64)
    long_enough = np.flatnonzero(lengths > distance)
    if not len(long_enough):
        return None
    bits = draw_bits((PAIRS, 6), 16 + distance).astype(np.int64).T
    rows = long_enough[bits[0] % len(long_enough)]
    first = bits[1] % (lengths[rows] - distance)
    nonempty = np.flatnonzero(lengths > 0)
    sources = [nonempty[b % len(nonempty)] for b in bits[2:4]]
    new = [sample.values[row, 0, b % lengths[row]] for row, b in zip(sources, bits[4:], strict=True)]
    return Drawn(rows, first, first + distance, *new)


def measure(
    make: Make, seeds: Sequence[Tree], sample: Sample, batch: int, check: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The pair interaction of one model, trained with several seeds.

    Args:
        make: makes the model of a seed's variables; it should compute in float32, as differences of sums are taken.
        seeds: each seed's parameters and other state.
        sample: the examples.
        batch: pairs that are computed at once.
        check: is called between programs, and raises an exception to stop.

    Returns:
        For each seed: distances `d`, the `interaction` at each, and `alone`, the mean change of f by one token, to
        compare it with.
    """
    run = jax.jit(lambda variables, *inputs: _differences(make(variables), *inputs))
    distances = [d for d in powers(2, sample.values.shape[2] - 1) if d]
    drawn = {d: pairs for d in distances if (pairs := draw(sample, d)) is not None}
    found = []
    for variables in seeds:
        changes = {}
        for distance, pairs in drawn.items():
            parts = []
            for start in range(0, PAIRS, batch):
                check()
                rows = np.arange(start, start + batch) % PAIRS
                part = Drawn(*(array[rows] for array in pairs))
                examples = Batch(*(jnp.asarray(a[part.rows]) for a in (sample.values, sample.lengths, sample.labels)))
                both = run(variables, examples, *(jnp.asarray(a.astype(np.int32)) for a in part[1:]))
                parts.append(np.asarray(jax.device_get(both))[:, : PAIRS - start])
            changes[distance] = np.concatenate(parts, axis=1).mean(1, dtype=np.float64)
        found.append(
            {
                "d": list(changes),
                "interaction": [float(together) for together, _ in changes.values()],
                "alone": float(np.mean([alone for _, alone in changes.values()])) if changes else None,
            }
        )
    return found


def _differences(
    model: Any, batch: Batch, first: jax.Array, second: jax.Array, new_first: jax.Array, new_second: jax.Array
) -> jax.Array:
    """For each example, |f(x) − f(xⁱ) − f(xʲ) + f(xⁱʲ)| and |f(x) − f(xⁱ)|, [2, B]."""
    tokens, mask = tokens_of(batch)
    count, documents, length = tokens.shape
    encoded = model.encode(tokens.reshape(-1, length), mask.reshape(-1, length)).reshape(count, documents, -1)

    def margin(pooled: jax.Array) -> jax.Array:
        logits = model.classify(jnp.concatenate([pooled[:, None], encoded[:, 1:]], axis=1))
        label = jnp.take_along_axis(logits, batch.labels[:, None].astype(jnp.int32), axis=1)[:, 0]
        others = (logits.sum(1) - label) / max(logits.shape[1] - 1, 1)
        return (label - others).sum()

    gradient = jax.grad(margin)(encoded[:, 0]).astype(jnp.float32)
    text, seen = tokens[:, 0], mask[:, 0]
    place = jnp.arange(length)[None]
    changed_first = jnp.where(place == first[:, None], new_first[:, None] + 1, text)
    changed_second = jnp.where(place == second[:, None], new_second[:, None] + 1, text)
    changed_both = jnp.where(place == second[:, None], new_second[:, None] + 1, changed_first)
    inputs = jnp.concatenate([text, changed_first, changed_second, changed_both])
    states, kept = model.states(model.embed(inputs), jnp.tile(seen, (4, 1)))
    if model.cls is not None:
        weights = (jnp.arange(states.shape[1]) == 0)[None].astype(jnp.float32)
    else:
        weights = kept[:count].astype(jnp.float32) / jnp.maximum(seen.sum(1, keepdims=True), 1).astype(jnp.float32)
    read = jnp.einsum("vbld,bd->vbl", states.reshape(4, count, *states.shape[1:]).astype(jnp.float32), gradient)
    plain, without_first, without_second, without_both = read
    # State by state, so that what does not join them cancels to the bit.
    together = (plain - without_first) - (without_second - without_both)
    return jnp.abs(jnp.stack([(weights * together).sum(1), (weights * (plain - without_first)).sum(1)]))
