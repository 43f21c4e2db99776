"""Archives of records: what they hold, what is refused in one line, and what is no danger to whoever opens one."""

import io
import os
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from lra.errors import UsageError
from lra.results import archive, load, records
from lra.results.shareable import shareable, without_paths
from tests.helpers.records import measurement, record

GOOD = records.to_bytes(record())


def packed(*members, method=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members:
            made.writestr(name, content, method)
    return file.getvalue()


def member(name="records/a.json", mode=stat.S_IFREG | 0o644):
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


def patched(content, offset, form, *values, local=None):
    """A zip whose first member's entry in the list, and in its own header, says something else."""
    made = bytearray(content)
    struct.pack_into(form, made, made.index(b"PK\x01\x02") + offset, *values)
    if local is not None:
        struct.pack_into(form, made, local, *values)
    return bytes(made)


def lying(size, stated, checksum=None):
    """A record of `size` zeros that states another size, and the checksum of what it states."""
    content = packed(("records/a.json", b"0" * size))
    content = patched(content, 24, "<L", stated, local=22)
    if checksum is None:
        checksum = zlib.crc32(b"0" * min(stated, size))
    return patched(content, 16, "<L", checksum, local=14)


@pytest.fixture
def read(tmp_path):
    """Reads an archive of these bytes as the verbs do."""

    def read(content):
        (tmp_path / "a.zip").write_bytes(content)
        return load.load_records([tmp_path / "a.zip"])

    return read


def test_what_is_packed_comes_back(tmp_path):
    trained, measured = [record(score=s, seed=i) for i, s in enumerate((0.2, 0.4))], [measurement()]
    (tmp_path / "a.zip").write_bytes(archive.to_bytes({records.RESULTS: trained, records.BENCH: measured}))
    assert load.load_records([tmp_path / "a.zip"]) == (trained, [])
    assert load.load_records([tmp_path / "a.zip"], records.BENCH) == (measured, [])


def test_equal_records_make_equal_bytes_in_any_order(monkeypatch):
    made = [record(model, seed=seed, key=f"{seed:064x}") for model in ("fnet", "luna") for seed in (0, 1)]
    first = archive.to_bytes({records.RESULTS: made, records.BENCH: []})
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert archive.to_bytes({records.BENCH: [], records.RESULTS: made[::-1]}) == first
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert names[0] == "records/listops-fnet-L2000-lra-s0-CPU-0000000000.json" and names == sorted(names)


def test_records_of_one_name_are_both_kept(read):
    """Only made by hand: a key is a checksum, of which ten digits are in the name."""
    both = [record(score=s, key=f"{0:063x}{s:.0f}") for s in (0, 1)]
    found, lines = read(archive.to_bytes({records.RESULTS: both}))
    assert len(found) == 2 and not lines
    hidden = record(task=".../x", key="../../x", recipe={})
    assert read(archive.to_bytes({records.RESULTS: [hidden]})) == ([hidden], [])


def test_what_would_not_be_read_is_not_written(monkeypatch):
    monkeypatch.setattr(archive, "MAX_RECORD", len(GOOD))
    assert archive.to_bytes({records.RESULTS: [record()]})
    with pytest.raises(UsageError, match="a record in an archive at most"):
        archive.to_bytes({records.RESULTS: [record(error="x")]})
    monkeypatch.setattr(archive, "MAX_RECORDS", 1)
    with pytest.raises(UsageError, match="2 records are too many for one archive: choose some with --tasks"):
        archive.to_bytes({records.RESULTS: [record()], records.BENCH: [record()]})


def test_of_a_folder_and_an_archive_the_finished_cell_counts_then_the_later(tmp_path):
    ours = [record(score=0.1, key="a"), record(score=0.1, key="b"), record(score=0.1, key="c")]
    theirs = [
        record(status="failed", key="a", created="2027-01-01"),
        record(score=0.9, key="b", created="2027-01-01"),
    ]
    for made in ours:
        records.write(tmp_path / "ours" / "records" / f"{made['key']}.json", made)
    (tmp_path / "theirs.zip").write_bytes(archive.to_bytes({records.RESULTS: theirs}))
    for order in (["ours", "theirs.zip"], ["theirs.zip", "ours"]):
        found, lines = load.load_records([tmp_path / name for name in order])
        assert {r["key"]: r["results"][0]["test_best"] for r in found} == {"a": 0.1, "b": 0.9, "c": 0.1}
        assert len(lines) == 2 and all("duplicate: " in line and "theirs.zip/records/" in line for line in lines)


def test_a_damaged_record_in_a_good_archive_is_named_and_left_out(read):
    found, lines = read(packed(("records/a.json", GOOD), ("records/b.json", b"{"), ("bench/c.json", b"{")))
    assert len(found) == 1 and len(lines) == 1
    assert "left out: " in lines[0] and "a.zip/records/b.json: not a whole record" in lines[0]


def test_a_file_of_another_kind_is_no_archive(read):
    for content in (b"", b"PK", b"{}", b"\x1f\x8b" + bytes(100), bytes(100)):
        with pytest.raises(UsageError, match=r"a\.zip is no archive of records: give a results folder"):
            read(content)


@pytest.mark.parametrize(
    "name",
    [
        "../records/a.json", "records/../a.json", "records/..json", "/records/a.json", "C:\\records\\a.json",
        "records\\a.json", "records/a/b.json", "records/.a.json", "records/a.txt", "trials/a.json", "a.json",
        "results/records/a.json", "records/", "records/a.json/", "records/a.json ", "recordsX/a.json", "records/.json",
        "records/a.json\nrecords/b.json",
    ],
)  # fmt: skip
def test_only_records_may_be_in_an_archive(read, name):
    with pytest.raises(UsageError, match=r"is neither records/NAME\.json nor bench/NAME\.json: use one made by"):
        read(packed((name, GOOD), ("records/good.json", GOOD)))


GOOD_ZIP = packed((member(), GOOD))
REFUSED = {
    "without records": (packed(), "holds no records"),
    "a link": (packed((member(mode=stat.S_IFLNK | 0o777), "/etc/passwd")), "is a link or a special file"),
    "a device": (packed((member(mode=stat.S_IFCHR | 0o666), "")), "is a link or a special file"),
    "encrypted": (patched(GOOD_ZIP, 8, "<H", 1, local=6), "'records/a.json' is encrypted: "),
    "bzip2": (packed((member(), GOOD), method=zipfile.ZIP_BZIP2), "by a method that is not read"),
    "lzma": (packed((member(), GOOD), method=zipfile.ZIP_LZMA), "by a method that is not read"),
    "an unknown method": (patched(GOOD_ZIP, 10, "<H", 77), "by a method that is not read"),
    "one large record": (packed((member(), bytes(archive.MAX_RECORD + 1))), "a record has at most 16,777,216"),
    "a stated size": (patched(GOOD_ZIP, 24, "<L", 2**32 - 2), "a record has at most"),
    "cut off": (GOOD_ZIP[:-1], "is cut off, or not as"),
    "cut off in the middle": (GOOD_ZIP[: len(GOOD_ZIP) // 2], "is cut off, or not as"),
    "a comment": (GOOD_ZIP[:-2] + b"\x01\x00x", "is cut off, or not as"),
    "a checksum": (patched(GOOD_ZIP, 16, "<L", 1, local=14), "is damaged (Bad CRC-32"),
    "its data": (GOOD_ZIP[:60] + b"\xff" * 9 + GOOD_ZIP[69:], "is damaged ("),
    "another name in its header": (GOOD_ZIP.replace(b"records/a", b"records/b", 1), "is damaged (File name"),
    "smaller than it states": (lying(100, 200), "is damaged ("),
    "a list of members far too long": (GOOD_ZIP[:-10] + struct.pack("<LLH", 2**31, 0, 0), "more than 50,000 files"),
    "of 64 bits": (GOOD_ZIP[:-22] + b"PK\x06\x07" + bytes(16) + GOOD_ZIP[-22:], "more than 50,000 files"),
    "no list": (b"PK\x03\x04" + bytes(50) + b"PK\x05\x06" + bytes(8) + struct.pack("<LLH", 10, 9, 0), "is damaged ("),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_gets_one_line(read, case):
    content, words = REFUSED[case]
    with pytest.raises(UsageError) as told:
        read(content)
    assert words in str(told.value) and "a.zip" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(read):
    with pytest.raises(UsageError, match=r"holds 'records/a\.json' 2 times"):
        read(packed(("records/a.json", GOOD), ("records/b.json", GOOD), ("records/a.json", GOOD)))


def test_too_many_and_too_much(read, monkeypatch):
    three = packed(*((f"records/{i}.json", GOOD) for i in range(3)))
    monkeypatch.setattr(archive, "MAX_TOTAL", 3 * len(GOOD))
    monkeypatch.setattr(archive, "MAX_RECORDS", 3)
    assert not read(three)[1][2:]  # two duplicates
    monkeypatch.setattr(archive, "MAX_TOTAL", 3 * len(GOOD) - 1)
    with pytest.raises(UsageError, match=r"unpacks to .* bytes, and at most"):
        read(three)
    monkeypatch.setattr(archive, "MAX_RECORDS", 2)
    with pytest.raises(UsageError, match="holds 3 files, and at most 2 are read"):
        read(three)


@pytest.mark.parametrize(
    ("stated", "checksum", "words"), [(100, None, "left out: "), (0, None, "left out: "), (100, 1, "is damaged")]
)
def test_a_bomb_that_states_a_small_size_is_not_unpacked_beyond_it(read, stated, checksum, words):
    content = lying(50 * 2**20, stated, checksum)
    assert len(content) < 60_000
    tracemalloc.start()
    try:
        told = read(content)[1][0]
    except UsageError as error:
        told = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in told and peak < 2**20


def test_no_change_of_some_bytes_does_anything_but_a_line(read):
    chance = random.Random(0)
    whole = packed(("records/a.json", GOOD), ("bench/b.json", GOOD))
    outcomes = set()
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 255, chance.randrange(256)])
        try:
            found, lines = read(bytes(content[: chance.choice([len(content), chance.randrange(len(content))])]))
        except UsageError as error:
            outcomes.add(type(error))
        else:
            assert len(found) + len(lines) == 1
            outcomes.add(list)
    assert outcomes == {UsageError, list}


def test_an_archive_that_cannot_be_read_now(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    monkeypatch.setattr("builtins.open", lambda *arguments, **more: os.open("/nowhere/x", os.O_RDONLY))
    with pytest.raises(UsageError, match=r"cannot read .*a\.zip: No such file"):
        list(archive.contents(tmp_path / "a.zip", records.RESULTS))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/anna/data/x.zip", "x.zip"),
        ("/tmp", "tmp"),
        ("--results=/home/anna/r,results/mini,/srv/b/", "--results=r,results/mini,b/"),
        ("run.py '--data=/home/Anna Smith/my data' --tasks=text", "run.py '--data=my data' --tasks=text"),
        ("No such file or directory: '/home/Anna Smith/x y'", "No such file or directory: 'x y'"),
        ("don't use /home/anna x/y as it's bad", "don't use anna x/y as it's bad"),
        ("aclImdb (/srv/data/aclImdb)", "aclImdb (aclImdb)"),
        ("no source /home/anna/d: give one", "no source d: give one"),
        ("PATH=/usr/bin:/home/anna/bin", "PATH=bin:bin"),
        (r"C:\Users\Anna\x.zip and D:/data/y", "x.zip and y"),
        (r"'C:\\Users\\Anna Smith\\f'", "'f'"),
        (r"\\server\share\folder\file", "file"),
        (r"'\\\\server\\share\\file'", "'file'"),
        ("~/x/y, ~anna/data/z", "y, z"),
        ("file:///home/anna/x FILE:///C:/Users/x/y", "x y"),
        ("see https://x.org/a,/home/anna/b", "see https://x.org/a,b"),
        ("run.py --coordinator=node7:123 --ray_address=ray://head:1", "run.py --coordinator=HOST --ray_address=HOST"),
        ("process 1 (node17): out of memory", "process 1: out of memory"),
    ],
)  # fmt: skip
def test_paths_and_hosts_are_cut(text, shown):
    assert without_paths(text) == shown
    assert without_paths(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "10 steps/s, 3 /s, 1/2, a / b, (a+b)/cd, 50 %/step", "https://arxiv.org/abs/2009.14794",
        "google-research/long-range-arena", "--results=results/records,./x/y,../a/b --out=a/b", "~5/2 ~ $HOME/x",
        r"\frac{1}{2} \\alpha \n\t '\\n\\t'", "theirs:Mean:scale=0.5", "don't; it's 1/2", "gs://bucket/a/b",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_path_stays(text):
    assert without_paths(text) == text


def test_cutting_takes_time_in_proportion_to_the_text():
    """Others may have written the records: a text that takes the square of its length would never end."""
    for part in ("/a", "a/", "=/", "~a", "a.", "a-", "'", "'/ ", "\\\\a", "process 1 (", "file:", "c:/", "x://"):
        assert without_paths(part * 200_000 + " /b/c") is not None


def test_a_record_is_handed_on_without_log_paths_and_hosts_and_with_its_key():
    made = record(
        command="python run.py --data=/home/anna/d", log=["/home/anna/x"], warnings=["in /home/anna/w"],
        error="/home/anna/e", overrides=["data.file=/home/anna/f"], key="/not/a/checksum",
        versions={"/home/anna/v": "1"},
    )  # fmt: skip
    made["data"] |= {"source": "CIFAR-10 (/home/anna/c)", "notes": ["/home/anna/n"]}
    made["results"][0]["error"] = "~anna/r/s"
    before = records.to_bytes(made)
    cut = shareable(made)
    assert records.to_bytes(made) == before
    assert records.checked(cut, "cut")["key"] == made["key"] and cut["log"] == []
    text = records.to_bytes(cut).decode()
    assert "anna" not in text and "/home" not in text
    assert cut["data"]["source"] == "CIFAR-10 (c)" and cut["overrides"] == ["data.file=f"]
    plain = record(command="python run.py --results=results/mini", commit="0" * 40)
    assert shareable(plain) == plain
