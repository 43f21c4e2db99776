"""Previews and descriptions of prepared data."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tasks import TASKS
from tasks.io.cache import open_entry, prepare
from tasks.io.preview import details, preview
from tasks.pathfinder.task import PathfinderConfig
from tasks.task import DataError
from tests.helpers import archives
from tests.helpers.noise import NOISE, prepared


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    for make in (archives.imdb, archives.cifar, archives.papers):
        make(place / "data")
    # What a page has to bear: control characters, a formula's signs, a byte that no font has.
    odd = place / "data/aclImdb/train/pos/odd_1.txt"
    odd.write_bytes(b"$x_1$ \\frac{ \x00\x1b[31m \xf0\x9f\x8e\xac {%s} &lt; " * 3 + b"word" * 900)
    made = {
        name: prepare(TASKS[name], 1000 if name == "text" else TASKS[name].length, 0, str(place / "data"),
                      cache=place, allow_unverified=True)
        for name in ("text", "image", "retrieval")
    }  # fmt: skip
    short = dataclasses.replace(TASKS["listops_short"].rules, train=60, validation=10, test=10)
    made["listops_short"] = prepare(TASKS["listops_short"], 64, 0, "generate", rules=short, cache=place)
    for name in ("pathfinder", "pathx_easy"):
        rules = PathfinderConfig(train=40, validation=5, test=5)
        made[name] = prepare(TASKS[name], TASKS[name].length, 0, "generate", rules=rules, cache=place)
    return made


def rows(entry):
    first, *others = details(entry).split("\n")
    return first, {line[2:20].strip(): line[20:] for line in others}


def test_details_give_counts_lengths_classes_source_and_fingerprint(entries):
    for name, entry in entries.items():
        data = open_entry(entry)
        first, told = rows(entry)
        assert first == f"{name}: {TASKS[name].summary}"
        assert told["fingerprint"] == data.fingerprint
        assert told["source"] == data.source
        for split in data.splits:
            assert told[split].startswith(f"{len(data.splits[split].labels):,} examples")
        assert told["note"] in data.notes if data.notes else "note" not in told


def test_the_figures_are_those_of_the_arrays(entries):
    data = open_entry(entries["text"])
    _, told = rows(entries["text"])
    train = data.lengths[data.splits["train"].index[:, 0]]
    assert told["train length"].startswith(f"{train.min():,} to 1,000, median {int(np.median(train)):,}")
    assert told["train length"].endswith(f"{(train == 1000).mean():.1%} fill it")
    assert told["test"] == "80 examples; 2 classes of 50.0% each"
    share = data.splits["train"].labels.mean()
    assert told["train"].endswith(f"negative {1 - share:.1%}, positive {share:.1%}")
    assert rows(entries["image"])[1]["test length"] == "1,024 each"
    assert "30; token ids 1 to 256" in rows(entries["retrieval"])[1]["documents"]


def test_a_page_is_drawn_for_each(entries, tmp_path):
    pages = preview(entries.values(), tmp_path / "new" / "folder")
    assert [page.name for page in pages] == [f"{entry.name}.png" for entry in entries.values()]
    for page in pages:
        with Image.open(page) as picture:
            assert picture.size == (1320, 935)
            ink = np.asarray(picture.convert("L")) < 200
        # Something in each part of the page: heading, samples, both diagrams.
        parts = [ink[:80], ink[110:680, :660], ink[720:900, :640], ink[720:900, 700:]]
        assert all(part.mean() > 0.002 for part in parts)


def test_pictures_are_shown_as_they_are(entries, tmp_path):
    """The page has each shown drawing's brightest and darkest pixels where the drawing has them."""
    (page,) = preview([entries["pathfinder"]], tmp_path)
    data = open_entry(entries["pathfinder"])
    with Image.open(page) as picture:
        page_levels = np.asarray(picture.convert("L"), float)
    train = data.splits["train"]
    first = data.values[train.index[np.flatnonzero(train.labels == 0)[0], 0]].reshape(32, 32).astype(float)
    dark = page_levels[100:260, 35:200] < 10
    top, left = np.argwhere(dark)[0] + (100, 35)
    scale = 139.5 / 32  # pixels of the page a pixel of the drawing
    places = (np.arange(32) + 0.5) * scale
    shown = page_levels[np.ix_((top + places).astype(int), (left + places).astype(int))]
    assert np.corrcoef(shown.ravel(), first.ravel())[0, 1] > 0.9


def test_classes_without_names_are_numbered(tmp_path):
    entry = prepared(tmp_path, dataclasses.replace(NOISE, names=()))
    (page,) = preview([entry], tmp_path)
    assert page.stat().st_size > 10_000 and "50.0%" in details(entry)


def test_a_damaged_entry_is_told(entries, tmp_path):
    with pytest.raises(DataError, match="is damaged"):
        details(tmp_path)
    with pytest.raises(DataError, match="is damaged"):
        preview([tmp_path], tmp_path)


def test_a_folder_that_cannot_be_written_is_told(entries, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        preview([entries["image"]], tmp_path / "file")
