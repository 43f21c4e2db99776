"""The published recipes of state-space models, field by field, and the parameters that they give."""

import itertools

import jax
import pytest
from flax import nnx

from configs import PROTOCOLS
from configs.families.frame import EXAMPLES
from lra.train.worker import build
from tasks import PAPER, TASKS

SSM = PROTOCOLS["ssm"]
FAMILIES = ("s4d", "s5", "lru")
GREY, HALF, PLAIN = (122.6 / 255, 61 / 255), (0.5, 0.5), (0.0, 1.0)

# Layers, width, norms before or after, final norm, dropout, batch, steps, warm-up, learning rate, rate of the slow
# group, roles in it, weight decay, what does not decay, and the mixer's options.
S4D = {
    "listops": (6, 256, "post", False, 0, 32, 120_000, 12_000, 0.01, 1e-3, "A,B", {"state": 4}),
    "text": (6, 256, "pre", True, 0, 16, 50_000, 5_000, 0.01, 1e-3, "A,B", {"state": 4}),
    "retrieval": (6, 256, "pre", True, 0, 64, 50_000, 5_000, 0.01, 1e-3, "A,B", {"state": 4}),
    "image": (6, 512, "post", False, 0.1, 50, 180_000, 18_000, 0.01, 1e-3, "A,step,B,C", {}),
    "pathfinder": (6, 256, "pre", True, 0, 64, 500_000, 50_000, 0.004, 1e-3, "A,step,B,C", {"n_ssm": 0}),
    "pathx": (6, 256, "pre", True, 0, 16, 500_000, 50_000, 1e-3, 1e-3, "A,step,B,C", {"n_ssm": 0, "step_min": 1e-4}),
}

# Layers, width, gate, momentum of the norm, dropout, batch, steps, warm-up, learning rate, rate of the slow group,
# roles in it, weight decay, what does not decay, and the mixer's options.
S5 = {
    "listops": (8, 128, "half_glu2", 0.95, 0, 50, 40 * 1_920, 1_920, 3e-3, 1e-3, "A,step", 0.04, "A,step",
                {"state": 16, "blocks": 8}),
    "text": (6, 256, "half_glu2", 0.95, 0.1, 50, 35 * 450, 0, 4e-3, 1e-3, "A,B", 0.07, "A,B",
             {"state": 192, "blocks": 12}),
    "retrieval": (6, 128, "half_glu1", 0.95, 0, 32, 20 * 4_596, 4_596, 2e-3, 1e-3, "A,B", 0.05, "A,B",
                  {"state": 256, "blocks": 16, "c_init": "trunc"}),
    "image": (6, 512, "half_glu1", 0.95, 0.1, 50, 250 * 900, 900, 4.5e-3, 1e-3, "A,step", 0.07, "A,step",
              {"state": 384, "blocks": 3, "clip_eigs": True}),
    "pathfinder": (6, 192, "half_glu1", 0.9, 0.05, 64, 200 * 2_500, 2_500, 4.5e-3, 9e-4, "A,step,B", 0.03, "A,step,B",
                   {"state": 256, "blocks": 8, "c_init": "trunc"}),
    "pathx": (6, 128, "half_glu1", 0.9, 0, 32, 75 * 5_000, 5_000, 1.8e-3, 6e-4, "A,step,B", 0.06, "A,step",
              {"state": 256, "blocks": 16, "c_init": "complex", "step_min": 1e-4}),
}  # fmt: skip

# Width, dropout, batch, steps, warm-up, learning rate, rate of the slow group, and the mixer's options.
LRU = {
    "listops": (128, 0, 32, 80_000, 8_000, 3e-3, 1.5e-3, {"state": 256, "r_max": 0.99}),
    "text": (256, 0.1, 32, 50_000, 5_000, 1e-3, 1e-4, {"state": 192, "r_max": 0.9}),
    "retrieval": (128, 0.1, 64, 100_000, 10_000, 1e-3, 5e-4, {"state": 256, "r_min": 0.5, "r_max": 0.9}),
    "image": (512, 0.1, 50, 180_000, 18_000, 5e-3, 1.25e-3, {"state": 384, "r_min": 0.9, "r_max": 0.999}),
    "pathfinder": (192, 0, 64, 500_000, 50_000, 4e-3, 1e-3, {"state": 256, "r_min": 0.9, "r_max": 0.999}),
    "pathx": (128, 0, 32, 250_000, 25_000, 4e-3, 1e-3,
              {"state": 256, "r_min": 0.999, "r_max": 0.9999, "max_phase": pytest.approx(0.314159, abs=1e-6)}),
}  # fmt: skip

VOCABULARIES = {
    "s4d": {"listops": 18, "text": 135, "retrieval": 98},
    "s5": {"listops": 20, "text": 135, "retrieval": 98},
}
"""Their vocabularies: S4 embeds ListOps' 18 symbols, S5 has 20 rows; 135 characters of IMDb, 98 of the AAN's titles."""

PUBLISHED = {
    ("s4d", "listops"): 0.82e6, ("s4d", "text"): 0.84e6, ("s4d", "retrieval"): 1.10e6, ("s4d", "image"): 3.56e6,
    ("s4d", "pathfinder"): 1.19e6, ("s4d", "pathx"): 1.19e6,
    ("s5", "listops"): 188_490, ("s5", "text"): 1_321_154, ("s5", "retrieval"): 0.77e6, ("s5", "image"): 5_133_706,
    ("s5", "pathfinder"): 1_113_602, ("s5", "pathx"): 694_018,
}  # fmt: skip
"""Parameters of the official models, counted in their code: exactly, or to 0.01 million."""


def test_it_has_the_paper_s_tasks_and_difficulties():
    assert SSM.tasks == PAPER and SSM.default_models == FAMILIES
    assert set(SSM.variants) == set(PROTOCOLS["lra"].variants)
    for task, examples in EXAMPLES.items():
        assert examples == TASKS[task].counts[0]


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("model", [*FAMILIES, "transformer"])
def test_what_all_state_space_models_have_in_common(task, model):
    recipe = SSM.recipe(task, model)
    e, o = recipe.encoder, recipe.optimizer
    assert (e.norm, e.head, e.pool, e.positions, e.tied_dropout) == ("batch", "linear", "mean", "none", True)
    assert (o.b1, o.b2, o.eps, o.clip, recipe.schedule.decay) == (0.9, 0.999, 1e-8, 0, "cosine")
    assert recipe.train.eval_every == TASKS[task].counts[0] // recipe.train.batch, "an epoch between validations"
    assert (e.input == "embedding") == (task in ("listops", "text", "retrieval") and model in ("s4d", "transformer"))
    centred = PLAIN if model in ("s4d", "transformer") else HALF
    pixels = {"image": GREY, "pathfinder": centred, "pathx": centred}
    assert (e.input_mean, e.input_std) == pixels.get(task, HALF)


@pytest.mark.parametrize(("task", "row"), S4D.items(), ids=str)
def test_s4d_has_the_authors_configs(task, row):
    recipe = SSM.recipe(task, "s4d")
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    found = (
        e.layers, e.dim, "pre" if e.prenorm else "post", e.final_norm, e.dropout, t.batch, t.steps,
        recipe.schedule.warmup, o.learning_rate, pytest.approx(o.slow_factor * o.learning_rate), o.slow,
    )  # fmt: skip
    assert found == row[:-1] and dict(recipe.mixer) == row[-1] | {"init": "inv"}
    assert (o.weight_decay, o.undecayed) == (0.05, "A,step,B,bias,norm")
    assert (e.block, e.init, e.norm_momentum) == ("glu", "torch", 0.9)


@pytest.mark.parametrize(("task", "row"), S5.items(), ids=str)
def test_s5_has_the_authors_commands(task, row):
    recipe = SSM.recipe(task, "s5")
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    found = (
        e.layers, e.dim, e.block, e.norm_momentum, e.dropout, t.batch, t.steps, recipe.schedule.warmup,
        o.learning_rate, pytest.approx(o.slow_factor * o.learning_rate), o.slow, o.weight_decay, o.undecayed,
    )  # fmt: skip
    assert found == row[:-1] and dict(recipe.mixer) == row[-1]
    assert (e.prenorm, e.final_norm, e.init) == (True, False, "lecun")


@pytest.mark.parametrize(("task", "row"), LRU.items(), ids=str)
def test_lru_has_what_reproductions_have(task, row):
    recipe = SSM.recipe(task, "lru")
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    found = (
        e.dim, e.dropout, t.batch, t.steps, recipe.schedule.warmup, o.learning_rate,
        pytest.approx(o.slow_factor * o.learning_rate),
    )  # fmt: skip
    assert found == row[:-1] and dict(recipe.mixer) == row[-1]
    assert (o.slow, o.undecayed, o.weight_decay) == ("A,B", "A,B", 0.05)
    assert (e.layers, e.block, e.prenorm, e.final_norm, e.norm_momentum) == (6, "full_glu", True, False, 0.99)


@pytest.mark.parametrize("task", PAPER)
def test_another_model_takes_s4d_s_frame_with_its_own_options(task):
    other, s4d = SSM.recipe(task, "short_conv"), SSM.recipe(task, "s4d")
    assert (other.encoder, other.optimizer, other.schedule, other.train) == (
        s4d.encoder, s4d.optimizer, s4d.schedule, s4d.train,
    )  # fmt: skip
    assert other.mixer == ()


@pytest.mark.parametrize("model", FAMILIES)
def test_a_difficulty_takes_the_recipe_of_its_task(model):
    assert SSM.recipe("pathfinder_easy", model) == SSM.recipe("pathfinder", model)
    assert SSM.recipe("pathx_intermediate", model) == SSM.recipe("pathx", model)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("protocol", ["lra", "small"])
def test_the_shared_encoder_is_that_of_every_model(protocol, model):
    for task in PROTOCOLS[protocol].tasks:
        recipe, other = (PROTOCOLS[protocol].recipe(task, name) for name in (model, "transformer"))
        assert (recipe.encoder, recipe.optimizer, recipe.train) == (other.encoder, other.optimizer, other.train)
        assert bool(recipe.mixer) == (task == "pathx"), "only 16,384 pixels need another start"


def count(model: str, task: str, vocab: int) -> int:
    """Parameters of a recipe's model by its paper's architecture; real numbers, a complex one being two."""
    recipe = SSM.recipe(task, model)
    dim, options = recipe.encoder.dim, dict(recipe.mixer)
    state = options.get("state", 64)
    dense = dim * dim + dim
    if model == "s4d":  # state/2 modes: A and B a copy, C a feature and direction; D and Δ a feature; GLU of H → 2H
        copies = options.get("n_ssm", 1) or dim
        mixer = 2 * 2 * copies * state // 2 + 2 * 2 * dim * state // 2 + 2 * dim
        gate = 2 * dense
    elif model == "s5":  # state/2 modes: Λ, B [P, H], C [H, P] a direction; Δ a mode; D a feature; one dense map
        modes = state // 2
        mixer = 2 * modes + 2 * modes * dim + 2 * 2 * dim * modes + modes + dim
        gate = dense
    else:  # N modes: ν, θ, γ; B [N, H]; C [H, N] a direction; D a feature; two dense maps
        mixer = 3 * state + 2 * state * dim + 2 * 2 * dim * state + dim
        gate = 2 * dense
    layers = recipe.encoder.layers * (mixer + gate + 2 * dim)
    final_norm = 2 * dim * recipe.encoder.final_norm
    pixels = bool(TASKS[task].shape)
    entry = (1 if pixels else vocab) * dim + dim * (recipe.encoder.input == "linear")
    widths = [4 * dim, dim] if TASKS[task].pair else [dim]
    head = sum(a * b + b for a, b in itertools.pairwise([*widths, TASKS[task].classes]))
    return entry + layers + final_norm + head


@pytest.mark.parametrize(("model", "task"), PUBLISHED)
def test_the_architecture_has_the_parameters_of_the_official_code(model, task):
    published = PUBLISHED[model, task]
    exact = isinstance(published, int)
    found = count(model, task, VOCABULARIES[model].get(task, 257))
    assert found == (published if exact else pytest.approx(published, rel=0.01))


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("model", FAMILIES)
def test_the_model_has_the_parameters_of_its_architecture(model, task):
    known, vocab = TASKS[task], VOCABULARIES.get(model, {}).get(task, TASKS[task].vocab)
    recipe, picture = SSM.recipe(task, model), bool(known.shape)
    module = nnx.eval_shape(lambda: build(model, recipe, vocab, known.classes, known.pair, known.length, 0, picture))
    found = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert found == count(model, task, vocab)
