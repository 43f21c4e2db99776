"""What is evaluated: which examples, in batches of which size, in how much memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipe import Optimizer
from lra.grid.spec import TrainOptions
from lra.train import loop
from lra.train.data import DeviceData, gather, sample_evaluated
from lra.train.loop import Hooks, Trainer, fit
from lra.train.step import Program, evaluation_batch, program_bytes
from tasks.task import Split
from tests.helpers.mixing import run
from tests.helpers.training import RECIPE, encoder, first_token_splits, session, train, with_train

SMALLER = with_train(steps=1, validation_examples=40, test_examples=30)


def split_of(labels) -> Split:
    return Split(np.arange(len(labels), dtype=np.int32)[:, None] + 7, np.asarray(labels, np.uint8))


def sampled(labels, size):
    """The places in the split of the examples that are tested."""
    data = first_token_splits()
    data = dataclasses.replace(data, splits={**data.splits, "test": split_of(labels)})
    test = sample_evaluated(data, with_train(test_examples=size).train).splits["test"]
    rows = test.index[:, 0] - 7
    np.testing.assert_array_equal(test.labels, np.asarray(labels)[rows])
    return rows


@pytest.mark.parametrize("size", [1, 99, 2_500, 9_999, 10_000, 20_000])
def test_a_sample_has_as_many_examples_as_asked_for_each_once_and_every_class_s_share(size):
    labels = np.random.default_rng(0).choice(4, 10_000, p=[0.5, 0.3, 0.15, 0.05])
    rows = sampled(labels, size)
    assert len(rows) == len(set(rows.tolist())) == min(size, 10_000)
    shares = np.bincount(labels[rows], minlength=4) - np.bincount(labels) * len(rows) / len(labels)
    assert np.abs(shares).max() < 1


def test_a_sample_is_drawn_from_the_whole_split():
    """Files are in order of class, of difficulty or of time: neither the first examples nor every n-th will do."""
    rows = sampled(np.arange(10_000) % 2, 2_000)
    # Means of 2,000 of 10,000 places; 4 standard errors.
    assert abs(rows.mean() - 5_000) < 4 * 10_000 / 12**0.5 / 2_000**0.5
    in_tenths = np.bincount(rows // 1_000, minlength=10)
    assert ((in_tenths - 200) ** 2 / 200).sum() < 9 + 5 * 18**0.5
    assert len(np.unique(np.diff(rows))) > 10


def test_all_models_and_seeds_are_evaluated_on_the_same_examples():
    data = first_token_splits()
    one = Trainer([encoder("fnet", 0)], data, SMALLER, [0], TrainOptions(), Hooks())
    two = Trainer([encoder("transformer", 5)], data, SMALLER, [5], TrainOptions(stream="on"), Hooks())
    for split, size in (("validation", 40), ("test", 30)):
        assert one.counts[split] == two.counts[split] == size
        kept, streamed = (
            gather(one.source.examples(split, 0, size), jnp.arange(size)),
            two.source.examples(split, 0, size),
        )
        jax.tree.map(np.testing.assert_array_equal, kept, streamed)
    assert one.counts["train"] == 512


def test_accuracy_and_loss_are_those_of_the_sample():
    """Against the model run over the sample at once; 40 and 30 examples in batches of 32."""
    data, model = first_token_splits(), encoder()
    outcome = fit([model], data, dataclasses.replace(SMALLER, optimizer=Optimizer(learning_rate=0.0)), [0]).results[0]
    chosen = sample_evaluated(data, SMALLER.train).splits
    point = outcome.curve[-1]
    for name, accuracy in (("validation", point["validation_accuracy"]), ("test", outcome.test_best)):
        rows, labels = chosen[name].index[:, 0], np.asarray(chosen[name].labels)
        mask = np.arange(8) < data.lengths[rows][:, None]
        logits = np.asarray(run(model, jnp.asarray(data.tokens(rows)[:, None]), jnp.asarray(mask[:, None])))
        assert accuracy == pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-6)
        if name == "validation":
            losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]
            assert point["validation_loss"] == pytest.approx(losses.mean(), rel=1e-4)


def test_streaming_and_seeds_together_evaluate_the_same():
    recipe = with_train(steps=10, eval_every=5, validation_examples=40, test_examples=30)
    both, streamed, alone = train(recipe, (0, 1)), train(recipe, (0, 1), stream="on"), train(recipe, (1,))
    assert both.results == streamed.results
    assert both.results[1].test_last == alone.results[0].test_last
    assert {round(30 * result.test_last, 9) % 1 for result in both.results} == {0}


def test_a_resumed_cell_evaluates_the_same_sample(tmp_path):
    recipe = with_train(steps=10, eval_every=5, validation_examples=40, test_examples=30)
    session(tmp_path, 1, recipe=recipe)
    resumed, whole = session(tmp_path, recipe=recipe)[0], session(None, recipe=recipe)[0]
    assert resumed.resumed == 1 and resumed.results == whole.results


def test_the_time_left_counts_the_sample():
    trainer = Trainer([encoder("fnet")], first_token_splits(), SMALLER, [0], TrainOptions(), Hooks())
    trainer.evaluation_seconds = 1.0
    assert trainer._seconds_left(0.5) == 0.5 + 40 + 2 * 30


@pytest.mark.parametrize("size", [4, 64, 128])
def test_batches_of_any_size_evaluate_every_example_once(monkeypatch, size):
    """101 examples in 26 batches, in 2, and in one that is larger than the split."""
    recipe = with_train(steps=4, eval_every=2)
    expected = train(recipe).results[0]
    monkeypatch.setattr(loop, "evaluation_batch", lambda recipe, tokens, count, devices, backend: size)
    monkeypatch.setattr(loop, "program_bytes", lambda compiled: None)
    got = train(recipe).results[0]
    assert (got.validation_last, got.test_best, got.test_last) == (
        expected.validation_last, expected.test_best, expected.test_last,
    )  # fmt: skip
    for a, b in zip(got.curve, expected.curve, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "tokens", "count", "devices", "backend", "expected"),
    [
        ({"batch": 32}, 64, 2_000, 1, "cpu", 32),  # 2,048 tokens: the training batch is small enough
        ({"batch": 32}, 1_024, 2_000, 1, "cpu", 4),
        ({"batch": 30}, 1_024, 2_000, 1, "cpu", 3),  # a divisor
        ({"batch": 32}, 1_024, 2_000, 4, "cpu", 16),  # 4 on each
        ({"batch": 32, "accumulate": 16}, 1_024, 2_000, 1, "cpu", 2),  # no more than is differentiated at once
        ({"batch": 32}, 16_384, 2_000, 1, "cpu", 1),
        ({"batch": 32}, 64, 2_000, 1, "gpu", 96),  # three layers
        ({"batch": 32}, 1_024, 2_000, 1, "gpu", 64),
        ({"batch": 32}, 2_048, 2_000, 1, "gpu", 32),
        ({"batch": 32}, 16_384, 2_000, 1, "gpu", 32),  # never less than is differentiated at once
        ({"batch": 32, "accumulate": 4}, 64, 2_000, 2, "gpu", 24),
        ({"batch": 32, "remat": True}, 64, 2_000, 1, "gpu", 32),
        ({"batch": 32}, 64, 40, 1, "gpu", 64),  # no more than hold the split
    ],
)
def test_the_size_of_a_batch_follows_from_the_recipe(changes, tokens, count, devices, backend, expected):
    recipe = dataclasses.replace(with_train(**changes), encoder=dataclasses.replace(RECIPE.encoder, layers=3))
    assert evaluation_batch(recipe, tokens, count, devices, backend) == expected


def test_a_reversible_model_is_evaluated_in_the_memory_of_one_layer():
    recipe = dataclasses.replace(RECIPE, encoder=dataclasses.replace(RECIPE.encoder, layers=3, reversible=True))
    assert evaluation_batch(recipe, 64, 2_000, 1, "gpu") == 32


@pytest.mark.parametrize("model", ["transformer", "transformer_naive", "fnet", "s4d"])
def test_a_larger_batch_on_an_accelerator_needs_no_more_memory_than_training(model):
    recipe = dataclasses.replace(RECIPE, encoder=dataclasses.replace(RECIPE.encoder, layers=2))
    program = Program([encoder(model, 0, recipe.encoder)], recipe, 512, 1, [0], jax.devices()[:1])
    source = DeviceData(first_token_splits(), program.sharding).data["train"]
    size = evaluation_batch(recipe, 8, 512, 1, "gpu")
    assert size == 64
    training = program_bytes(program.compile_chunk(program.init(), source, 1))
    assert program_bytes(program.compile_evaluate(source, size)) <= training


def test_a_batch_that_would_need_more_memory_than_training_is_not_taken(monkeypatch):
    monkeypatch.setattr(loop, "evaluation_batch", lambda recipe, tokens, count, devices, backend: 64 * 32)
    trainer = Trainer([encoder("fnet")], first_token_splits(), SMALLER, [0], TrainOptions(), Hooks())
    trainer._compile()
    assert {split: size for split, (_, size) in trainer.evaluate.items()} == {"validation": 32, "test": 32}
