"""Every mixer trains on every task of the quick protocol, from the real data. Slow: LRA_SLOW=1 runs it."""

import dataclasses
import math
import os

import pytest
from flax import nnx

from configs.quick import QUICK, recipe
from lra.train.loop import fit
from models import MIXERS
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tasks import TASKS
from tasks.io.cache import open_entry, prepare
from tests.helpers import real_data

pytestmark = pytest.mark.skipif("LRA_SLOW" not in os.environ, reason="LRA_SLOW is not set: 100 programs to compile")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """64 examples a split of each task."""
    folder, made = tmp_path_factory.mktemp("cache"), {}
    for name in QUICK.tasks:
        length = QUICK.lengths.get(name, (TASKS[name].length,))[0]
        rules = TASKS[name].rules
        if hasattr(rules, "train"):
            rules = dataclasses.replace(rules, train=64, validation=64, test=64)
        entry = prepare(TASKS[name], length, 0, "auto", rules=rules, cache=folder, source_dir=real_data.folder())
        made[name] = real_data.first_examples(open_entry(entry), 64)
    return made


@pytest.mark.parametrize("model", MIXERS)
@pytest.mark.parametrize("task", QUICK.tasks)
def test_a_mixer_trains_on_a_quick_task(data, task, model):
    splits, r = data[task], recipe(task, model)
    r = dataclasses.replace(r, train=dataclasses.replace(r.train, steps=6, eval_every=6, precision="float32"))
    e = r.encoder
    make = mixer_factory(model, dict(r.mixer), heads=e.heads, qkv=e.qkv, dropout=e.attention_dropout, layers=e.layers)
    module = Encoder(
        make, vocab=splits.vocab, classes=splits.classes, length=splits.values.shape[1], dim=e.dim, layers=e.layers,
        mlp=e.mlp, positions=e.positions, pair=TASKS[task].pair, rate=e.dropout, rngs=nnx.Rngs(0),
    )  # fmt: skip
    outcome = fit([module], splits, r, [0])
    (result,) = outcome.results
    assert outcome.status == "ok" and result.steps == 6
    assert all(math.isfinite(value) for value in result.curve[0].values())
    assert 0 <= result.test_last <= 1
