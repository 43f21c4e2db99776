"""Sweeps: how they are written, which trials a budget draws, and which cells they make."""

import math
from fractions import Fraction

import pytest

from configs import PROTOCOLS
from configs.recipe import RecipeError
from lra.errors import UsageError
from lra.grid import expand, sweep
from lra.grid.cell import unique
from tests.scale.launcher import DEVICE, entry

RECIPE = PROTOCOLS["lra"].recipe("listops", "fnet")
RATE, DROPOUT = "optimizer.learning_rate=1e-4..1e-2:log", "encoder.dropout=0,0.1,0.2"


def trials(*words, budget=None):
    return sweep.parse(words, budget, ()).trials(RECIPE)


def numbers(found, place=0):
    return [float(settings[place].partition("=")[2]) for settings in found]


def radical_inverse(number, base):
    """Halton's: the digits of a number, mirrored behind the point."""
    value, scale = Fraction(0), Fraction(1, base)
    while number:
        value, number, scale = value + number % base * scale, number // base, scale / base
    return value


def test_lists_are_combined_in_the_order_of_names():
    found = trials("schedule.warmup=5,9", "encoder.dropout=0,0.1")
    assert found == [
        (f"encoder.dropout={rate}", f"schedule.warmup={steps}") for rate in ("0", "0.1") for steps in (5, 9)
    ]


def test_a_budget_draws_a_shifted_halton_sequence():
    drawn = trials(RATE, "optimizer.weight_decay=0..0.1", budget=20)
    rates, decays = numbers(drawn, 0), numbers(drawn, 1)
    places = [[math.log10(rate / 1e-4) / 2 for rate in rates], [decay / 0.1 for decay in decays]]
    for base, of_axis in zip((2, 3), places, strict=True):
        shifts = [(place - float(radical_inverse(number, base))) % 1 for number, place in enumerate(of_axis)]
        assert shifts == pytest.approx([shifts[0]] * 20, abs=0.006)  # settings have three digits
    assert places[0][0] != pytest.approx(places[1][0], abs=0.01)  # each axis has a shift of its own
    # Every eighth of the range has its share, which independent draws leave to chance.
    assert sorted(int(8 * place) for place in places[0][:8]) == list(range(8))


def test_a_larger_budget_begins_with_the_smaller_and_the_flags_order_makes_no_difference():
    assert trials(RATE, DROPOUT, budget=16)[:8] == trials(DROPOUT, RATE, budget=8)
    assert len(set(trials(RATE, DROPOUT, budget=64))) == 64


def test_ranges_of_whole_numbers_give_each_number_its_share():
    drawn = [int(number) for number in numbers(trials("schedule.warmup=1..4", RATE, budget=400), 1)]
    assert [drawn.count(number) for number in (1, 2, 3, 4)] == pytest.approx([100] * 4, abs=3)
    assert set(numbers(trials("train.batch=8..128:log", budget=20))) <= set(range(8, 129))
    assert all(float(f"{rate:.3g}") == rate <= 1e-3 for rate in numbers(trials("encoder.dropout=0..1e-3", budget=20)))


@pytest.mark.parametrize(
    ("words", "budget", "said"),
    [
        ([], 8, "--trials needs --sweep"),
        ([RATE], None, "is a range, which needs a number of trials"),
        ([RATE], 0, "must be 1 to 1,000"),
        (["optimizer.learning_rate"], 2, "not 'optimizer.learning_rate'"),
        (["optimizer.learning_rate=1e-3,,1e-4"], None, "an empty value, or one twice"),
        (["encoder.dropout=0.1,0.1"], None, "an empty value, or one twice"),
        (["encoder.dropout=0.2..0.1"], 2, "to a larger one"),
        (["encoder.dropout=0..nan"], 2, "to a larger one"),
        (["encoder.dropout=0..x"], 2, "two numbers"),
        (["encoder.dropout=0..0.1..0.2"], 2, "two numbers"),
        (["encoder.dropout=0..0.1:lin"], 2, "':log' or nothing"),
        (["encoder.dropout=0..0.1:log"], 2, "begins above 0"),
        ([RATE, "optimizer.learning_rate=1,2"], 2, "twice"),
        (["data.window=16,32"], None, "changes what is scored"),
        (["train.test_examples=16,32"], None, "changes what is scored"),
        (["train.steps=20,30"], None, "--set and --sweep both have train.steps"),
    ],
)
def test_a_wrong_sweep_is_told(words, budget, said):
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        sweep.parse(words, budget, ("train.steps=10",))


@pytest.mark.parametrize(
    ("word", "budget", "error", "said"),
    [
        ("optimizer.learning_rat=1,2", None, RecipeError, "did you mean 'optimizer.learning_rate'"),
        ("encoder.pool=1..2", 2, RecipeError, "takes no numbers"),
        ("train.batch=1.5..2", 2, RecipeError, "whole numbers"),
        ("encoder.dropout=0.5,1.5", None, RecipeError, "less than 1"),
        ("encoder.heads=3", None, RecipeError, "multiple of encoder.heads"),
        ("encoder.dropout=0,0.1", 3, UsageError, "2 different settings"),
        (f"train.batch={','.join(map(str, range(1, 1002)))}", None, UsageError, "1,001 combinations"),
    ],
)
def test_settings_that_no_trial_could_have_are_refused_before_anything_runs(word, budget, error, said):
    with pytest.raises(error, match=said):
        trials(word, budget=budget)


def tuned_cells(folder, *words, budget=None, settings=(), seeds=(3, 4)):
    plans = expand.make_plans(
        PROTOCOLS["lra"], ["listops"], ["fnet"], [], seeds, settings, sweep.parse(words, budget, settings)
    )
    found = folder if folder.name.startswith("listops") else entry(folder)
    return [expand.make_cell(plan, found, DEVICE) for plan in expand.group_seeds(plans, "on", DEVICE)]


def test_a_tuned_cell_has_trials_on_the_first_seed_whose_keys_are_those_of_plain_cells(tmp_path):
    first, *rest = tuned_cells(tmp_path, "optimizer.learning_rate=3e-4,1e-3", seeds=(3, 4, 5))
    assert first.plan.seeds == (3,) and [cell.plan.seeds for cell in rest] == [(4, 5)]
    assert unique([*first.trials, *rest[0].trials]) == list(first.trials)
    (plain,) = expand.make_plans(PROTOCOLS["lra"], ["listops"], ["fnet"], [], [3], ["optimizer.learning_rate=1e-3"])
    plain = expand.make_cell(plain, first.entry, DEVICE)
    assert first.trials[1].key == plain.key and first.trials[1].plan.overrides == plain.plan.overrides
    assert first.trials[1].plan.recipe == plain.plan.recipe


def test_the_key_of_a_tuned_cell_holds_its_trials_and_no_choice(tmp_path):
    (one,) = tuned_cells(tmp_path, "encoder.dropout=0,0.1", seeds=(3,))
    keys = {
        cell.key
        for words, budget, seeds in [
            (["encoder.dropout=0,0.2"], None, (3,)), (["encoder.dropout=0,0.1,0.2"], None, (3,)),
            (["encoder.dropout=0..0.1"], 2, (3,)), (["encoder.dropout=0,0.1"], None, (4,)),
        ]
        for cell in tuned_cells(one.entry, *words, budget=budget, seeds=seeds)
    }  # fmt: skip
    assert len(keys | {one.key}) == 5
    other_first_seed = tuned_cells(one.entry, "encoder.dropout=0,0.1", seeds=(4, 3))[1]
    assert other_first_seed.plan.seeds == (3,) and other_first_seed.key != one.key
