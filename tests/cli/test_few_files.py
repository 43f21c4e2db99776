"""A process that may open few files: one line or a missed checkpoint, and nothing that is finished is lost."""

import subprocess
import sys

import pytest

from tests.helpers.cli import ROOT, call, record_files, saved_records

pytestmark = pytest.mark.process

LIMITED = (
    "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def limited(number, *arguments):
    command = [sys.executable, "-c", LIMITED, str(number), sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="how many files a process needs was counted on Linux")
def test_few_descriptors_cost_a_line_or_a_checkpoint_and_nothing_else(tmp_path, finished):
    (first,) = record_files(tmp_path)
    kept = first.read_bytes()
    for number in (7, 10, 14, 18):
        done = limited(number, *finished, "--seeds=0,1")
        assert done.returncode in (0, 2), done.stderr
        if done.returncode:
            assert done.stderr.count("\n") == 1 and "Too many open files" in done.stderr
        else:
            assert "Too many open files" in done.stdout + done.stderr
            break
    assert done.returncode == 0, "no number of descriptors was enough for a record"
    assert first.read_bytes() == kept and len(record_files(tmp_path)) == 2
    assert call(*finished, "--seeds=0,1").returncode == 0
    assert [record["status"] for record in saved_records(tmp_path)] == ["ok", "ok"]
    assert first.read_bytes() == kept
