"""TensorFlow Datasets, as a source. Only here is TensorFlow imported, and only when a copy is really read.

TFDS never downloads here: `tasks.io.download` does, with a lock and a resume, and TFDS builds from that file.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.io.archives import verify
from tasks.io.files import Report, sha256, writing
from tasks.task import Archive, DataError

MISSING = (
    "TensorFlow Datasets is not installed: pip install tensorflow tensorflow-datasets, or give the folder or "
    "archive itself as the source"
)


_UNVERIFIED = "tfds-unverified"


def search_folders(cache: Path, allow_unverified: bool) -> list[Path]:
    """Where prepared copies may lie: $TFDS_DATA_DIR, what was built here, and TFDS's own default."""
    own = [os.environ["TFDS_DATA_DIR"]] if os.environ.get("TFDS_DATA_DIR") else []
    built = [cache / _UNVERIFIED] if allow_unverified else []
    return [*map(Path, own), cache / "tfds", *built, Path("~/tensorflow_datasets").expanduser()]


def is_installed() -> bool:
    """Whether TensorFlow and TFDS can be imported, without importing them."""
    return all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorflow_datasets"))


def find_prepared(name: str, places: list[Path]) -> Path | None:
    """The folder of a prepared copy, of the newest version: 'cifar10' → …/cifar10/3.0.2."""
    for place in places:
        found = [info.parent for info in (place / name).glob("*/dataset_info.json")]
        if found:
            return max(found, key=_version)
    return None


def _version(folder: Path) -> list[int]:
    return [int(number) if number.isdigit() else 0 for number in folder.name.split(".")]


def build(name: str, path: Path, archive: Archive, cache: Path, allow_unverified: bool, report: Report) -> Path:
    """Builds the dataset `name` from a local copy of its archive; returns its folder.

    A copy whose checksum is not the published one is built apart, so that it is never taken for the real one.

    Raises:
        DataError: TFDS is not installed, the archive is not the published one, or TFDS cannot read it.
    """
    tfds = _import()
    unverified = verify(path, archive, allow_unverified)
    place = cache / (_UNVERIFIED if unverified else "tfds")
    if "TFDS_DATA_DIR" in os.environ and not unverified:
        place = Path(os.environ["TFDS_DATA_DIR"])
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    try:
        builder = tfds.builder(name, data_dir=str(place))
        if unverified:
            _register_checksum(tfds, builder, path, archive)
            _build_labelled_only(builder)
        report(f"TensorFlow Datasets builds {name} from {path}")
        config = tfds.download.DownloadConfig(manual_dir=str(path.parent), try_download_gcs=False)
        builder.download_and_prepare(download_dir=str(place / "downloads"), download_config=config)
    except Exception as error:  # TFDS and what it calls raise errors of every kind
        line = str(error).strip().split("\n")[0]
        raise DataError(f"TensorFlow Datasets cannot build {name} from {path}: {line}") from error
    return Path(builder.data_dir)


def copy_notes(folder: Path) -> list[str]:
    """What a user should know of a prepared copy."""
    return ["built by TFDS from an unverified copy of the archive"] if _UNVERIFIED in folder.parts else []


def _build_labelled_only(builder: Any) -> None:
    """Has TFDS build train and test alone: a copy without the unlabelled reviews fails otherwise."""
    every = builder._split_generators

    @functools.wraps(every)
    def used(manager: Any) -> Any:
        splits = every(manager)
        if isinstance(splits, dict):
            return splits
        return [split for split in splits if str(split.name) in ("train", "test")]

    builder._split_generators = used


def _register_checksum(tfds: ModuleType, builder: Any, path: Path, archive: Archive) -> None:
    """Has TFDS take the copy's checksum for the right one, in this process."""
    checksums = tfds.core.download.checksums
    info = checksums.UrlInfo(size=path.stat().st_size, checksum=sha256(path), filename=path.name)
    for known in (builder.url_infos or {}, checksums.get_all_url_infos()):
        for url in known:
            if url.rsplit("/", 1)[-1] == archive.name:
                known[url] = info


def read_examples(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a prepared copy's split, as NumPy values. Raises `DataError`."""
    tfds = _import()
    try:
        builder = tfds.builder_from_directory(str(folder))
        yield from tfds.as_numpy(builder.as_dataset(split=split))
    except DataError:
        raise
    except Exception as error:
        line = str(error).strip().split("\n")[0]
        raise DataError(f"TensorFlow Datasets cannot read {folder}: {line}") from error


def read_records(files: list[Path], features: dict[str, type]) -> Iterator[dict[str, Any]]:
    """The examples in TFRecord files, in order, without TFDS: old copies lack the files it asks for.

    `features` says for each name whether it is bytes or int. Raises `DataError` naming the file.
    """
    _import()
    import tensorflow as tf

    kinds = {bytes: tf.string, int: tf.int64}
    wanted = {name: tf.io.FixedLenFeature([], kinds[kind]) for name, kind in features.items()}
    for file in files:
        try:
            for record in tf.data.TFRecordDataset(str(file)):
                parsed = tf.io.parse_single_example(record, wanted)
                yield {name: value.numpy() for name, value in parsed.items()}
        except (tf.errors.OpError, ValueError) as error:
            line = str(error).strip().split("\n")[0]
            raise DataError(f"{file} is damaged or not what it should be ({line})") from None


def _import() -> ModuleType:
    if not is_installed():
        raise DataError(MISSING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    # Reading a data set needs no accelerator, and TensorFlow would take all its memory from JAX.
    tf.config.set_visible_devices([], "GPU")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    module: ModuleType = tfds
    return module
