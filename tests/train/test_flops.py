"""FLOPs: against the compiler where it can count, against closed forms, and loops with all their trips."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.quick import recipe
from configs.recipe import Recipe
from lra.train import flops
from lra.train.benchmark import random_splits
from lra.train.data import DeviceData, SplitArrays
from lra.train.step import Program
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tests.helpers.training import with_train


def arrays(*shapes, dtype=jnp.float32):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def step_of(model: str, length: int, dropout: float = 0.0):
    """Builds a training step of the quick recipe, and its arguments."""
    quick: Recipe = recipe("text", model)
    quick = dataclasses.replace(quick, train=dataclasses.replace(quick.train, batch=2, precision="float32"))
    make = mixer_factory(model, dict(quick.mixer), heads=4, qkv=64, dropout=dropout, layers=1)
    module = Encoder(make, vocab=257, classes=2, length=length, dim=64, layers=1, mlp=64, rate=dropout,
                     rngs=nnx.Rngs(0))  # fmt: skip
    program = Program([module], quick, 2, 1, [0], jax.devices()[:1])
    data = DeviceData(random_splits(257, 2, False, length, 2), program.sharding).data["train"]
    return partial(program.chunk, steps=1), (program.init(), program.fixed, data)


@pytest.mark.parametrize("model", ["transformer_naive", "linformer", "linear_mixing"])
def test_a_program_without_loops_counts_as_the_compiler_counts_it(model):
    step, arguments = step_of(model, 256)
    compiler = jax.jit(step).lower(*arguments).cost_analysis()["flops"]
    assert flops.count(step, *arguments) == pytest.approx(compiler, rel=0.02)


def test_the_compiler_counts_a_loop_once_and_we_every_trip():
    def looped(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=10)[0]

    (x,) = arrays((32, 32))
    product = 2 * 32**3
    assert jax.jit(looped).lower(x).cost_analysis()["flops"] < 2 * product
    assert flops.count(looped, x) == 10 * product


def test_attention_in_tiles_counts_its_seven_products_for_the_six_of_the_naive_one():
    """Long enough that products of L×L outweigh the rest; tiles make the scores again when going backwards."""
    length, width, batch = 2112, 64, 2  # the CLS token included: six tiles of 352 queries, none of them padded
    counted = {}
    for model in ("transformer", "transformer_naive"):
        step, arguments = step_of(model, length - 1)
        jaxpr = jax.make_jaxpr(step)(*arguments).jaxpr
        counted[model] = matmuls(jaxpr)
    product = 2 * batch * length**2 * width
    assert counted["transformer"] - counted["transformer_naive"] == pytest.approx(product, rel=0.01)
    assert counted["transformer_naive"] > 6 * product


def matmuls(jaxpr) -> float:
    """Counts only matrix products, by a separate walk."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for value in eqn.params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                total += times * matmuls(inside)
    return total


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(3, 4, 5), (3, 5, 6)], 2 * 3 * 4 * 5 * 6),
        (lambda a, b: jnp.sum(jnp.exp(a) + b), [(7, 8), (7, 8)], 3 * 56),
        (lambda a: jnp.max(a, 1), [(7, 8)], 56),
        (lambda a: jnp.where(a > 0, a, 0).astype(jnp.bfloat16).T, [(7, 8)], 0),
        (lambda a: jnp.argsort(a), [(64,)], 0),
        (lambda a: jnp.cumsum(a), [(64,)], 64),
        (lambda a: jnp.fft.rfft(a), [(3, 16)], 3 * 5 * 16 * 4 / 2),
        (lambda a: jnp.linalg.qr(a)[0], [(5, 9, 6)], 5 * 4 * 6**2 * (9 - 6 / 3)),
        (lambda a: jnp.zeros(9).at[jnp.arange(4)].add(a), [(4,)], 4),
        (lambda a: jax.lax.cond(True, lambda x: x @ x, lambda x: x, a), [(4, 4)], 2 * 4**3),
        (lambda a: jax.checkpoint(jax.jit(lambda x: x @ x))(a), [(4, 4)], 2 * 4**3),
        (lambda a: jax.lax.fori_loop(0, 5, lambda i, c: c @ c, a), [(4, 4)], 5 * 2 * 4**3),
        (lambda a: jax.lax.fori_loop(0, jnp.int32(5), lambda i, c: c @ c, a), [(4, 4)], 5 * 2 * 4**3),
        (lambda a: jax.lax.map(lambda x: x @ x, a), [(6, 4, 4)], 6 * 2 * 4**3),
    ],
)  # fmt: skip
def test_what_counts_how_much(function, shapes, expected):
    assert flops.count(function, *arrays(*shapes)) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a: a + a, 2 * 42),
        (lambda a: a - a, 2 * 42),
        (lambda a: -a, 2 * 42),
        (lambda a: a * a, 6 * 42),
        (lambda a: a / a, 11 * 42),
        (jnp.abs, 4 * 42),
        (jnp.conj, 42),
        (jnp.exp, 5 * 42),
        (jnp.expm1, 5 * 42),
        (jnp.tanh, 6 * 42),
        (lambda a: jax.lax.complex(a.imag, a.real), 0),
        (jnp.sum, 2 * 42),
        (lambda a: jnp.prod(a, 1), 6 * 42),
        (lambda a: jax.lax.cumsum(a), 2 * 42),
        (lambda a: a @ a.T, 8 * 6 * 7 * 6),
        (lambda a: jnp.zeros((9, 7), a.dtype).at[jnp.arange(6)].add(a), 2 * 42),
        (lambda a: jnp.zeros((9, 7), a.dtype).at[jnp.arange(6)].multiply(a), 6 * 42),
        (lambda a: jax.lax.conv_general_dilated(a[:, None], a[:2, None, :3], (1,), "VALID"), 8 * (6 * 2 * 5) * 3),
        (lambda a: jax.lax.reduce_window(a, np.complex64(0), jax.lax.add, (1, 3), (1, 1), "VALID"), 2 * 6 * 5 * 3),
    ],
)  # fmt: skip
def test_a_complex_operation_counts_those_on_its_parts(function, expected):
    assert flops.count(function, *arrays((6, 7), dtype=jnp.complex64)) == expected


@pytest.mark.parametrize(("operation", "each"), [(jnp.add, 2), (jnp.multiply, 6)])
def test_complex_arithmetic_counts_what_it_counts_written_out(operation, each):
    """On pairs of real arrays, where nothing is complex."""

    def written_out(a, b, c, d):
        return (a + c, b + d) if operation is jnp.add else (a * c - b * d, a * d + b * c)

    parts = arrays(*[(5, 3)] * 4)
    whole = arrays((5, 3), (5, 3), dtype=jnp.complex64)
    assert flops.count(operation, *whole) == flops.count(written_out, *parts) == each * 15


def test_a_recurrence_counts_each_position():
    """h = a h + b of P complex states: a product and a sum, 8 on their parts, for each of the positions."""
    from models.core.linear_scan import linear_scan

    a, b = arrays((3,), (2, 50, 3))
    assert flops.count(lambda a, b: linear_scan((a, a), (b, b), method="loop"), a, b) == 8 * b.size


def test_a_long_convolution_counts_its_transforms():
    """Forwards those of x, of the kernel, and back; of 2 L points each, by half, and a complex product between."""
    from models.core.long_convolution import convolve

    (x, kernel), points = arrays((4, 64, 3), (3, 64)), 128
    expected = (4 * 3 + 3 + 4 * 3) * 5 * points * math.log2(points) / 2 + 6 * 4 * 3 * (points / 2 + 1)
    assert flops.count(convolve, x, kernel) == expected


def test_a_complex_transform_counts_twice_a_real_one():
    (x,) = arrays((3, 16), dtype=jnp.complex64)
    assert flops.count(jnp.fft.fft, x) == 3 * 5 * 16 * 4


def test_convolutions_count_as_the_compiler_counts_them():
    for groups in (1, 4):
        x, kernel = arrays((2, 4, 32), (8, 4 // groups, 5))

        def convolve(x, kernel, groups=groups):
            return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", feature_group_count=groups)

        assert flops.count(convolve, x, kernel) == 2 * (2 * 8 * 28) * (4 // groups) * 5
        assert flops.count(convolve, x, kernel) == jax.jit(convolve).lower(x, kernel).cost_analysis()["flops"]


def test_a_loop_whose_trips_nobody_knows_has_no_count():
    (x,) = arrays((4, 4))
    assert math.isnan(flops.count(lambda a: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, a), x))
    (n,) = arrays((), dtype=jnp.int32)
    assert math.isnan(flops.count(lambda n, a: jax.lax.fori_loop(0, n, lambda i, c: c @ c, a), n, x))


def test_a_sharded_program_counts_on_every_device():
    mesh = jax.sharding.AbstractMesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    mapped = jax.shard_map(lambda a: a @ a.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert flops.count(mapped, *arrays((8, 6))) == 4 * (2 * 2 * 6 * 2)


def test_cudnn_s_attention_counts_two_products_forwards_and_five_backwards(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    q, k, v = arrays((2, 128, 4, 64), (2, 256, 4, 64), (2, 256, 4, 64), dtype=jnp.bfloat16)

    def attend(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn").astype(jnp.float32).sum()

    product = 2 * (2 * 4) * 128 * 256 * 64
    assert flops.count(attend, q, k, v) == pytest.approx(2 * product, rel=0.01)
    assert flops.count(jax.grad(attend, (0, 1, 2)), q, k, v) == pytest.approx(7 * product, rel=0.01)


def test_the_fused_kernel_s_attention_counts_two_products_forwards_and_seven_backwards():
    """Of L × M × K each, for every problem; several seeds count as often."""
    from models.core.fused_attention import attend_fused

    def loss(q, k, v, mask):
        return attend_fused(q, k, v, mask, interpret=True).sum()

    q, mask = arrays((2, 128, 3, 64))[0], jax.ShapeDtypeStruct((2, 128), jnp.bool)
    product = 2 * (2 * 3) * 128 * 128 * 64
    forward, both = flops.count(loss, q, q, q, mask), flops.count(jax.grad(loss, (0, 1, 2)), q, q, q, mask)
    assert forward == pytest.approx(2 * product, rel=0.01)
    assert both == pytest.approx(9 * product, rel=0.01)
    three = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in (q, q, q, mask)]
    assert flops.count(jax.vmap(loss), *three) == pytest.approx(3 * forward, rel=0.01)


BATCH, WIDTH = 1024, 64


class TwoProducts(nnx.Module):
    """Two square linear maps of the first token."""

    def __init__(self) -> None:
        self.maps = nnx.List([nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=nnx.Rngs(i)) for i in range(2)])

    def __call__(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = jnp.broadcast_to(tokens[:, 0, :1].astype(jnp.float32), (tokens.shape[0], WIDTH))
        return self.maps[1](self.maps[0](x))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_step_has_two_products_forwards_and_three_backwards(seeds):
    """Both maps forwards, the gradients of both weights, and that of what is between them."""
    program = Program([TwoProducts() for _ in seeds], with_train(batch=BATCH), BATCH, 1, seeds, jax.devices()[:1])
    shapes = (BATCH, 3), (BATCH,), (BATCH, 1), (BATCH,)
    kinds = np.uint8, np.int32, np.int32, np.int32
    source = SplitArrays(*(jnp.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)))
    assert program.flops(source) == pytest.approx(len(seeds) * 5 * 2 * BATCH * WIDTH**2, rel=0.05)
