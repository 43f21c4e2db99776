"""The fused kernels, run by JAX itself: against the equation and `attend`; and their way to Triton's IR."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention.transformer import attend, attend_naive
from models.core import fused_attention
from models.core.flash_attention import draw_dropout_seeds, dropout_mask
from models.core.fused_attention import Blocks, applies, attend_fused, tile_sizes
from tests.helpers.mixing import jit, normal, on_a_gpu


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of few positions: JAX runs them faster. Both sizes differ, so that none stands for the other."""
    monkeypatch.setattr(fused_attention, "tile_sizes", lambda width, dtype: Blocks(16, 32, 4))


def case(length, keys, heads, width):
    """q, k, v, the output's gradient, and masks: all keys; with whole blocks and single ones missing; no key."""
    q, g = normal(3, length, heads, width), normal(3, length, heads, width, seed=1)
    k, v = normal(2, 3, keys, heads, width, seed=2)
    mask = np.ones((3, keys), bool)
    mask[1, : keys // 2] = mask[1, keys - 5 :] = mask[1, -7] = False
    mask[2] = False
    return (q, k, v, g), jnp.asarray(mask)


def equation(q, k, v, g, mask, kept):
    """o, dq, dk, dv in float64, `kept` [B, H, L, M] being dropout's factors."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    p = np.exp(np.einsum("blhk,bmhk->bhlm", q, k) * q.shape[-1] ** -0.5) * np.asarray(mask)[:, None, None]
    p = p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
    o = np.einsum("bhlm,bmhk->blhk", p * kept, v)
    dp = np.einsum("blhk,bmhk->bhlm", g, v) * kept
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
    dq, dk = np.einsum("bhlm,bmhk->blhk", ds, k), np.einsum("bhlm,blhk->bmhk", ds, q)
    return o, dq, dk, np.einsum("bhlm,blhk->bmhk", p * kept, g)


def rngs():
    return nnx.Rngs(dropout=7)


def both_passes(f, arrays, mask, rate, **options):
    """o, dq, dk, dv of an attention f."""

    def run(q, k, v, g):
        o, back = jax.vjp(lambda *x: f(*x, mask, rate, rngs(), **options), q, k, v)
        return o, *back(g.astype(o.dtype))

    return jit(run)(*arrays)


def near(got, want, tolerance=1e-5):
    """Relative to the largest entry of each array."""
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape and np.isfinite(a).all()
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def factors(q, k, rate):
    rows, columns = draw_dropout_seeds(q.shape[:3], k.shape[:3], rate, rngs())
    return np.asarray(dropout_mask(rows.swapaxes(1, 2), columns.swapaxes(1, 2), rate)) / (1 - rate)


@pytest.mark.parametrize(
    ("length", "keys", "heads", "width", "rate"),
    [(37, 70, 2, 20, 0.4), (1, 65, 1, 8, 0.0), (130, 64, 3, 64, 0.1)],
)
def test_equals_the_equation(small_blocks, length, keys, heads, width, rate):
    arrays, mask = case(length, keys, heads, width)
    kept = factors(*arrays[:2], rate) if rate else 1.0
    got = both_passes(attend_fused, arrays, mask, rate, interpret=True)
    near(got, equation(*arrays, mask, kept))
    assert all(not np.asarray(x)[2].any() for x in got)  # the example without keys


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_equals_tiled_attention(dtype, tolerance):
    arrays, mask = case(70, 100, 2, 16)
    arrays = [x.astype(dtype) for x in arrays]
    got = both_passes(attend_fused, arrays, mask, 0.3, interpret=True)
    assert all(x.dtype == dtype for x in got)
    near(got, both_passes(attend, [x.astype(jnp.float32) for x in arrays], mask, 0.3), tolerance)


def test_drops_the_same_weights(small_blocks):
    """Values that are one-hot show the weights themselves."""
    (q, k, *_), _ = case(50, 64, 2, 64)
    v, mask = jnp.broadcast_to(jnp.eye(64)[:, None], k.shape), jnp.ones((3, 64), bool)
    run = jit(lambda *x: attend_fused(*x, mask, 0.3, rngs(), interpret=True))
    weights = run(q, k, v)
    kept = factors(q, k, 0.3).swapaxes(1, 2) > 0
    np.testing.assert_array_equal(np.asarray(weights) > 0, kept)
    np.testing.assert_array_equal(np.asarray(attend_naive(q, k, v, mask, 0.3, rngs())) > 0, kept)


def test_under_vmap_scan_and_checkpoint(small_blocks):
    """Seeds trained at once have own weights and dropout keys, and share a batch's mask."""
    arrays, mask = case(20, 40, 2, 8)
    stacked = [jnp.stack([x, 2 * x]) for x in arrays]
    seeds = jnp.arange(2)

    def one(seed, q, k, v, g):
        @jax.checkpoint
        def layer(x, _):
            return attend_fused(x, k, v, mask, 0.2, nnx.Rngs(dropout=jax.random.key(seed)), interpret=True), None

        o, back = jax.vjp(lambda q: jax.lax.scan(layer, q, length=2)[0], q)
        return o, *back(g)

    each = jit(one)
    together = jit(jax.vmap(one))(seeds, *stacked)
    for i in range(2):
        near([x[i] for x in together], each(seeds[i], *(x[i] for x in stacked)), 1e-6)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(("dtype", "seeds", "batch"), [(jnp.bfloat16, 2, 4), (jnp.float32, 1, 40_000)])
def test_lowers_to_valid_triton(monkeypatch, dtype, seeds, batch):
    # JAX serialises a kernel without asking whether it is valid, and only a GPU's compiler would notice.
    lowering = pytest.importorskip("jax._src.pallas.triton.lowering")
    original, kernels = lowering.lower_jaxpr_to_triton_module, []

    def verified(*args, **options):
        result = original(*args, **options)
        assert result.module.operation.verify()
        kernels.append((str(result.module), result.grid))
        return result

    monkeypatch.setattr(lowering, "lower_jaxpr_to_triton_module", verified)
    q, k = (jax.ShapeDtypeStruct((seeds, batch, n, 2, 20), dtype) for n in (100, 200))
    mask = jax.ShapeDtypeStruct((seeds, batch, 200), jnp.bool)

    def loss(q, k, v, mask):
        return attend_fused(q, k, v, mask, 0.6, rngs()).sum().astype(jnp.float32)

    with on_a_gpu():
        step = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))
        text = step.trace(q, k, k, mask).lower(lowering_platforms=("cuda",)).as_text()

    assert text.count("__gpu$xla.gpu.triton") == len(kernels) == 3
    tile = tile_sizes(20, dtype)
    for (ir, grid), block in zip(kernels, (tile.queries, tile.queries, tile.keys), strict=True):
        length = 200 if "keys" in ir[: ir.index("\n")] else 100
        assert np.prod(grid) == -(-length // block) * 2 * batch * seeds and max(grid[1:], default=1) < 2**16
        products = [line for line in ir.splitlines() if "tt.dot" in line]
        assert products and all(line.endswith("xf32>") and "tf32" not in line for line in products)
        assert "uge" in ir and "shrui" in ir and not re.search(r"shrsi|sge", ir)  # dropout's words are unsigned
        assert "scf.for" in ir and "scf.while" not in ir  # a `while` would not be pipelined


def test_where_it_applies():
    def at(backend="gpu", capability=8.0, dtype=jnp.bfloat16, width=64):
        return applies(backend, capability, jnp.dtype(dtype), width)

    assert at() and at(capability=9.0) and at(dtype=jnp.float32) and at(dtype=jnp.float16) and at(width=128)
    others = [{"backend": "cpu"}, {"capability": 7.5}, {"capability": 0.0}, {"dtype": jnp.float64}, {"width": 129}]
    assert not any(at(**other) for other in others)
