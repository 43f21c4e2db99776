"""Pathfinder drawings follow their rules, and cannot be told from those of the original generator."""

import hashlib
import math
from functools import lru_cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numba
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from tasks.pathfinder.compiled import compiled
from tasks.pathfinder.draw import CONTOUR_LENGTH, SIZES, contours, draw, rules
from tasks.pathfinder.stamps import DEGREES, build_stamps
from tests.helpers import real_data
from tests.helpers.cli import ROOT

ALL = [(size, difficulty) for size in SIZES for difficulty in CONTOUR_LENGTH]


def reference():
    """Pictures of the original generator with the Long Range Arena's parameters, or the test is skipped."""
    return np.load(real_data.shared() / "pathfinder_reference.npz")


# --- the interface ---


@pytest.mark.parametrize(
    "size, difficulty, length, distractor_length, distractors",
    [
        (32, "easy", 6, 2, 10), (32, "intermediate", 9, 3, 6), (32, "hard", 14, 4, 5),
        (64, "easy", 6, 2, 11), (64, "intermediate", 9, 3, 7), (64, "hard", 14, 4, 5),
        (128, "easy", 6, 2, 17), (128, "intermediate", 9, 3, 11), (128, "hard", 14, 4, 8),
        (256, "easy", 6, 2, 15), (256, "intermediate", 9, 3, 10), (256, "hard", 14, 4, 7), (32, "short", 3, 1, 20),
    ],
)  # fmt: skip
def test_rules_count_contours(size, difficulty, length, distractor_length, distractors):
    r = rules(size, difficulty)
    assert (r.size, r.contour_length, r.distractor_length, r.distractors) == (
        size, length, distractor_length, distractors)  # fmt: skip
    assert (r.contour_retries, r.paddle_retries, r.aa_scale) == (4, 2, 2)


@pytest.mark.parametrize(
    "size, expected",
    [  # seed distance, radius, paddle length, thickness, margins, padding, continuity, the two contrasts
        (32, (7, 1.5, 2, 0.5, (1,), 1, 1.0, 2.0, 0.75)),
        (64, (12, 2.5, 5, 1.0, (1,), 1, 1.8, 0.8, 1.0)),
        (128, (20, 3.0, 5, 1.5, (2, 3), 1, 1.8, 0.9, 1.0)),
        (256, (27, 5.0, 5, 2.0, (3,), 22, 1.8, 1.0, 1.0)),
    ],
)
def test_rules_measure_paddles(size, expected):
    r = rules(size, "hard")
    assert expected == (r.seed_distance, r.marker_radius, r.paddle_length, r.thickness, r.margins, r.padding,
                        r.continuity, r.snake_contrast, r.paddle_contrast)  # fmt: skip


@pytest.mark.parametrize("size, difficulty", [(48, "hard"), (32, "harder")])
def test_rules_unknown(size, difficulty):
    with pytest.raises(ValueError, match=r"no Pathfinder.*choose from"):
        rules(size, difficulty)


@pytest.mark.parametrize("size, difficulty", ALL)
def test_shapes_and_range(size, difficulty):
    images, labels = draw(rules(size, difficulty), 3, 0, 4)
    assert images.shape == (4, size, size) and images.dtype == np.uint8
    assert labels.shape == (4,) and labels.dtype == np.uint8 and set(labels) <= {0, 1}
    assert (images.max((1, 2)) == 255).all() and ((images == 0).mean((1, 2)) > 0.3).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_chunks_do_not_matter(seed, start, counts):
    for r in (rules(32, "easy"), rules(128, "easy")):
        images, labels = draw(r, seed, start, sum(counts))
        chunks = [draw(r, seed, start + sum(counts[:k]), count) for k, count in enumerate(counts)]
        np.testing.assert_array_equal(images, np.concatenate([chunk[0] for chunk in chunks]))
        np.testing.assert_array_equal(labels, np.concatenate([chunk[1] for chunk in chunks]))


def test_seeds_and_indices_differ():
    images = np.concatenate([draw(rules(32, "easy"), seed, start, 50)[0] for seed in (0, 1) for start in (0, 50)])
    assert len(np.unique(images, axis=0)) == 200


@pytest.mark.parametrize(
    "size, digest",
    [(32, "a14edcfbf36f77cb"), (64, "669c504e02fabe71"), (128, "c96d6c44391c101c"), (256, "701d72a062da1c51")],
)
def test_pictures_stay_the_same(size, digest):
    """On every machine and with every version: a change of Pillow's line drawing or resampling shows here."""
    images, labels = draw(rules(size, "intermediate"), 0, 0, 16)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] == digest


def test_labels_are_balanced():
    labels = draw(rules(32, "easy"), 0, 0, 20_000)[1]
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / math.sqrt(20_000)


# --- the rules, replayed without tables on what was drawn ---


def blown_up(r, margin, angle):
    """A paddle's line and mask, computed as one picture each: float64 [S, S] in 0 … 1."""
    half = r.paddle_length + math.ceil(r.thickness) + margin
    side, centre, length = 2 * half + 1, half * r.aa_scale, r.paddle_length * r.aa_scale
    image = Image.new("F", (2 * centre + 1,) * 2)
    end = [math.ceil(round(centre + length * f(angle), 9)) for f in (math.cos, math.sin)]
    ImageDraw.Draw(image).line([(centre, centre), tuple(end)], fill=255, width=round(r.thickness * r.aa_scale))
    line, wide = np.array(image) > 0, margin * r.aa_scale
    ball = np.hypot(*np.mgrid[-wide : wide + 1, -wide : wide + 1]) <= wide
    return [shrunk(one, side) / 255 for one in (line, ndimage.binary_dilation(line, ball))]


def shrunk(picture, side):
    """A picture of booleans as uint8 [side, side] in 0 … 255."""
    return np.asarray(Image.fromarray(np.uint8(255 * picture)).resize((side, side), Image.Resampling.LANCZOS))


def put(size, stamp, y, x):
    """A stamp centred on (y, x) in an empty picture."""
    half = len(stamp) // 2
    wide = np.zeros((size + 2 * half,) * 2)
    wide[y : y + 2 * half + 1, x : x + 2 * half + 1] = stamp
    return wide[half : size + half, half : size + half]


@lru_cache
def angles(r, margin):
    """The angle at which each direction's paddle runs on (not how it is drawn)."""
    turn = build_stamps(r, margin).turn
    return np.concatenate([np.radians(np.arange(-180, 180)), np.arctan2(turn[:, 0], turn[:, 1])])


def replayed(size, difficulty, count):
    for index in range(count):
        r = rules(size, difficulty)
        paddles, marks, label, margin = contours(r, 8, index)
        chains = [[tuple(p) for p in contour if p[2] >= 0] for contour in paddles]
        yield r, margin, angles(r, margin), chains, marks, label, *(a[0] for a in draw(r, 8, index, 1))


@pytest.mark.parametrize("size, difficulty", [(32, "short"), (32, "easy"), (32, "hard"), (64, "easy"), (128, "hard")])
def test_discs_mark_the_label(size, difficulty):
    for r, _, _, chains, marks, label, _, drawn in replayed(size, difficulty, 30):
        starts, ends = ([chain[k][:2] for chain in chains[:2]] for k in (0, -1))
        first, second = (tuple(mark) for mark in marks)
        origin = starts.index(first)
        assert second == ends[origin if label else 1 - origin] and label == drawn
        assert [len(chain) for chain in chains[:2]] == [r.contour_length] * 2
        assert {len(chain) for chain in chains[2:]} <= {0, r.distractor_length}
        assert abs(math.dist(*starts) - r.seed_distance) < 1


def test_discs_are_where_the_picture_shows_them():
    """At 128 × 128 nothing but a disc is brighter than a line."""
    for *_, marks, _, image, _ in replayed(128, "hard", 30):
        found, n = ndimage.label(image > 235)
        if n == 2:
            centres = np.array(ndimage.center_of_mass(found > 0, found, [1, 2]))
            np.testing.assert_allclose(centres[np.lexsort(centres.T)], marks[np.lexsort(marks.T)], atol=0.6)
        else:
            assert n == 1 and math.dist(*marks) < 2 * rules(128, "hard").marker_radius + 2


@pytest.mark.parametrize("size, difficulty", [(32, "easy"), (32, "hard"), (64, "easy"), (128, "hard")])
def test_paddles_follow_on(size, difficulty):
    """Each paddle starts a gap after the last, turns by less than a right angle, and keeps to the picture."""
    for r, margin, angle, chains, *_ in replayed(size, difficulty, 20):
        for chain in filter(None, chains):
            y, x, d = chain[0]
            step = r.paddle_length * np.array([math.sin(angle[d]), math.cos(angle[d])])
            tip = np.array([y, x]) + step
            for y, x, d in chain[1:]:
                way = np.array([math.sin(angle[d]), math.cos(angle[d])])
                gap = np.linalg.norm(np.array([y, x]) - r.paddle_length * way - tip)
                assert gap < 2 * margin + 2.5  # each of up to three roundings moves it by up to a pixel
                assert min(y, x) >= 0 and max(y, x) < r.size
                turned = abs((angle[d] - math.atan2(*step) + math.pi) % (2 * math.pi) - math.pi)
                assert turned * r.continuity < math.pi / 2 + 1e-6
                tip, step = np.array([y, x]), way


@pytest.mark.parametrize("size, difficulty", [(32, "easy"), (32, "hard"), (64, "easy"), (128, "hard")])
def test_paddles_do_not_cross(size, difficulty):
    """Replays the claiming of ground: a paddle's is taken once the next of its contour lies, as in the original."""
    for r, margin, angle, chains, *_ in replayed(size, difficulty, 8):
        mask = np.ones((size, size))
        mask[r.padding : size - r.padding, r.padding : size - r.padding] = 0

        def ground(y, x, d, r=r, margin=margin, angle=angle):
            return put(r.size, blown_up(r, margin, angle[d] + (0 if d < DEGREES else math.pi))[1], y, x)

        for group in (chains[:2], *([chain] for chain in chains[2:] if chain)):
            for k in range(len(group[0])):
                for chain in group:
                    if k > 0:
                        assert (mask + ground(*chain[k])).max() < 1.8 + 1e-6
                        mask = np.maximum(mask, ground(*chain[k - 1]))
            mask = np.maximum(mask, ground(*group[-1][-1]))


@pytest.mark.parametrize("size, difficulty", [(32, "easy"), (32, "hard"), (64, "easy"), (128, "hard"), (256, "easy")])
def test_pictures_show_the_contours(size, difficulty):
    """Painted again, whole lines and discs at a time: the same picture but for grey levels that lie between two."""
    for r, margin, angle, chains, marks, _, image, _ in replayed(size, difficulty, 4):
        again = np.zeros((size, size))
        for n, chain in enumerate(chains):
            for y, x, d in chain:
                line = blown_up(r, margin, angle[d] + (0 if d < DEGREES else math.pi))[0]
                again = np.maximum(again, put(size, line, y, x) * r.snake_contrast * (r.paddle_contrast, 1)[n > 1])
        for y, x in marks * r.aa_scale:
            i, j = np.ogrid[: size * r.aa_scale, : size * r.aa_scale]
            again = np.maximum(again, shrunk(np.hypot(i - y, j - x) <= r.marker_radius * r.aa_scale, size) / 255)
        np.testing.assert_allclose(image, again / again.max() * 255, atol=0.5 + 1e-4)


# --- against the original's pictures ---


def discs_apart(images):
    """Pixels between the two brightest 3 × 3 squares that do not overlap: float64 [B]."""
    apart = []
    for image in images.astype(float):
        solid = ndimage.minimum_filter(image, 3) + 1e-3 * ndimage.uniform_filter(image, 5)
        first = np.unravel_index(solid.argmax(), solid.shape)
        solid[max(0, first[0] - 2) : first[0] + 3, max(0, first[1] - 2) : first[1] + 3] = 0
        apart.append(math.dist(first, np.unravel_index(solid.argmax(), solid.shape)))
    return np.array(apart)


def summary(images):
    """Numbers that describe a picture without looking at where things are going: float64 [B, features]."""
    x = images.astype(float)
    size = x.shape[1]
    lit = images > 60
    pieces = np.array([ndimage.label(one, np.ones((3, 3)))[1] for one in lit])
    grey = np.stack([np.histogram(one, [0, 1, 2, 4, 8, 30, 60, 90, 125, 150, 175, 190, 192, 220, 255, 256])[0]
                     for one in images])  # fmt: skip
    corners = [lit[:, i : size - 1 + i, j : size - 1 + j] * 2 ** (2 * i + j) for i in (0, 1) for j in (0, 1)]
    patches = np.stack([np.bincount(code.ravel(), minlength=16) for code in sum(corners)])
    shifts = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0))
    products = [(x * np.roll(x, shift, (1, 2))).mean((1, 2)) for shift in shifts]
    edges = np.concatenate([x[:, (1, 2, 3, -4, -3, -2)].mean(2), x[:, :, (1, 2, 3, -4, -3, -2)].mean(1)], 1)
    blocks = x.reshape(len(x), 4, size // 4, 4, size // 4).mean((2, 4)).reshape(len(x), 16)
    return np.column_stack([pieces, discs_apart(images), grey, patches, *products, edges, blocks])


def auc(scores, positive):
    ranks = stats.rankdata(scores)
    n = positive.sum()
    return (ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def cross_validated(train, inputs, positive, folds):
    """The mean AUC over folds of train(inputs, positive) → scores(inputs), each fold scored by the others' model."""
    fold = np.random.default_rng(0).permutation(len(inputs)) % folds
    areas = []
    for k in range(folds):
        scores = train(inputs[fold != k], positive[fold != k])
        areas.append(auc(scores(inputs[fold == k]), positive[fold == k]))
    return float(np.mean(areas))


def logistic(x, positive):
    """Logistic regression by Newton's method, with a ridge, on standardised features."""
    mean, spread = x.mean(0), x.std(0) + 1e-9

    def design(x):
        return np.column_stack([np.ones(len(x)), (x - mean) / spread])

    z, weights = design(x), np.zeros(x.shape[1] + 1)
    for _ in range(8):
        p = 1 / (1 + np.exp(-z @ weights))
        slope = z.T @ (p - positive) + 10 * weights
        weights -= np.linalg.solve((z.T * (p * (1 - p))) @ z + 10 * np.eye(len(weights)), slope)
    return lambda x: design(x) @ weights


class Convolutions(nnx.Module):
    """Three convolutions with stride 2, each followed by ReLU, and a linear layer over all that is left."""

    def __init__(self, rngs):
        widths = (1, 16, 16, 32)
        self.layers = nnx.List(nnx.Conv(a, b, (4, 4), strides=2, rngs=rngs) for a, b in pairwise(widths))
        self.head = nnx.Linear(widths[-1] * 16, 1, rngs=rngs)

    def __call__(self, images):  # [B, 32, 32] in 0 … 255
        x = images[..., None].astype(jnp.float32) / 128 - 0.2
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x.reshape(len(x), -1))[:, 0]


def convolutional(images, positive, epochs=8, batch=64):
    graph, params = nnx.split(Convolutions(nnx.Rngs(0)))
    optimizer = optax.adamw(3e-3, weight_decay=1e-2)

    def loss(params, x, y):
        return optax.sigmoid_binary_cross_entropy(nnx.merge(graph, params)(x), y).mean()

    @jax.jit
    def step(params, state, x, y):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of its integer count of steps
            updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(epochs):
        for rows in rng.permutation(len(images))[: len(images) // batch * batch].reshape(-1, batch):
            params, state = step(params, state, images[rows], positive[rows].astype(np.float32))
    return lambda images: np.asarray(nnx.merge(graph, params)(jnp.asarray(images)))


def told_apart(ours, theirs):
    """How well two classifiers tell two sets of pictures apart: AUC of the logistic and of the convolutional one."""
    images = np.concatenate([ours, theirs])
    positive = np.arange(len(images)) < len(ours)
    return (cross_validated(logistic, summary(images), positive, 5),
            cross_validated(convolutional, images, positive, 2))  # fmt: skip


@pytest.mark.slow
def test_hard32_cannot_be_told_from_the_original():
    """With 1,200 against 2,400 pictures an AUC's standard error is 0.01."""
    areas = told_apart(draw(rules(32, "hard"), 2024, 0, 2400)[0], reference()["hard32_images"])
    assert all(0.45 < area < 0.55 for area in areas), areas


@pytest.mark.slow
def test_the_classifiers_can_tell_pictures_apart():
    """The drawings lean to the upper left, a little: mirrored ones are found out, so the other test means something."""
    images = draw(rules(32, "hard"), 2025, 0, 2400)[0]
    areas = told_apart(images[:1200, :, ::-1], images[1200:])
    assert all(area > 0.6 for area in areas), areas


@pytest.mark.parametrize("size, difficulty, count", [(32, "hard", 4000), (32, "easy", 4000), (128, "hard", 400)])
def test_statistics_match_the_original(size, difficulty, count):
    data, name = reference(), f"{difficulty}{size}"
    theirs, their_labels = data[f"{name}_images"], data[f"{name}_labels"]
    ours, our_labels = draw(rules(size, difficulty), 2026, 0, count)

    def apart(a, b):
        """Differences of means over axis 0, in standard errors."""
        return (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b) + 1e-12)

    assert abs(apart(our_labels.astype(float), their_labels.astype(float))) < 4
    for measure in (discs_apart, lambda x: (x > 60).sum((1, 2)), lambda x: (x > 8).sum((1, 2))):
        a, b = measure(ours).astype(float), measure(theirs).astype(float)
        assert abs(apart(a, b)) < 4 and stats.ks_2samp(a, b).pvalue > 1e-3
    a, b = (np.stack([np.bincount(x.ravel(), minlength=256) for x in images]) for images in (ours, theirs))
    often = (b > 0).mean(0) > 0.05  # levels common enough for their mean count to be nearly normal
    assert np.abs(apart(a, b)[often]).max() < 4.5
    assert b[:, a.sum(0) == 0].sum() < 1e-4 * theirs.size  # no level of theirs that ours have never


def test_where_numba_finds_no_folder_it_compiles_without_keeping():
    """A function without a file stands for one whose folders cannot be written: Numba finds no place for either."""
    names = {}
    exec("def double(x):\n    return 2 * x", names)
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(names["double"])
    assert compiled(names["double"])(21) == 42


def test_every_compiled_function_of_the_package_goes_that_way():
    folder = ROOT / "tasks"
    users = {file.name for file in folder.rglob("*.py") if "njit" in file.read_text()}
    assert users == {"compiled.py"}
