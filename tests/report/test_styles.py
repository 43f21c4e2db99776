"""How models look: told apart in colour and in grey, and the same whatever else is drawn."""

import itertools

import numpy as np
import pytest

from lra.report.styles import COLOURS, DARK_COLOURS, FAMILY_NAMES, OWN, assign_styles, family_of
from models import FAMILIES, MIXERS


def test_a_family_has_one_colour_and_its_models_differ_in_marker_and_dashes():
    styles = assign_styles([])
    assert set(styles) == set(MIXERS)
    for number, (_, mixers) in enumerate(FAMILIES.values()):
        assert {styles[name].colour for name in mixers} == {number}
        assert len({(styles[name].shape, styles[name].dash) for name in mixers}) == len(mixers)
    assert COLOURS[styles["transformer"].colour] == "#000000" and styles["transformer"].dash == 0


def test_up_to_36_models_of_a_family_can_be_told_apart():
    names = [f"lab.module:Model{i:02}" for i in range(36)]
    assert len({assign_styles(names)[name] for name in names}) == 36


def test_a_model_with_options_is_of_its_mixer_s_family_and_others_are_your_own():
    styles = assign_styles(["performer:features=64", "performer", "lab.module:Mine"])
    assert styles["performer:features=64"].colour == styles["performer"].colour == 2
    assert styles["performer:features=64"] != styles["performer"]
    assert FAMILY_NAMES[styles["lab.module:Mine"].colour] == OWN == FAMILY_NAMES[family_of("nothing")]


def test_a_look_does_not_depend_on_what_else_is_shown():
    assert assign_styles(["s4d", "zebra:Z"])["s4d"] == assign_styles([])["s4d"]
    assert assign_styles(["b:B", "a:A"]) == assign_styles(["a:A", "b:B"])


MACHADO = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
    "all three": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
"""What is seen of linear RGB without one kind of cone (Machado et al. 2009, doi:10.1109/TVCG.2009.113)."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""From linear sRGB."""


def linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x, y, z = np.cbrt(np.clip(XYZ @ rgb, 1e-6, None) / XYZ.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colours, ground", [(COLOURS, "#ffffff"), (DARK_COLOURS, "#1b1e24")])
@pytest.mark.parametrize("sight", MACHADO)
def test_families_differ_for_every_kind_of_sight_from_each_other_and_from_their_ground(colours, ground, sight):
    assert len(colours) == len(FAMILY_NAMES)
    seen = {colour: lab(np.array(MACHADO[sight]) @ linear(colour)) for colour in (*colours, ground)}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)
