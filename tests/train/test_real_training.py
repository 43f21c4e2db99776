"""Each task, prepared from the real data, trains and is tested for a few steps."""

import math

import pytest
from flax import nnx

from configs.recipe import Encoder as Shape
from configs.recipe import Optimizer, Recipe, Schedule, Train
from lra.train.loop import fit
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tasks import TASKS
from tasks.io.cache import open_entry, prepare
from tests.helpers import real_data

SHAPE = Shape(dim=8, heads=1, layers=1, qkv=8, mlp=8, dropout=0.0, attention_dropout=0.0)
RECIPE = Recipe(
    SHAPE,
    Optimizer(learning_rate=1e-2, eps=1e-8),
    Schedule("constant", warmup=1),
    Train(steps=4, batch=8, eval_every=2, precision="float32"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "image", "listops", "retrieval", "pathfinder"])
def test_a_task_trains_from_the_real_data(name, tmp_path):
    task = TASKS[name]
    length = 500 if name in ("text", "retrieval") else task.length
    entry = prepare(task, length, 0, "auto", cache=tmp_path, source_dir=real_data.folder())
    data = real_data.first_examples(open_entry(entry), 40)
    make = mixer_factory("fnet", {}, heads=1, qkv=8, dropout=0.0, layers=1)
    model = Encoder(
        make, vocab=data.vocab, classes=data.classes, length=length, dim=8, layers=1, mlp=8, pair=task.pair,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    outcome = fit([model], data, RECIPE, [0])
    (result,) = outcome.results
    assert outcome.status == "ok" and outcome.steps == 4
    assert all(math.isfinite(point["train_loss"]) for point in result.curve) and len(result.curve) == 2
    for accuracy in (result.test_last, result.validation_last):
        assert 0 <= accuracy <= 1 and round(accuracy * 40) == pytest.approx(accuracy * 40)
