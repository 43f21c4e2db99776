"""TensorFlow Datasets as a source. TensorFlow is imported only here, and only when a copy is read or built.

TFDS never downloads: `tasks.io.download` does, with a lock and resuming, and TFDS builds from that file.
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
from tasks.task import Archive, DataError, Remarks

MISSING = (
    "TensorFlow Datasets is not installed: pip install tensorflow tensorflow-datasets, or give the folder or "
    "archive itself as the source"
)

_UNVERIFIED = "tfds-unverified"


def search_folders(cache: Path, allow_unverified: bool) -> list[Path]:
    """Folders that may contain prepared copies: $TFDS_DATA_DIR, those built in the cache, TFDS's default."""
    own = [os.environ["TFDS_DATA_DIR"]] if os.environ.get("TFDS_DATA_DIR") else []
    built = [cache / _UNVERIFIED] if allow_unverified else []
    return [*map(Path, own), cache / "tfds", *built, Path("~/tensorflow_datasets").expanduser()]


def is_installed() -> bool:
    """Whether TensorFlow and TFDS can be imported, without importing them."""
    return all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorflow_datasets"))


def find_prepared(name: str, places: list[Path]) -> Path | None:
    """The newest version's folder of a prepared copy: 'cifar10' → …/cifar10/3.0.2."""
    for place in places:
        copies = [info.parent for info in (place / name).glob("*/dataset_info.json")]
        if copies:
            return max(copies, key=_version)
    return None


def _version(folder: Path) -> list[int]:
    return [int(number) if number.isdigit() else 0 for number in folder.name.split(".")]


def build(name: str, path: Path, archive: Archive, cache: Path, allow_unverified: bool, report: Report) -> Path:
    """Builds the dataset `name` from a local copy of its archive.

    A copy whose checksum is not the published one is built in a separate folder, so that it is never mistaken for
    the published one.

    Args:
        name: the dataset's name in TFDS.
        path: the copy of the archive.
        archive: the published archive.
        cache: the data cache, in which the dataset is built unless $TFDS_DATA_DIR is set.
        allow_unverified: accept an archive with another checksum.
        report: receives progress messages.

    Returns:
        The folder of the prepared copy.

    Raises:
        DataError: TFDS is not installed, the archive is not the published one, or TFDS cannot read it.
    """
    tfds = _import()
    unverified = verify(path, archive, allow_unverified)
    data_dir = cache / (_UNVERIFIED if unverified else "tfds")
    if "TFDS_DATA_DIR" in os.environ and not unverified:
        data_dir = Path(os.environ["TFDS_DATA_DIR"])
    with writing(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
    try:
        builder = tfds.builder(name, data_dir=str(data_dir))
        if unverified:
            _register_checksum(tfds, builder, path, archive)
            _build_labelled_only(builder)
        report(f"TensorFlow Datasets builds {name} from {path}")
        config = tfds.download.DownloadConfig(manual_dir=str(path.parent), try_download_gcs=False)
        builder.download_and_prepare(download_dir=str(data_dir / "downloads"), download_config=config)
    except Exception as error:  # TFDS and its dependencies raise errors of any kind
        line = str(error).strip().split("\n")[0]
        raise DataError(f"TensorFlow Datasets cannot build {name} from {path}: {line}") from error
    return Path(builder.data_dir)


def copy_remarks(folder: Path, allow_unverified: bool) -> Remarks:
    """Remarks on a prepared copy. Raises `DataError` if it is unverified and the user does not accept that."""
    remarks = Remarks(allow_unverified)
    if _UNVERIFIED in folder.parts:
        remarks.accept("built by TFDS from an unverified copy of the archive")
    return remarks


def _build_labelled_only(builder: Any) -> None:
    """Restricts TFDS to train and test: a copy without the unlabelled reviews fails otherwise."""
    generate_all = builder._split_generators

    @functools.wraps(generate_all)
    def generate_labelled(manager: Any) -> Any:
        splits = generate_all(manager)
        if isinstance(splits, dict):
            return splits
        return [split for split in splits if str(split.name) in ("train", "test")]

    builder._split_generators = generate_labelled


def _register_checksum(tfds: ModuleType, builder: Any, path: Path, archive: Archive) -> None:
    """Registers the copy's checksum with TFDS as the expected one, in this process."""
    checksums = tfds.core.download.checksums
    info = checksums.UrlInfo(size=path.stat().st_size, checksum=sha256(path), filename=path.name)
    for known in (builder.url_infos or {}, checksums.get_all_url_infos()):
        for url in known:
            if url.rsplit("/", 1)[-1] == archive.name:
                known[url] = info


def read_examples(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Reads the examples of a split of a prepared copy, as NumPy values. Raises `DataError`."""
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
    """Reads the examples of TFRecord files, in order, without TFDS: old copies lack the files that TFDS needs.

    `features` maps each feature's name to its type, bytes or int. Raises `DataError` naming the file.
    """
    _import()
    import tensorflow as tf

    dtypes = {bytes: tf.string, int: tf.int64}
    schema = {name: tf.io.FixedLenFeature([], dtypes[dtype]) for name, dtype in features.items()}
    for file in files:
        try:
            for record in tf.data.TFRecordDataset(str(file)):
                parsed = tf.io.parse_single_example(record, schema)
                yield {name: value.numpy() for name, value in parsed.items()}
        except (tf.errors.OpError, ValueError) as error:
            line = str(error).strip().split("\n")[0]
            raise DataError(f"{file} is damaged or not a TFRecord file ({line})") from None


def _import() -> ModuleType:
    if not is_installed():
        raise DataError(MISSING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    # Reading needs no accelerator, and TensorFlow would take all of its memory away from JAX.
    tf.config.set_visible_devices([], "GPU")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    module: ModuleType = tfds
    return module
