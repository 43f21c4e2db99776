"""The mini arena's tasks: what is cut, paired, shrunk and drawn, and that local cues do not give Pathfinder away."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tasks import TASKS
from tasks.image import IMAGE, ImageConfig
from tasks.listops import evaluate
from tasks.mini.image import ImageMiniConfig, shrink
from tasks.mini.pathfinder import draw_block, walk
from tasks.mini.retrieval import RetrievalMiniConfig, most_similar
from tasks.mini.text import TextMiniConfig
from tasks.pathfinder.task import PathfinderConfig
from tasks.task import DataError
from tasks.text import read_reviews
from tests.helpers import archives, real_data

NAMES = ("listops_mini", "text_mini", "retrieval_mini", "image_mini", "pathfinder_mini")


def build(name, source, rules, **settings):
    task = TASKS[name]
    return task.build(archives.request(task, source, task.length, rules=rules, **settings))


def documents(arrays, split):
    """The texts of each example of a split."""
    rows = arrays.splits[split].index
    return [[bytes(arrays.values[r, : arrays.lengths[r]]) for r in example] for example in rows]


def reviews_of(folder, split):
    return read_reviews(archives.request(TASKS["text"], folder, 4000)).texts[split]


def test_each_stands_for_a_task_of_the_benchmark():
    assert [TASKS[name].stands_for for name in NAMES] == ["listops", "text", "retrieval", "image", "pathfinder"]
    assert all(TASKS[name].pair == TASKS[TASKS[name].stands_for].pair for name in NAMES)
    assert all(TASKS[name].classes == TASKS[TASKS[name].stands_for].classes for name in NAMES)


def test_listops_is_nested_and_right():
    task = TASKS["listops_mini"]
    arrays = build("listops_mini", "generate", replace(task.rules, train=2000, validation=100, test=400))
    assert arrays.lengths.min() == 25 and 120 < arrays.lengths.max() <= 127 and 45 < arrays.lengths.mean() < 65
    deepest = 0
    for row, label in zip(arrays.values[:300], arrays.splits["train"].labels[:300], strict=True):
        expression = row[: arrays.lengths[np.flatnonzero((arrays.values == row).all(1))[0]]]
        assert evaluate(expression) == label
        steps = np.where(expression >= 14, -1, np.where(expression >= 10, 1, 0))
        deepest = max(deepest, int(np.cumsum(steps).max()))
    assert deepest == 7  # operators; the digits inside are at depth 8
    assert arrays.majority() < 0.2


def test_text_is_the_end_of_each_review(tmp_path):
    folder = archives.imdb(tmp_path)
    for split in ("train", "test"):
        (folder / split / "pos" / "long_8.txt").write_bytes(b"begin" + b"x" * 600 + b"end")
    arrays = build("text_mini", folder, TextMiniConfig(validation=2, test=4))
    sizes = {name: len(split.labels) for name, split in arrays.splits.items()}
    assert sizes["validation"] == 2 and sizes["test"] == 4 and sizes["train"] + 2 == len(reviews_of(folder, "train"))
    ends = {text[-512:] for text in reviews_of(folder, "train")}
    ours = {text for part in ("train", "validation") for (text,) in documents(arrays, part)}
    assert ours == ends and any(text.endswith(b"xend") and len(text) == 512 for text in ours)
    assert {text for (text,) in documents(arrays, "test")} <= {text[-512:] for text in reviews_of(folder, "test")}


def test_retrieval_quotes_the_first_text_or_another(tmp_path):
    folder = archives.imdb(tmp_path)
    for file in folder.rglob("*.txt"):
        file.write_bytes(file.read_bytes()[:127])
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(150):
            text = bytes(rng.integers(97, 123, int(rng.integers(128, 400))).astype(np.uint8))
            (folder / split / "pos" / f"{split}{number}_9.txt").write_bytes(text)
            if split == "train" and number < 2:  # a copy, and one that is in both splits
                (folder / split / "pos" / f"copy{number}_9.txt").write_bytes(text)
                (folder / "test" / "pos" / f"both{number}_9.txt").write_bytes(text)
    rules = RetrievalMiniConfig(train=200, validation=70, test=80, quote=24)
    with pytest.raises(DataError, match="100 of 148 long reviews cannot be held out: take at least 66 and leave 66"):
        build("retrieval_mini", folder, replace(rules, validation=100))
    with pytest.raises(DataError, match="quote must be at least 1 and less than the length 128"):
        build("retrieval_mini", folder, replace(rules, quote=128))
    arrays = build("retrieval_mini", folder, rules)
    used: dict[str, set[bytes]] = {}
    places: list[tuple[int, int]] = []
    for split, count in (("train", 200), ("validation", 70), ("test", 80)):
        labels = arrays.splits[split].labels
        assert len(labels) == count and labels.sum() == count // 2
        whole = set(reviews_of(folder, "test" if split == "test" else "train"))
        used[split] = set()
        for (one, two), label in zip(documents(arrays, split), labels, strict=True):
            assert len(one) == len(two) == 128
            (home,) = (text for text in whole if one in text)
            place, rest, quoted = next(
                (place, rest, quoted)
                for place in range(105)
                for rest in whole
                if two[:place] + two[place + 24 :] in rest
                for quoted in whole
                if quoted != rest and two[place : place + 24] in quoted
            )
            assert (two[place : place + 24] in one) == (quoted == home) == bool(label) and rest not in (home, quoted)
            places += [(place, one.index(two[place : place + 24]))] if label else []
            used[split] |= {home, rest, quoted}
    assert not used["train"] & used["validation"] and not used["train"] & used["test"]
    for where in np.transpose(places):  # of 175 places on 0 … 104
        assert np.bincount(where // 35, minlength=3).min() > 35
    assert abs(np.corrcoef(np.transpose(places))[0, 1]) < 0.25
    assert not np.array_equal(build("retrieval_mini", folder, rules, seed=1).values, arrays.values)


def test_what_is_quoted_instead_has_the_most_similar_counts_of_bytes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        passages = [bytes(rng.integers(97, 105, 30).astype(np.uint8)) for _ in range(9)]
        cosines = [similarity(passages[0], passage, 1) for passage in passages[1:]]
        assert cosines[most_similar(passages)] == pytest.approx(max(cosines), abs=1e-12)


def test_retrieval_needs_both_texts_and_the_order_of_their_bytes():
    """The figures of the data card: thresholds of a similarity, and a classifier of each text alone."""
    rules = RetrievalMiniConfig(train=8_000, validation=1_000, test=2_000)
    arrays = build("retrieval_mini", real_data.folder(), rules)
    labels, pairs = arrays.splits["test"].labels, documents(arrays, "test")
    single, double = (best_threshold([similarity(*pair, size) for pair in pairs], labels) for size in (1, 2))
    assert 0.7 < single < 0.8 and double > 0.98
    learnt, tested = arrays.splits["train"], arrays.splits["test"]
    counts = np.sqrt([np.bincount(row, minlength=256) for row in arrays.values])
    for text in (0, 1):
        rows = np.concatenate([learnt.index[:, text], tested.index[:, text]])
        assert ridge(counts[rows], np.concatenate([learnt.labels, labels]), len(learnt.labels)) < 0.54


def similarity(one, two, size):
    """The cosine between the square roots of two texts' counts of `size` bytes in a row."""
    counts = [Counter(text[i : i + size] for i in range(len(text) - size + 1)) for text in (one, two)]
    shared = sum(np.sqrt(counts[0][key] * counts[1][key]) for key in counts[0] & counts[1])
    return shared / np.sqrt(counts[0].total() * counts[1].total())


def best_threshold(values, labels):
    """The accuracy of the best threshold: above it, class 1."""
    ordered = labels[np.argsort(-np.array(values))].astype(int)
    return np.max(np.cumsum(2 * ordered - 1)) / len(labels) + np.mean(labels == 0)


def test_image_is_the_benchmark_s_at_half_the_resolution(tmp_path):
    folder = archives.cifar(tmp_path)
    full = IMAGE.build(archives.request(IMAGE, folder, rules=ImageConfig()))
    rules = ImageMiniConfig(validation=10, test=20)
    small = build("image_mini", folder, rules)
    assert [len(split.labels) for split in small.splits.values()][1:] == [10, 20]
    squares = full.values.reshape(-1, 16, 2, 16, 2).astype(float).mean((2, 4))
    means = np.floor(squares + 0.5).reshape(-1, 256)
    for parts, split in ((("train", "validation"), "train"), (("test",), "test")):
        theirs = {
            (bytes(means[row].astype(np.uint8)), label)
            for part in parts
            for row, label in zip(full.splits[part].index[:, 0], full.splits[part].labels, strict=True)
        }
        chosen = small.splits[split]
        assert {(bytes(small.values[r]), y) for r, y in zip(chosen.index[:, 0], chosen.labels, strict=True)} <= theirs
    with pytest.raises(DataError, match="its length cannot be 100"):
        TASKS["image_mini"].build(archives.request(TASKS["image_mini"], folder, 100, rules=rules))


def test_shrinking_rounds_half_up():
    picture = np.zeros((1, 32, 32), np.uint8)
    picture[0, :2, :2] = [[1, 1], [0, 0]]
    picture[0, :2, 2:4] = [[255, 255], [255, 254]]
    assert shrink(picture.reshape(1, -1))[0, :2].tolist() == [1, 255]


def test_local_cues_do_not_give_pathfinder_away():
    """Ridge classifiers of the patches of 3×3 pixels, of the bright pixels' autocorrelation, and of both."""
    arrays = build("pathfinder_mini", "generate", PathfinderConfig(train=12_000, validation=1, test=4_000))
    pictures = arrays.values.reshape(-1, 16, 16).astype(np.float32) / 255
    labels = np.concatenate([split.labels for split in arrays.splits.values()])
    assert 0.47 < labels.mean() < 0.53
    padded = np.pad(pictures > 0.25, ((0, 0), (1, 1), (1, 1)))
    code = sum((padded[:, i : i + 16, j : j + 16] << (3 * i + j) for i in range(3) for j in range(3)), start=0)
    code = code + 512 * (pictures > 0.85)
    patches = np.stack([np.bincount(row, minlength=1024) for row in code.reshape(len(code), -1)])
    spectrum = np.abs(np.fft.rfft2(pictures > 0.85, s=(32, 32))) ** 2
    distances = np.fft.irfft2(spectrum).reshape(len(pictures), -1)
    accuracies = [ridge(features, labels, 12_000) for features in (patches, distances, np.c_[patches, distances])]
    assert max(accuracies) < 0.6 and accuracies[0] > 0.52


def test_every_drawing_can_be_told():
    """Disc to disc over grey pixels that touch or leave one pixel out, in each picture."""
    pictures, labels = draw_block(3, 0)
    assert set(np.unique(pictures)) == {0, 128, 255} and 0.47 < labels.mean() < 0.53
    touching = 0
    for picture, label in zip(pictures.reshape(-1, 16, 16), labels, strict=True):
        discs, count = ndimage.label(picture == 255)
        if count == 1:  # two that touch cannot be told apart here
            touching += 1
            continue
        first, second = (near(discs == number, 1) & (picture == 128) for number in (1, 2))
        assert count == 2 and first.any() and second.any()
        reached, before = first, None
        while before is None or not np.array_equal(reached, before):
            before, reached = reached, near(reached, 2) & (picture == 128)
        assert (reached & second).any() == bool(label)
    assert touching < 0.03 * len(labels)


def near(pixels, distance):
    """Pixels at most so far from given ones; a diagonal step counts as one."""
    return ndimage.binary_dilation(pixels, np.ones((3, 3)), distance)


def test_drawings_are_a_stream_of_their_seed():
    pictures, labels = draw_block(3, 1)
    again, same = draw_block(3, 1)
    assert np.array_equal(pictures, again) and np.array_equal(labels, same)
    assert not np.array_equal(pictures, draw_block(3, 2)[0]) and not np.array_equal(pictures, draw_block(4, 1)[0])
    assert len(np.unique(pictures, axis=0)) > 0.999 * len(pictures)


def test_curves_turn_as_they_should():
    """Walks without obstacles: straight on in 40 % of the steps, an eighth to either side in 30 % each."""
    starts = np.full((20_000, 2), 8)
    pixels, found = walk(np.random.default_rng(0), starts, 4, np.zeros((20_000, 0, 2), int))
    moves = np.diff(pixels, axis=1)
    assert found.all() and np.abs(moves).max() == 1
    heading = np.round(np.arctan2(moves[..., 0], moves[..., 1]) / (np.pi / 4)).astype(int)
    assert np.abs(np.bincount(heading[:, 0] % 8) / 20_000 - 1 / 8).max() < 0.01
    turns = (np.diff(heading, axis=1) % 8).ravel()
    shares = np.bincount(turns, minlength=8) / len(turns)
    assert np.abs(shares - [0.4, 0.3, 0, 0, 0, 0, 0, 0.3]).max() < 0.01


def ridge(features, labels, train):
    """Test accuracy of a linear classifier by least squares."""
    x = (features - features.mean(0)) / (features.std(0) + 1e-3)
    x = np.c_[x, np.ones(len(x))]
    sign = 2.0 * labels - 1
    gram = x[:train].T @ x[:train] / train + 0.01 * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[:train].T @ sign[:train] / train)
    return np.mean((x[train:] @ weights > 0) == (sign[train:] > 0))


@pytest.mark.parametrize("name", ["text_mini", "retrieval_mini", "image_mini"])
def test_real_sizes(name):
    arrays = build(name, real_data.folder(), TASKS[name].rules)
    counts = tuple(len(split.labels) for split in arrays.splits.values())
    assert counts == TASKS[name].counts
    assert all(np.ptp(np.bincount(split.labels)) == 0 for split in arrays.splits.values())
