"""Reformer against one dense softmax over the union of its rounds' chunks, found by sorting in Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.attention.reformer import half_sizes, hash_buckets, lsh_attention, sort_buckets
from models.core.layers import merge_heads, split_heads
from tests.helpers.mixing import (
    assert_equals,
    build,
    dense,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    permissively,
    run,
)


def union(buckets, mask, chunk):
    """bool [B, H, L, L]: j in i's chunk or a neighbour in any round; i itself if there is nothing else."""
    batch, length, heads, rounds = buckets.shape
    seen = np.zeros((batch, heads, length, length), bool)
    for b, h, r in np.ndindex(batch, heads, rounds):
        real = [i for i in range(length) if mask[b, i]]
        order = sorted(real, key=lambda i: (buckets[b, i, h, r], i))
        at = {i: place // chunk for place, i in enumerate(order)}
        for i in real:
            for j in real:
                seen[b, h, i, j] |= abs(at[i] - at[j]) <= 1
    for b, h, i in np.ndindex(batch, heads, length):
        seen[b, h, i, i] &= seen[b, h, i].sum() == 1
    return seen


def shared(q, v, seen, scaled=False):
    """Attention to the pairs `seen` with logits q·k / ‖k‖, over √K if `scaled`; `dense` divides by √K."""
    k = q / jnp.linalg.norm(q.astype(jnp.float32), axis=-1, keepdims=True)
    return dense(q, k * (1 if scaled else np.sqrt(q.shape[-1])), v, seen)


@pytest.mark.parametrize(
    ("lengths", "heads", "hashes", "chunk", "buckets"),
    [((37, 24), 2, 3, 4, 6), ((30, 17), 1, 2, 3, 130)],
)
def test_equals_the_union_of_rounds(lengths, heads, hashes, chunk, buckets):
    mixer = build("reformer", lengths[0], 16, heads, hashes=hashes, chunk=chunk, buckets=buckets)
    mixer.rotations[...] = normal(*mixer.rotations.shape, seed=5)
    x, mask = inputs(lengths[0], 16, lengths)
    hashed = hash_buckets(split_heads(mixer.query(x), heads), mixer.rotations[...], mixer.halves)
    seen = union(np.asarray(hashed), np.asarray(mask), chunk)
    assert not seen.all(axis=(2, 3)).any()

    def reference(mixer, x, mask):
        q, v = split_heads(mixer.query(x), heads), split_heads(mixer.value(x), heads)
        return mixer.out(merge_heads(shared(q, v, seen))) * mask[..., None]

    assert_equals(mixer, reference, x, mask, rounded=None)  # rounding moves queries to other buckets


def test_equals_the_union_of_rounds_in_bfloat16():
    q, v = (normal(2, 41, 2, 8, seed=seed).astype(jnp.bfloat16) for seed in (0, 1))
    mask = np.arange(41) < np.array([[41], [22]])
    buckets = np.random.default_rng(0).integers(0, 6, (2, 41, 2, 3))
    attention = jit(lsh_attention, static_argnums=(4, 5))
    actual = np.asarray(attention(q, v, mask, jnp.asarray(buckets, jnp.int32), 6, 4), np.float32)
    expected = jit(permissively(shared))(q.astype(jnp.float32), v, union(buckets, mask, 4))
    np.testing.assert_allclose(np.where(mask[..., None, None], actual - np.asarray(expected), 0), 0, atol=2e-2)


@pytest.mark.parametrize("scaled", [False, True])
def test_one_chunk_is_full_attention_with_shared_queries_and_keys(scaled):
    def full(mixer, x, mask):
        q, v = split_heads(mixer.query(x), 2), split_heads(mixer.value(x), 2)
        others = mask[:, None, None, :] & ~jnp.eye(x.shape[1], dtype=bool)
        return mixer.out(merge_heads(shared(q, v, others, scaled)))

    mixer, (x, mask) = build("reformer", 21, 16, chunk=50, scaled=scaled), inputs(21, 16, (21, 17))
    assert_equals(mixer, full, x, mask, rounded=None, at_padding=True)


@pytest.mark.parametrize("count", [6, 2**30])
def test_sorting_is_stable_and_can_be_undone(count):
    """The second count leaves no room for a position beside the bucket."""
    buckets = np.random.default_rng(0).integers(0, 6, (2, 3, 40)).astype(np.int32)
    order, place = map(np.asarray, jit(sort_buckets, static_argnums=1)(jnp.asarray(buckets), count))
    np.testing.assert_array_equal(order, np.argsort(buckets, axis=-1, kind="stable"))
    np.testing.assert_array_equal(np.take_along_axis(order, place, -1), np.broadcast_to(np.arange(40), order.shape))


def test_a_position_alone_sees_itself():
    mixer = build("reformer", 9, 16, chunk=3)
    x, mask = inputs(9, 16, (9, 1))
    value = mixer.out(mixer.value(x))
    np.testing.assert_allclose(run(mixer, x, mask)[1, 0], value[1, 0], rtol=1e-5, atol=1e-6)


def test_hash_keeps_near_together():
    """The closer two queries, the likelier the same bucket; and most buckets are used."""
    q, away = normal(1, 4000, 1, 16), normal(1, 4000, 1, 16, seed=1)
    halves = half_sizes(200)
    assert 4 * halves[0] * halves[1] >= 200
    hashed = jit(lambda q: hash_buckets(q, normal(1, 16, 1, sum(halves), seed=2), halves))
    first, *others = (np.asarray(hashed(q + e * away)) for e in (0, 0.1, 0.5, 10))
    same = [float((first == other).mean()) for other in others]
    assert 1 > same[0] > same[1] > 10 * same[2]
    assert len(np.unique(first)) > 0.8 * 4 * halves[0] * halves[1]


def test_rotations_are_new_in_training():
    mixer = build("reformer", 40, heads=1, hashes=1, chunk=4)
    x, mask = inputs(40, lengths=(40, 40))
    a, b = (run(mixer, x, mask, seed) for seed in (1, 2))
    assert np.abs(a - b).max() > 1e-2
    np.testing.assert_array_equal(run(mixer, x, mask), run(mixer, x, mask))


def test_padding_changes_nothing():
    assert padding_changes("reformer", 53, (29, 12), rebuilt=True, pool="mean", layers=2, chunk=4, buckets=8) < 1e-5


def test_parameters_and_options():
    assert parameter_count("reformer") == 3_487_490 - 4 * 256 * 256
    for wrong in ({"heads": 3}, {"hashes": 0}, {"chunk": 0}, {"buckets": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("reformer", **({"dim": 16} | wrong))
