"""Models without positions must tell a text from its reverse: none can whose mixer is its own mirror image."""

import numpy as np
import pytest

from configs.mini import MINI, MIRRORED
from models import MIXERS
from tests.helpers.mixing import build_encoder, error, run


def positions(name):
    return MINI.recipe("text_mini", name).encoder.positions


def difference(name, **shape):
    """Between the logits of texts and of their reverses, relative to their size."""
    tokens = np.random.default_rng(0).integers(1, 11, (3, 1, 16))
    encoder = build_encoder(name, 16, pool="mean", **shape)
    there, back = (run(encoder, texts, texts > 0) for texts in (tokens, tokens[..., ::-1]))
    return error(there, back)


@pytest.mark.parametrize("name", [name for name in MIXERS if positions(name) == "none"])
def test_without_positions_a_text_is_not_its_reverse(name):
    assert difference(name, positions="none") > 1e-3


@pytest.mark.parametrize("name", MIRRORED)
def test_what_is_its_own_mirror_image_gets_positions(name):
    assert difference(name, positions="none") < 1e-5
    assert positions(name) == "learned" and difference(name, positions="learned") > 1e-3
