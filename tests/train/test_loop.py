"""Training: order, schedules, chunks, evaluation, and a model that learns."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipe import Optimizer, Schedule
from lra.train import data
from lra.train.data import DeviceData, batch_indices, gather, tokens_of
from lra.train.loop import fit
from lra.train.optimizer import learning_rate, make_optimizer
from lra.train.step import Program, chunk_length
from tests.helpers.mixing import QUICK, build_encoder, run
from tests.helpers.training import RECIPE, encoder, first_token_splits, program_of, train, trained, with_train

SHORT = with_train(steps=10, eval_every=5)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 997, 1024])
def test_the_order_is_a_permutation_and_another_one_each_epoch(count):
    drawn = np.concatenate([data.batch_indices(np.int32(s), count, count, 7, np) for s in range(3)]).reshape(3, count)
    assert (np.sort(drawn, 1) == np.arange(count)).all()
    if count >= 100:
        assert not np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], data.batch_indices(np.int32(0), count, count, 8, np))


def test_batches_run_over_the_end_of_an_epoch_without_dropping_anyone():
    drawn = np.concatenate([data.batch_indices(np.int32(s), 32, 100, 0, np) for s in range(25)]).reshape(8, 100)
    assert (np.sort(drawn, 1) == np.arange(100)).all()


def test_the_order_is_the_same_on_the_device():
    for step in (0, 5, 40_000):
        host = data.batch_indices(np.int32(step), 64, 45_001, 3, np)
        assert np.array_equal(host, jax.jit(lambda s: data.batch_indices(s, 64, 45_001, 3, jnp))(step))


def test_the_order_looks_random():
    """Each place is equally likely to go anywhere, and neighbours don't stay neighbours (χ² at 5 standard errors)."""
    n, draws, bins = 1000, 3000, 10
    x = np.arange(n, dtype=np.uint32)
    counts = np.zeros((bins, bins))
    near = 0
    for key in range(draws):
        y = data.permute_index(x, n, data.mix_bits(np.uint32([key])), np).astype(int)
        np.add.at(counts, (x * bins // n, y * bins // n), 1)
        near += (np.abs(np.diff(y)) == 1).sum()
    expected = n * draws / bins**2
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < (bins - 1) ** 2 + 5 * (2 * (bins - 1) ** 2) ** 0.5
    # A random permutation has 2 (n − 1) / n adjacent neighbours on average, about Poisson.
    assert abs(near / draws - 2) < 5 * (2 / draws) ** 0.5


@pytest.mark.slow
def test_a_scan_equals_a_loop_bit_for_bit():
    program, source = program_of()
    examples = source.data["train"]

    @jax.jit
    def step(state, number):
        of_seed = jax.tree.map(lambda x: x[0], (state.params, state.optimizer, program.other_state))
        rows = data.batch_indices(number, RECIPE.train.batch, 512, 3, jnp)
        params, optimizer, metrics, _ = program.step(*of_seed, jnp.uint32(3), number, gather(examples, rows))
        params, optimizer = jax.tree.map(lambda x: x[None], (params, optimizer))
        return type(state)(params, optimizer, number + 1, state.moving), metrics

    looped, losses = program.init(), []
    for number in range(12):
        looped, (loss, _) = step(looped, jnp.int32(number))
        losses.append(loss)
        if number + 1 in (2, 7, 12):
            chunk = program.compile_chunk(program.init(), examples, number + 1)
            scanned, metrics = chunk(program.init(), program.fixed, examples)
            jax.tree.map(np.testing.assert_array_equal, looped, scanned)
            np.testing.assert_array_equal(losses, metrics[0][:, 0])


@pytest.mark.slow
def test_training_reaches_its_accuracy_from_a_fixed_seed():
    outcome = train(model="transformer")
    result = outcome.results[0]
    assert outcome.status == result.status == "ok" and result.steps == 200
    assert [point["step"] for point in result.curve] == [50, 100, 150, 200]
    assert result.test_best > 0.95
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]
    assert train(model="transformer").results == outcome.results
    assert trained(SHORT, (1,)).results[0].curve != trained(SHORT, (0,)).results[0].curve


def test_seeds_together_learn_as_each_alone():
    """Not bit for bit: a mapped product is summed in another order. Ten steps, so that it stays rounding."""
    both = trained(SHORT, (0, 1)).results
    for result, seed in zip(both, (0, 1), strict=True):
        alone = trained(SHORT, (seed,)).results[0]
        assert_same_curves(result, alone)
        assert (result.seed, result.best_step) == (seed, alone.best_step)
    assert both[0].curve != both[1].curve


def assert_same_curves(one, other, rel=1e-4):
    assert len(one.curve) == len(other.curve) > 0
    for a, b in zip(one.curve, other.curve, strict=True):
        assert a == pytest.approx(b, rel=rel, abs=1e-6)
    assert (one.test_best, one.test_last) == pytest.approx((other.test_best, other.test_last))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"remat": True}, {"accumulate": 8, "remat": True}])
def test_accumulation_and_recomputation_give_the_same_numbers(changes):
    recipe = dataclasses.replace(SHORT, train=dataclasses.replace(SHORT.train, **changes))
    assert_same_curves(train(recipe).results[0], trained(SHORT).results[0])


def test_streamed_batches_give_the_same_bits():
    recipe = with_train(steps=30, eval_every=15)  # nearly two epochs
    sent, kept = (train(recipe, (2, 5), stream=stream) for stream in ("on", "off"))
    assert sent.streamed and not kept.streamed
    assert sent.results == kept.results


def test_remat_needs_less_memory():
    shape = dataclasses.replace(RECIPE.encoder, layers=4, dim=64, qkv=64, mlp=256)

    def temporaries(remat: bool) -> int:
        recipe = dataclasses.replace(with_train(remat=remat, batch=128), encoder=shape)
        model = build_encoder("fnet", 8, 64, layers=4, vocab=5, classes=4, mlp=256, remat=remat)
        program = Program([model], recipe, 512, 1, [0], jax.devices()[:1])
        data = DeviceData(first_token_splits(), program.sharding).data["train"]
        lowered = jax.jit(program.chunk, static_argnames="steps", donate_argnames="state").lower(
            program.init(), program.fixed, data, steps=1
        )
        return lowered.compile(QUICK).memory_analysis().temp_size_in_bytes

    assert temporaries(True) < 0.6 * temporaries(False)


def test_a_trace_of_one_chunk_is_written_and_changes_nothing(tmp_path):
    assert train(SHORT, profile=tmp_path).results == trained(SHORT).results
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_the_time_between_chunks_is_counted(monkeypatch):
    """A tenth of a second lost on the host before each of the five chunks but the first."""
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda steps_between, operations, backend: 2)
    slow = train(with_train(steps=10, eval_every=10), stop=lambda: time.sleep(0.1) or "")
    assert 0.4 <= slow.idle_seconds < slow.loop_seconds < 60
    assert len(slow.blocks) == 4 and len(slow.first_blocks) == 1


def test_a_seed_that_diverges_leaves_the_others_alone():
    models = [encoder("fnet", seed=0), encoder("fnet", seed=1)]
    models[1].classifier.kernel[...] = jnp.full_like(models[1].classifier.kernel[...], jnp.nan)
    outcome = fit(models, first_token_splits(), SHORT, (0, 1))
    fine, broken = outcome.results
    assert (outcome.status, fine.status, broken.status) == ("ok", "ok", "diverged")
    assert fine.steps == 10 and broken.steps == 1 and broken.error == "the loss was nan at step 0"
    assert math.isnan(broken.test_best) and not broken.curve
    assert_same_curves(fine, trained(SHORT).results[0])


def test_the_best_step_is_tested_and_so_is_the_last():
    """A rate that grows until it spoils the model: the best parameters must be earlier ones."""
    recipe = dataclasses.replace(
        RECIPE,
        schedule=Schedule("constant", warmup=5_000),
        optimizer=Optimizer(learning_rate=20.0),
        train=dataclasses.replace(RECIPE.train, steps=400, eval_every=25),
    )
    outcome = train(recipe).results[0]
    best = max(outcome.curve, key=lambda point: point["validation_accuracy"])
    assert (outcome.best_step, outcome.validation_best) == (best["step"], best["validation_accuracy"])
    assert outcome.best_step < 400 and outcome.test_best > outcome.test_last


@pytest.mark.slow
def test_evaluation_counts_every_example_once():
    """Against accuracy and loss computed over the whole split at once; 103 examples in batches of 32."""
    splits = first_token_splits()
    model = encoder()
    recipe = dataclasses.replace(RECIPE, optimizer=Optimizer(learning_rate=0.0))
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(RECIPE.train, steps=1))
    outcome = fit([model], splits, recipe, [0]).results[0]
    data = program_of()[1].data
    for name, accuracy in (("validation", outcome.validation_last), ("test", outcome.test_last)):
        batch = gather(data[name], jnp.arange(len(splits.splits[name].labels)))
        logits, labels = run(model, *tokens_of(batch)), batch.labels
        assert accuracy == pytest.approx(float((logits.argmax(-1) == labels).mean()), abs=1e-6)
        if name == "validation":
            loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
            assert outcome.curve[-1]["validation_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_padding_is_zero_and_values_are_shifted_by_one():
    splits = first_token_splits()
    ids, mask = tokens_of(gather(program_of()[1].data["test"], jnp.arange(5)))
    rows = splits.splits["test"].index[:5]
    np.testing.assert_array_equal(ids, splits.tokens(rows))
    for row, length, shown, real in zip(rows[:, 0], splits.lengths[rows[:, 0]], ids[:, 0], mask[:, 0], strict=True):
        np.testing.assert_array_equal(shown, [*(splits.values[row, :length] + 1), *[0] * (8 - length)])
        assert real.sum() == length


def test_a_loss_that_is_not_finite_ends_the_cell():
    recipe = dataclasses.replace(RECIPE, optimizer=Optimizer(learning_rate=1e38, weight_decay=1e3))
    outcome = train(recipe)
    assert outcome.status == "diverged" and "at step" in outcome.error
    assert 0 < outcome.results[0].steps < 200 and math.isnan(outcome.results[0].test_best)


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        ("rsqrt", 0, 0.0),
        ("rsqrt", 500, 0.05 * 0.5 / math.sqrt(1000)),
        ("rsqrt", 1000, 0.05 / math.sqrt(1000)),
        ("rsqrt", 4000, 0.05 / math.sqrt(4000)),
        ("cosine", 1000, 0.05),
        ("cosine", 3000, 0.025),
        ("cosine", 5000, 0.0),
        ("linear", 3000, 0.025),
        ("constant", 3000, 0.05),
    ],
)
def test_the_schedules_are_the_official_formulas(decay, step, expected):
    rate = learning_rate(Optimizer(0.05), Schedule(decay, warmup=1000), 5000)
    assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_optimizer_is_adam_with_decoupled_decay():
    """Three steps against the update written out (Kingma & Ba 2015, algorithm 1; decay times the rate)."""
    o = Optimizer(learning_rate=0.1, weight_decay=0.3, b1=0.8, b2=0.9, eps=1e-4)
    optimizer = make_optimizer(dataclasses.replace(RECIPE, optimizer=o, schedule=Schedule("constant", warmup=0)))
    x = jnp.array([1.0, -2.0])
    state = optimizer.init(x)
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for t in range(1, 4):
        g = np.array([0.5, t - 2.5])
        update, state = optimizer.update(jnp.array(g, jnp.float32), state, x)
        x = x + update
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        adam = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-4)
        expected = expected - 0.1 * (adam + 0.3 * expected)
    np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_bfloat16_trains_with_float32_parameters():
    losses = []
    for precision in ("bfloat16", "float32"):
        program, source = program_of(with_train(precision=precision), model="fnet")
        chunk = program.compile_chunk(program.init(), source.data["train"], 1)
        state, (loss, _) = chunk(program.init(), program.fixed, source.data["train"])
        assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        losses.append(float(loss[0, 0]))
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.05


def test_chunks_divide_the_steps_between_validations():
    assert chunk_length(50, 1e3, "cpu") == 50
    assert chunk_length(50, 1e13, "cpu") == 1
    assert chunk_length(175, 1e9, "cpu") == 25


def test_no_epoch_of_a_seed_is_an_epoch_of_another():
    """A seed that were added to the number of the epoch would give seed 1 the order of seed 0, an epoch later."""
    orders = {
        (seed, epoch): batch_indices(np.int32(epoch), 100, 100, seed, np).tobytes()
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(set(orders.values())) == 36
