"""Small made-up copies of each data set, in the layouts the real ones have."""

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.image import CLASSES
from tasks.io.files import sha256
from tasks.task import Archive, BuildRequest, Task

WORDS = [
    "a",
    "good",
    "bad",
    "film",
    "with",
    "the",
    "plot",
    "actor",
    "never",
    "always",
    "loved",
    "hated",
    "it",
]


def request(task: Task, source, length: int | None = None, seed: int = 0, **settings) -> BuildRequest:
    """A call for a task's data from a small copy, which is of course not the published one."""
    rules = settings.pop("rules", task.rules)
    settings.setdefault("allow_unverified", True)
    return BuildRequest(length or task.length, seed, str(source), rules, 1, lambda line: None, **settings)


def cifar(folder: Path, train: int = 200, test: int = 50, seed: int = 0) -> Path:
    """`cifar-10-batches-bin` below `folder`, with classes in equal parts."""
    rng = np.random.default_rng(seed)
    out = folder / "cifar-10-batches-bin"
    out.mkdir(parents=True)
    for count, names in ((train, [f"data_batch_{i}.bin" for i in range(1, 6)]), (test, ["test_batch.bin"])):
        records = np.concatenate(
            [np.arange(count, dtype=np.uint8)[:, None] % 10, rng.integers(0, 256, (count, 3072), np.uint8)], 1
        )
        for name, part in zip(names, np.array_split(records, len(names)), strict=True):
            part.tofile(out / name)
    (out / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
    return out


def imdb(folder: Path, each: int = 40, seed: int = 0) -> Path:
    """`aclImdb` below `folder`, with `each` reviews in each of its four folders."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            place = folder / "aclImdb" / split / label
            place.mkdir(parents=True)
            for i in range(each):
                words = " ".join(rng.choice(WORDS, rng.integers(5, 60)))
                rating = rng.integers(1, 5) if label == "neg" else rng.integers(7, 11)
                (place / f"{i}_{rating}.txt").write_text(f"{split} {label} {i}: {words} café")
    return folder / "aclImdb"


def papers(folder: Path, documents: int = 30, pairs: tuple[int, int, int] = (60, 10, 10), length: int = 300) -> Path:
    """`tsv_data` below `folder`: pairs of a few documents."""
    rng = np.random.default_rng(0)
    texts = [f'{i} "quoted {" ".join(rng.choice(WORDS, length // 5))}' for i in range(documents)]
    out = folder / "tsv_data"
    out.mkdir(parents=True)
    for part, count in zip(("train", "eval", "test"), pairs, strict=True):
        with open(out / f"new_aan_pairs.{part}.tsv", "w") as file:
            for i in range(count):
                a, b = rng.integers(0, documents, 2)
                file.write(f"{float(i % 2)}\tP{a}\tP{b}\t{texts[a]}\t{texts[b]}\n")
    return out


def expressions(folder: Path, train: str = "") -> Path:
    """`listops-1000` below `folder`: three expressions in each split, of at most five tokens, and `train` more rows."""
    out = folder / "listops-1000"
    out.mkdir(parents=True)
    for number, name in enumerate(("train", "val", "test")):
        rows = "".join(f"( ( [MAX {number} ) {i} ) ]\t{max(number, i)}\n" for i in (3, 4, 5))
        (out / f"basic_{name}.tsv").write_text(f"Source\tTarget\n{rows}{train if name == 'train' else ''}")
    return out


def drawings(folder: Path, count: int = 30, size: int = 32, kind: str = "curv_contour_length_14") -> Path:
    """`pathfinder32/curv_contour_length_14` below `folder`: noise as PNGs, and text metadata in two files."""
    rng = np.random.default_rng(0)
    out = folder / f"pathfinder{size}" / kind
    (out / "metadata").mkdir(parents=True)
    for part in range(2):
        (out / "imgs" / str(part)).mkdir(parents=True)
        lines = []
        for i in range(count // 2):
            Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(out / f"imgs/{part}/sample_{i}.png")
            lines.append(f"imgs/{part} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
        (out / "metadata" / f"{part}.npy").write_text("".join(lines))
    return out


def pack(folder: Path, archive: Path) -> Path:
    """A gzipped tar of a folder under its own name."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def published(archive: Archive, path: Path) -> Archive:
    """The archive as it would be described, had this copy been published."""
    return Archive(archive.url, path.stat().st_size, sha256(path), archive.unpacked)
