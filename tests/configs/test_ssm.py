"""The published recipes of state-space models and their kin, field by field, and the parameters that they give."""

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
    assert SSM.tasks == PAPER and SSM.default_models == (*FAMILIES, "sgconv", "mega", "mega_chunk", "hgrn")
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


# Layers, width, norms before or after, kind of norm, dropout, batch, steps, warm-up, learning rate, weight decay, and
# the mixer's options.
SGCONV = {
    "listops": (8, 128, "post", "batch", 0, 50, 80_000, 1_000, 0.01, 0.05, {"taps": 1}),
    "text": (6, 256, "pre", "batch", 0, 16, 50_000, 1_000, 0.01, 0.05, {"taps": 2}),
    "retrieval": (6, 256, "pre", "batch", 0, 64, 50_000, 2_500, 0.01, 0.05, {"taps": 1}),
    "image": (6, 512, "post", "layer", 0.2, 50, 200_000, 1_000, 0.01, 0.05,
              {"alpha_min": 1, "alpha_max": 1, "power": 1}),
    "pathfinder": (6, 256, "pre", "batch", 0.2, 64, 500_000, 2_500, 0.004, 0.03, {}),
    "pathx": (6, 256, "pre", "batch", 0, 64, 125_000, 10_000, 0.004, 0.03,
              {"taps": 64, "alpha_min": 1, "alpha_max": 3, "scale": 1, "init": "cosine"}),
}  # fmt: skip


@pytest.mark.parametrize(("task", "row"), SGCONV.items(), ids=str)
def test_sgconv_has_the_authors_configs(task, row):
    recipe = SSM.recipe(task, "sgconv")
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    found = (
        e.layers, e.dim, "pre" if e.prenorm else "post", e.norm, e.dropout, t.batch, t.steps, recipe.schedule.warmup,
        o.learning_rate, o.weight_decay,
    )  # fmt: skip
    assert found == row[:-1] and dict(recipe.mixer) == row[-1] and e.final_norm == e.prenorm
    assert (o.slow, o.undecayed, o.slow_factor * o.learning_rate) == ("A", "", pytest.approx(1e-3))
    assert (e.head, e.pool, e.positions, recipe.schedule.decay) == ("linear", "mean", "none", "cosine")


# Layers, width, width of queries, kind of norm, learning rate, weight decay, dropout, batch, steps, warm-up.
MEGA = {
    "listops": (6, 80, 64, "layer", 1e-3, 0.01, 0.1, 64, 90_000, 3_000),
    "text": (4, 128, 64, "scale", 4e-3, 0.01, 0.1, 50, 25_000, 10_000),
    "retrieval": (6, 128, 64, "scale", 3e-3, 0.04, 0.1, 64, 91_960, 10_000),
    "image": (8, 160, 96, "batch", 0.01, 0.02, 0, 50, 180_000, 9_000),
    "pathfinder": (6, 128, 64, "batch", 0.01, 0.01, 0, 128, 250_000, 50_000),
    "pathx": (4, 64, 32, "batch", 0.01, 0.01, 0, 128, 125_000, 25_000),
}
PIXELS = {"image": (0.48, 0.24), "pathfinder": HALF, "pathx": HALF}


@pytest.mark.parametrize("model", ["mega", "mega_chunk"])
@pytest.mark.parametrize(("task", "row"), MEGA.items(), ids=str)
def test_mega_has_the_authors_commands(task, row, model):
    recipe = SSM.recipe(task, model)
    e, o, t, mixer = recipe.encoder, recipe.optimizer, recipe.train, dict(recipe.mixer)
    found = (
        e.layers, e.dim, mixer["z"], e.norm, o.learning_rate, o.weight_decay, e.dropout, t.batch, t.steps,
        recipe.schedule.warmup,
    )  # fmt: skip
    assert found == row and mixer["hidden"] == e.mlp == 2 * e.dim
    assert (o.b1, o.b2, o.eps, o.clip, o.undecayed, recipe.schedule.decay) == (0.9, 0.98, 1e-8, 1, "", "linear")
    picture = task in PIXELS
    assert e.prenorm == e.final_norm == picture == (e.input == "linear") == (mixer.get("attention") == "laplace")
    if picture:
        assert (e.input_mean, e.input_std) == PIXELS[task]
    assert mixer["truncation"] == (4_096 if task == "pathx" else 1_024)
    assert mixer.get("chunk") == (4_096 if (model, task) == ("mega_chunk", "pathx") else None)
    assert (e.attention_dropout, e.tied_dropout, e.block, e.head, e.init) == (0, False, "silu_mlp", "gelu_mlp", "mega")


@pytest.mark.parametrize(
    ("task", "vocab", "length", "millions"),
    [("listops", 18, 2_002, 0.60), ("text", 260, 4_002, 0.99), ("retrieval", 260, 4_002, 1.49),
     ("image", 257, 1_024, 2.84), ("pathfinder", 257, 1_024, 1.39), ("pathx", 257, 16_384, 0.38)],
)  # fmt: skip
def test_mega_has_the_parameters_of_the_official_code(task, vocab, length, millions):
    """At that code's vocabulary and longest input, since it learns a number for each distance."""
    known = TASKS[task]
    recipe, picture = SSM.recipe(task, "mega"), bool(known.shape)
    module = nnx.eval_shape(lambda: build("mega", recipe, vocab, known.classes, known.pair, length, 0, picture))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


# Layers, width, feed-forward's factor, learning rate, weight decay, dropout, batch, steps, warm-up, positions.
HGRN = {
    "listops": (6, 32, 1, 5e-4, 0.01, 0, 128, 50_000, 5_000, "sinusoidal"),
    "text": (4, 128, 1, 5e-3, 0, 0.1, 32, 50_000, 10_000, "sinusoidal"),
    "retrieval": (2, 64, 2, 5e-3, 0, 0, 64, 50_000, 312, "sinusoidal"),
    "image": (6, 512, 1, 3e-3, 0, 0, 50, 50_000, 30_000, "sinusoidal"),
    "pathfinder": (6, 128, 1, 2e-3, 0, 0, 128, 500_000, 50_000, "none"),
    "pathx": (6, 64, 1, 7.5e-4, 0, 0, 16, 500_000, 150_000, "none"),
}


@pytest.mark.parametrize(("task", "row"), HGRN.items(), ids=str)
def test_hgrn_has_the_authors_script(task, row):
    recipe = SSM.recipe(task, "hgrn")
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    found = (
        e.layers, e.dim, e.mlp / e.dim, o.learning_rate, o.weight_decay, e.dropout, t.batch, t.steps,
        recipe.schedule.warmup, e.positions,
    )  # fmt: skip
    assert found == row and dict(recipe.mixer) == {"expand": 1}
    assert (e.norm, e.prenorm, e.block, recipe.schedule.decay) == ("batch", True, "silu_glu", "cosine")


@pytest.mark.parametrize("task", PAPER)
def test_another_model_takes_s4d_s_frame_with_its_own_options(task):
    other, s4d = SSM.recipe(task, "short_conv"), SSM.recipe(task, "s4d")
    assert (other.encoder, other.optimizer, other.schedule, other.train) == (
        s4d.encoder, s4d.optimizer, s4d.schedule, s4d.train,
    )  # fmt: skip
    assert other.mixer == ()


@pytest.mark.parametrize("model", SSM.default_models)
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
