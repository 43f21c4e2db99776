"""Ordered pairs: what windows give away, by exact enumeration, and that the generator draws what it says."""

import itertools
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats

from tasks import TASKS
from tasks.ordered_pair import DISTANCES, RING, draw_examples
from tasks.task import DataError
from tests.helpers import archives


def windows(first, second, a, b, size):
    """The marked symbols of each window with their place in it: fillers tell nothing, and the order is not kept."""
    found = defaultdict(list)
    for place, symbol in ((first, a), (second, b)):
        found[place // size].append((place % size, symbol))
    return tuple(sorted(map(tuple, found.values())))


def best_accuracy(length, distance, ring, size):
    """Of whoever knows the distribution of the bag of windows under each class."""
    counts = Counter()
    places = range(length - 2 * distance)
    for first, apart, a, label in itertools.product(places, range(distance, 2 * distance), range(ring), (0, 1)):
        counts[windows(first, first + apart, a, (a + 2 * label - 1) % ring, size), label] += 1
    bags = {bag for bag, _ in counts}
    return sum(max(counts[bag, 0], counts[bag, 1]) for bag in bags) / counts.total()


@pytest.mark.parametrize(
    ("length", "distance", "ring"),
    [(8, 1, 3), (16, 4, 3), (32, 8, 3), (8, 1, 8), (16, 4, 8), (32, 8, 5), (48, 4, 3)],
)
def test_windows_up_to_the_distance_give_nothing_away_and_of_twice_the_distance_all(length, distance, ring):
    for size in (2**e for e in range(length.bit_length())):
        accuracy = best_accuracy(length, distance, ring, size)
        if size <= distance:
            assert accuracy == 0.5
        elif size >= 2 * distance:
            assert accuracy == 1.0
        else:
            assert 0.5 < accuracy < 1


@pytest.mark.parametrize(("right", "possible"), [(5, True), (6, False)])
def test_sums_of_what_single_tokens_say_are_wrong_on_one_in_six(right, possible):
    """g(place, symbol) for two places: a linear program for each choice of the pairs that the sum's sign gets right."""
    pairs = []
    for a, label in itertools.product(range(RING), (0, 1)):
        row = np.zeros(2 * RING)
        row[a] = row[RING + (a + 2 * label - 1) % RING] = 1 - 2 * label
        pairs.append(row)
    found = [
        optimize.linprog(np.zeros(2 * RING), np.array(some), -np.ones(right), bounds=(None, None)).status == 0
        for some in itertools.combinations(pairs, right)
    ]
    assert any(found) is possible


def drawn(count=40_000, length=64, distance=8, seed=0, **changes):
    values, labels = draw_examples(np.random.default_rng(seed), count, length, distance, **changes)
    marked = values > 0
    assert (marked.sum(1) == 2).all() and values.max() == RING and set(labels) == {0, 1}
    rows, places = np.nonzero(marked)
    first, second = places.reshape(-1, 2).T
    symbols = (values[rows, places] - 1).reshape(-1, 2)
    return values, labels, first, second - first, symbols


def test_the_class_is_the_order():
    _, labels, _, _, symbols = drawn()
    np.testing.assert_array_equal(
        (symbols[:, 1].astype(int) - symbols[:, 0]) % RING, np.where(labels == 1, 1, RING - 1)
    )


def test_all_that_is_drawn_is_uniform_and_independent():
    _, labels, first, apart, symbols = drawn()
    for array, size, start in ((first, 48, 0), (apart, 8, 8), (symbols[:, 0], RING, 0), (labels, 2, 0)):
        counts = np.bincount(array - start, minlength=size)
        assert len(counts) == size and stats.chisquare(counts).pvalue > 1e-3
    for a, b in itertools.combinations((first, apart, symbols[:, 0], labels), 2):
        table = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(table, (a, b), 1)
        table = table[table.any(1)][:, table.any(0)]
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_half_of_the_near_pairs_are_neighbours_and_the_others_of_all_scales():
    _, labels, first, apart, symbols = drawn(near=True)
    assert apart.min() == 1 and apart.max() == 15
    octaves = np.log2(apart).astype(int)
    expected = len(octaves) * np.array([5, 1, 1, 1]) / 8
    assert stats.chisquare(np.bincount(octaves, minlength=4), expected).pvalue > 1e-3
    for e in range(4):
        counts = np.bincount(apart[octaves == e] - 2**e, minlength=2**e)
        assert len(counts) == 2**e and (e == 0 or stats.chisquare(counts).pvalue > 1e-3)
    for other in (first, symbols[:, 0], labels):
        table = np.zeros((4, other.max() + 1))
        np.add.at(table, (octaves, other), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("distance", DISTANCES)
def test_each_distance_is_a_task_that_says_so(distance):
    task = TASKS[f"ordered_pair_{distance}"]
    assert task.distance == task.rules.distance == distance and task.length >= 4 * distance
    arrays = task.build(
        archives.request(task, "generate", rules=replace(task.rules, train=9000, validation=50, test=900))
    )
    assert {name: len(split.labels) for name, split in arrays.splits.items()} == {
        "train": 9000, "validation": 50, "test": 900,
    }  # fmt: skip
    assert (arrays.lengths == 1024).all() and arrays.values.shape == (9950, 1024)
    marked = arrays.values > 0
    assert (marked.sum(1) == 2).all()
    apart = np.diff(np.nonzero(marked)[1].reshape(-1, 2), axis=1)
    training, others = apart[:9000], apart[9000:]
    assert training.min() == 1 and training.max() == others.max() == 2 * distance - 1 and others.min() == distance


def test_data_depend_on_the_seed_alone():
    task = TASKS["ordered_pair_4"]
    rules = replace(task.rules, train=6000, validation=100, test=100)
    a, b, c = (task.build(archives.request(task, "generate", 64, seed, rules=rules)).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    more = task.build(archives.request(task, "generate", 64, rules=replace(rules, test=300))).values
    np.testing.assert_array_equal(more[: len(a)], a)


@pytest.mark.parametrize(
    ("settings", "length", "message"),
    [
        ({"distance": 3}, 64, "must be a power of two, not 3"),
        ({"distance": 32}, 64, "need a length of at least 128 tokens"),
        ({"distance": 16}, 72, "a multiple of 16, not 72"),
        ({"test": 0}, 64, "at least one example"),
    ],
)
def test_settings_under_which_windows_would_tell_are_refused(settings, length, message):
    task = TASKS["ordered_pair_4"]
    with pytest.raises(DataError, match=message):
        task.build(archives.request(task, "generate", length, rules=replace(task.rules, **settings)))
