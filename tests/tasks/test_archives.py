"""Archives: read as a stream, nothing outside the folder, damage named, published checksums kept."""

import dataclasses
import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.io.archives import find_archive, open_source, unpack, verify
from tasks.io.files import Progress
from tasks.io.sources import ACLIMDB
from tasks.task import DataError
from tasks.text import TEXT
from tests.helpers import archives

QUIET = Progress(lambda line: None)


def member(tar, name, content=b"x", **settings):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in settings.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def everything(name):
    return True


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_all_usual_packings_are_read(tmp_path, mode):
    with tarfile.open(tmp_path / "archive", mode) as tar:
        member(tar, "a/b.txt", b"text" * 10_000)
        member(tar, "a/c.bin")
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "archive", tmp_path / "out", lambda name: name.endswith(".txt"), 100_000, QUIET)
    assert files_below(tmp_path / "out") == {"a/b.txt"}
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"text" * 10_000


def test_nothing_leaves_the_folder_and_links_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    archive, out = tmp_path / "archive", tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with tarfile.open(archive, "w") as tar:
        member(tar, "../up.txt")
        member(tar, "a/../../up.txt")
        member(tar, str(tmp_path / "absolute.txt"))
        member(tar, "link", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path))
        member(tar, "link/through.txt")
        member(tar, "hard", b"", type=tarfile.LNKTYPE, linkname="../../secret")
        member(tar, "fifo", b"", type=tarfile.FIFOTYPE)
        member(tar, "good.txt")
    unpack(archive, out, everything, 100_000, QUIET)
    assert files_below(out) == {"good.txt", "link/through.txt"}
    assert not (out / "link").is_symlink()
    assert files_below(tmp_path) == {"secret", "archive", "deep/out/good.txt", "deep/out/link/through.txt"}


def test_a_bomb_is_stopped(tmp_path):
    with tarfile.open(tmp_path / "archive", "w:gz") as tar:
        for i in range(20):
            member(tar, f"{i}.txt", bytes(100_000))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        unpack(tmp_path / "archive", tmp_path / "out", everything, 1_000_000, QUIET)
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 1_000_000


def test_a_bomb_of_headers_or_of_tiny_files_is_stopped_too(tmp_path):
    with tarfile.open(tmp_path / "headers", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        member(tar, "0.txt", pax_headers={"comment": "x" * 2**22})
    with tarfile.open(tmp_path / "tiny", "w:gz") as tar:
        for i in range(300):
            member(tar, f"{i}.txt", b"")
    for name, words in (("headers", "a header of 4,194,"), ("tiny", "unpacks to more than 1,000,000 bytes")):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=words):
            unpack(tmp_path / name, tmp_path / "out", everything, 1_000_000, QUIET)


def test_a_truncated_archive_is_named_wherever_it_ends(tmp_path):
    content = os.urandom(3000)
    with tarfile.open(tmp_path / "whole", "w:gz") as tar:
        for i in range(5):
            member(tar, f"{i}.txt", content)
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "out").mkdir()
    part = tmp_path / "part"
    for size in (10, 100, len(whole) // 2, len(whole) - 200, len(whole) - 8, len(whole) - 1):
        part.write_bytes(whole[:size])
        with pytest.raises(DataError, match=f"{part} is truncated or damaged"):
            unpack(part, tmp_path / "out", everything, 100_000, QUIET)


def test_a_changed_byte_is_found_by_the_packing_s_own_checksum(tmp_path):
    with tarfile.open(tmp_path / "plain", "w") as tar:
        member(tar, "0.txt", b"a" * 3000)
    data = bytearray(gzip.compress((tmp_path / "plain").read_bytes(), 0))
    data[len(data) // 4] ^= 1
    (tmp_path / "archive").write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="is truncated or damaged"):
        unpack(tmp_path / "archive", tmp_path / "out", everything, 100_000, QUIET)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "is no archive of a kind that is read"),
        (b"\x00" * 1000, "is no archive of a kind that is read"),
        (gzip.compress(b"no tar"), "is no archive of a kind that is read"),
        (b"\x1f\x8bno gzip", "is truncated or damaged"),
        (b"PK\x03\x04no zip", "is truncated or damaged"),
        (b"7z\xbc\xaf\x27\x1c and more", r"is a 7z archive, which is not read: pack it as tar, .* or zip"),
        (b"Rar!\x1a\x07\x01\x00", "is a RAR archive, which is not read"),
        (b"\x28\xb5\x2f\xfd and more", "is a Zstandard archive, which is not read"),
    ],
    # a gzip holds the time: no id for two processes to share
    ids=["text", "zeros", "gzip of text", "damaged gzip", "damaged zip", "7z", "RAR", "Zstandard"],
)
def test_what_is_damaged_or_of_another_kind_is_called_that(tmp_path, content, words):
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=words):
        unpack(tmp_path / "archive", tmp_path / "out", everything, 100_000, QUIET)


def test_the_published_checksum_is_kept(tmp_path):
    file = tmp_path / "aclImdb_v1.tar.gz"
    file.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        verify(file, ACLIMDB, True)
    file.write_bytes(b"other")
    with pytest.raises(DataError, match=r"its sha256 is d9298a10.* and should be c40f74a1.*--allow_unverified"):
        verify(file, ACLIMDB, False)
    assert "unverified copy" in verify(file, ACLIMDB, True)
    assert verify(file, archives.published(ACLIMDB, file), False) == ""


def test_an_archive_with_another_checksum_is_not_unpacked_unless_the_user_says_so(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme").write_text("text")
    archive = archives.pack(tmp_path / "other", tmp_path / "aclImdb_v1.tar.gz")
    strict, lenient = (
        dataclasses.replace(archives.request(TEXT, archive), allow_unverified=allowed) for allowed in (False, True)
    )
    with pytest.raises(DataError, match="should be c40f74a1"), open_source(strict, ACLIMDB, everything, 100_000):
        pass
    with open_source(lenient, ACLIMDB, everything, 100_000) as (folder, remarks):
        assert files_below(folder) == {"other/readme"}
        assert len(remarks.notes) == 1 and remarks.notes[0].startswith("an unverified copy of aclImdb_v1.tar.gz")
        assert remarks.unverified
    published = archives.published(ACLIMDB, archive)
    with open_source(strict, published, everything, 100_000) as (_, remarks):
        assert (remarks.notes, remarks.unverified) == ([], False)


def test_errors_name_the_archive_and_leave_nothing(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "test/pos/0_1.txt").write_text("")
    archive = archives.pack(folder, tmp_path / "aclImdb_v1.tar.gz")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(DataError, match=rf"{archive}/aclImdb/test/pos/0_1.txt is empty"):
        TEXT.build(archives.request(TEXT, archive, scratch=scratch))
    assert not list(scratch.iterdir())


def test_an_archive_of_something_else_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme").write_text("text")
    archive = archives.pack(tmp_path / "other", tmp_path / "aclImdb_v1.tar.gz")
    request = archives.request(TEXT, archive)
    with open_source(request, ACLIMDB, everything, 100_000) as (folder, _):
        assert files_below(folder) == {"other/readme"}
    with pytest.raises(DataError, match=f"{archive} holds no IMDb reviews"):
        TEXT.build(request)


# --- zip ----------------------------------------------------------------------------------------------


def zipped(path, files, **settings):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **settings) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(archive, tmp_path, limit=100_000):
    (tmp_path / "out").mkdir(exist_ok=True)
    unpack(archive, tmp_path / "out", everything, limit, QUIET)
    return files_below(tmp_path / "out")


def test_a_zip_is_read_and_nothing_leaves_the_folder(tmp_path):
    files = {"a/b.txt": b"text", "../up.txt": b"x", "a/../../up.txt": b"x", "/absolute.txt": b"x", "empty/": b""}
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert unpacked(zipped(tmp_path / "archive", files | {link: str(tmp_path)}), tmp_path) == {"a/b.txt"}
    assert files_below(tmp_path) == {"archive", "out/a/b.txt"}


def test_a_zip_bomb_is_stopped_even_if_it_lies(tmp_path):
    archive = zipped(tmp_path / "archive", {"big": bytes(2_000_000)})
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        unpacked(archive, tmp_path, 1_000_000)
    # The sizes of both headers say 100 bytes.
    archive.write_bytes(archive.read_bytes().replace((2_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="is truncated or damaged"):
        unpacked(archive, tmp_path, 1_000_000)
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 1_000_000


def test_a_damaged_zip_is_named(tmp_path):
    content = os.urandom(5000)
    whole = zipped(tmp_path / "archive", {"0.txt": content}).read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part").write_bytes(whole[:size])
        with pytest.raises(DataError, match="part is truncated or damaged"):
            unpacked(tmp_path / "part", tmp_path)
    changed = bytearray(whole)
    changed[1000] ^= 1
    (tmp_path / "part").write_bytes(changed)
    with pytest.raises(DataError, match="part is truncated or damaged"):
        unpacked(tmp_path / "part", tmp_path)


def test_a_zip_with_a_password_is_named(tmp_path):
    whole = bytearray(zipped(tmp_path / "archive", {"0.txt": b"x"}).read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(header) + offset] |= 1  # the flag of an encrypted member
    (tmp_path / "archive").write_bytes(whole)
    with pytest.raises(DataError, match=r"archive: 0.txt cannot be unpacked \(.*password"):
        unpacked(tmp_path / "archive", tmp_path)


# --- what operating systems leave behind, and other endings -------------------------------------------

CLUTTER = ("__MACOSX/a/._b.txt", "__MACOSX/b.txt", "a/._b.txt", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini")


def test_what_operating_systems_leave_behind_is_left_out(tmp_path):
    files = dict.fromkeys((*CLUTTER, "a/b.txt", "a/_b.txt"), b"x")
    assert unpacked(zipped(tmp_path / "zip", files), tmp_path) == {"a/b.txt", "a/_b.txt"}
    with tarfile.open(tmp_path / "tar", "w") as tar:
        for name in files:
            member(tar, name)
    assert unpacked(tmp_path / "tar", tmp_path) == {"a/b.txt", "a/_b.txt"}


@pytest.mark.parametrize("name", ["aclImdb_v1.tar.gz", "aclImdb_v1", "aclImdb_v1.tar", "aclImdb_v1.tgz",
                                  "aclImdb_v1.tar.bz2", "aclImdb_v1.tar.xz", "aclImdb_v1.zip"])  # fmt: skip
def test_an_archive_is_found_under_other_endings(tmp_path, name):
    assert find_archive(tmp_path, ACLIMDB) is None
    (tmp_path / "aclImdb_v1.part").touch()
    (tmp_path / name).touch()
    assert find_archive(tmp_path, ACLIMDB) == tmp_path / name
    (tmp_path / "aclImdb_v1.tar.gz").touch()
    assert find_archive(tmp_path, ACLIMDB) == tmp_path / "aclImdb_v1.tar.gz"
