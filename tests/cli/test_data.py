"""What `prepare` and `run` say of the data: which copy, what it lacks, what is passed over, what cannot be made."""

import pytest

from tests.helpers import archives
from tests.helpers.cli import call, only_record, outputs

FEW = ("--set=data.train=50", "--set=data.validation=5", "--set=data.test=5")
PART = "3 / 3 / 3 examples where the release has 96,000 / 2,000 / 2,000"
LISTOPS = ("--tasks=listops", "--protocol=lra", "--workers=1")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.delenv("LRA_SOURCE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def prepare(folder, *arguments, tasks=LISTOPS):
    done = call("prepare", *tasks, f"--data={folder}/data", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(folder, *arguments, verb="prepare", tasks=LISTOPS):
    done = call(verb, *tasks, f"--data={folder}/data", *(outputs(folder) if verb != "prepare" else []), *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_part_of_a_release_is_told_when_it_is_prepared_taken_again_and_listed(tmp_path):
    archives.expressions(tmp_path / "release")
    assert PART in prepare(tmp_path, f"--source={tmp_path}/release")
    again = prepare(tmp_path)
    assert PART in again and f"lra_release, read from {tmp_path}/release" in again
    assert PART in call("list", "tasks", "--details", f"--data={tmp_path}/data").stdout


@pytest.mark.parametrize(
    ("task", "make", "words"),
    [
        ("text", archives.imdb, "72 / 8 / 80 examples where the release has 22,500 / 2,500 / 25,000"),
        ("image", archives.cifar, "180 / 20 / 50 examples where the release has 45,000 / 5,000 / 10,000"),
        ("retrieval", archives.papers, "60 / 10 / 10 examples where the release has 147,086 / 18,090 / 17,437"),
        ("pathfinder", archives.drawings, "24 / 3 / 3 examples where the release has 160,000 / 20,000 / 20,000"),
    ],
)
def test_every_reader_tells_a_part_also_of_a_copy_found_in_the_cache_s_sources(tmp_path, task, make, words):
    make(tmp_path / "data" / "sources")
    told = prepare(tmp_path, "--allow_unverified", tasks=(f"--tasks={task}", "--protocol=lra", "--workers=1"))
    assert words in told and f"read from {tmp_path}/data/sources" in told


def test_settings_that_divide_the_data_otherwise_make_no_part_of_them(tmp_path):
    from tasks import TASKS
    from tasks.io.cache import _note_part

    settings = {"source": {"kind": "folder"}, "rules": {"validation": 0.2}}
    counts = {"train": 20_000, "validation": 5_000, "test": 25_000}
    assert _note_part(TASKS["text"], counts, settings) == []
    assert _note_part(TASKS["text"], counts | {"test": 24_999}, settings) != []
    assert _note_part(TASKS["text"], counts, settings | {"rules": {"validation": 0.1}}) != []


def test_a_folder_without_the_task_is_told_and_what_is_taken_instead(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    told = prepare(tmp_path, f"--source_dir={tmp_path}/empty", *FEW)
    assert f"listops: {tmp_path}/empty holds nothing of listops" in told and "it is generated instead" in told
    monkeypatch.setenv("LRA_SOURCE", f"{tmp_path}/empty")
    told = prepare(tmp_path, *FEW)
    assert f"{tmp_path}/empty holds nothing of listops" in told and "generated (seed 0), in " in told
    short = prepare(tmp_path, *FEW, tasks=("--tasks=listops_short", "--workers=1"))
    assert f"{tmp_path}/empty holds nothing of listops_short, whose sources are generate: it is generated" in short
    archives.expressions(tmp_path / "release")
    prepare(tmp_path, f"--source={tmp_path}/release", *FEW)
    told = prepare(tmp_path, *FEW)
    assert "holds nothing of listops" in told and "is taken instead" in told and PART in told


def test_the_folder_that_is_named_goes_before_what_was_prepared_earlier(tmp_path):
    assert "generated" in prepare(tmp_path, *FEW)
    archives.expressions(tmp_path / "one")
    assert f"read from {tmp_path}/one" in prepare(tmp_path, *FEW, f"--source_dir={tmp_path}/one")
    archives.expressions(tmp_path / "two", train="5\t5\n")
    assert f"read from {tmp_path}/two" in prepare(tmp_path, *FEW, f"--source_dir={tmp_path}/two")
    told = prepare(tmp_path, *FEW, f"--source_dir={tmp_path}/gone")
    assert f"the source folder {tmp_path}/gone does not exist: lra_release, in " in told
    assert "does not exist" in refused(tmp_path, "--lengths=1000", *FEW, f"--source_dir={tmp_path}/gone")


def test_a_folder_that_is_named_beside_another_source_is_told(tmp_path):
    archives.expressions(tmp_path / "release")
    told = prepare(tmp_path, *FEW, "--source=generate", f"--source_dir={tmp_path}/release")
    assert f"listops: {tmp_path}/release is not looked into, since the source is generate" in told


def test_a_release_put_into_the_cache_s_sources_goes_before_what_was_generated(tmp_path):
    assert "generated" in prepare(tmp_path, *FEW)
    archives.expressions(tmp_path / "data/sources/lra_release")
    assert f"read from {tmp_path}/data/sources" in prepare(tmp_path, *FEW)


@pytest.mark.process
def test_run_names_the_copy_and_its_notes_and_so_do_the_tables(tmp_path):
    archives.expressions(tmp_path / "release", train="[MAX 1 2 3 4 5 6 7 8 9 ]\t9\n")
    done = call(
        "run", *LISTOPS, "--lengths=8", "--models=fnet", f"--source={tmp_path}/release", "--device=cpu",
        "--set=train.steps=2", "--set=train.eval_every=1", "--set=train.batch=2", "--set=encoder.layers=1",
        "--set=encoder.dim=8", "--set=encoder.qkv=8", "--set=encoder.mlp=8", f"--data={tmp_path}/data",
        *outputs(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    part = "4 / 3 / 3 examples where the release has 96,000 / 2,000 / 2,000"
    cut = "1 of 10 expressions, longer than 8 tokens, were cut"
    assert f"listops, length 8: 4 / 3 / 3 examples, lra_release, read from {tmp_path}/release" in done.stdout
    assert done.stdout.index(part) < done.stdout.index("1 cells on")
    for name in ("md", "csv", "html"):
        text = (tmp_path / "out" / f"leaderboard.{name}").read_text()
        assert part in text and cut in text, name
    record = only_record(tmp_path)
    assert record["data"]["counts"] == {"train": 4, "validation": 3, "test": 3}
    assert record["data"]["notes"][:2] == [part, cut]


def test_a_file_name_that_a_terminal_would_obey_is_shown_as_text(tmp_path):
    folder = archives.drawings(tmp_path / "release")
    with open(folder / "metadata" / "0.npy", "a") as file:
        file.write("imgs/0 \x1b[2J.png 99 1\n")
    told = prepare(tmp_path, f"--source={tmp_path}/release", tasks=("--tasks=pathfinder", "--workers=1"))
    told += call("list", "tasks", "--details", f"--data={tmp_path}/data").stdout
    assert told.count("1 empty or broken pictures were skipped") == 2 and told.count("\\x1b[2J.png") == 2
    assert "\x1b" not in told


# --- unverified copies --------------------------------------------------------------------------------

TEXT = ("--tasks=text", "--protocol=lra", "--lengths=100", "--workers=1")


def test_what_was_taken_unverified_does_not_serve_without_the_flag(tmp_path, monkeypatch):
    archives.imdb(tmp_path / "copy")
    monkeypatch.setattr("tasks.io.sources._download", lambda *arguments: pytest.fail("downloads"))
    source = f"--source={tmp_path}/copy"
    assert "--allow_unverified" in refused(tmp_path, source, tasks=TEXT)
    assert "72 / 8 / 80" in prepare(tmp_path, source, "--allow_unverified", tasks=TEXT)
    told = refused(tmp_path, source, tasks=TEXT)
    assert "was taken with --allow_unverified (" in told and "give the flag again" in told
    assert "72 / 8 / 80" in prepare(tmp_path, "--allow_unverified", tasks=TEXT)


def test_auto_passes_an_unverified_copy_over_and_says_so(tmp_path, monkeypatch):
    archives.imdb(tmp_path / "copy")
    prepare(tmp_path, f"--source={tmp_path}/copy", "--allow_unverified", tasks=TEXT)

    def unreachable(*arguments):
        from tasks.io.download import Unreachable

        raise Unreachable("no network")

    monkeypatch.setattr("tasks.io.download.fetch", unreachable)
    monkeypatch.setattr("tasks.io.tfds.is_installed", lambda: False)
    done = call("prepare", *TEXT, f"--data={tmp_path}/data")
    assert done.returncode == 2 and "no network" in done.stderr
    assert "was taken with --allow_unverified" in done.stdout and "skipped" in done.stdout


def test_a_copy_that_needed_no_flag_serves_without_it(tmp_path):
    archives.expressions(tmp_path / "release")
    prepare(tmp_path, f"--source={tmp_path}/release", "--allow_unverified")
    assert PART in prepare(tmp_path, f"--source={tmp_path}/release") and PART in prepare(tmp_path)


# --- sizes that cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["prepare", "run", "bench"])
def test_an_absurd_length_is_one_line_for_every_verb(tmp_path, verb):
    told = refused(tmp_path, "--lengths=99999999999999", verb=verb, tasks=("--tasks=text",))
    assert "lengths can be at most 16,777,216 tokens, not 99,999,999,999,999" in told


@pytest.mark.parametrize("task", ["listops", "listops_short", "pathfinder", "pathx", "pathfinder_short"])
def test_absurd_numbers_of_examples_are_one_line(tmp_path, task):
    protocol = "quick" if "short" in task else "lra"
    told = refused(tmp_path, "--set=data.train=1000000000000000", tasks=(f"--tasks={task}", f"--protocol={protocol}"))
    assert f"{task}: 1,000,000,000," in told and "GB free: choose a smaller --lengths or fewer examples" in told


def test_a_length_that_the_disk_does_not_hold_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    for make in (archives.expressions, archives.imdb):
        make(tmp_path / "copy")
    for task in ("listops", "text"):
        told = refused(
            tmp_path, "--lengths=1000000", f"--source={tmp_path}/copy", "--allow_unverified",
            tasks=(f"--tasks={task}", "--protocol=lra", "--workers=1"),
        )  # fmt: skip
        assert "documents of 1,000,000 tokens take 0 GB" in told and f"{tmp_path}/data has 0 GB free" in told


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 9 TiB"), ValueError("array is too big"), OverflowError("too large")]
)
def test_what_numpy_says_of_arrays_that_are_too_large_is_one_line(tmp_path, monkeypatch, error):
    def too_large(*arguments, **more):
        raise error

    monkeypatch.setattr("tasks.listops._pack", too_large)
    archives.expressions(tmp_path / "release")
    told = refused(tmp_path, f"--source={tmp_path}/release")
    assert f"listops cannot be prepared at length 2,000 with these settings ({error})" in told
