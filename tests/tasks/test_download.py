"""Downloads against a server of our own: whole, resumed, changed, broken off, by two processes at once."""

import hashlib
import http.server
import multiprocessing
import threading
from pathlib import Path

import pytest

from tasks.io import download
from tasks.task import Archive, DataError

CONTENT = bytes(range(256)) * 40_000  # 10 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; each entry of `stops` breaks one answer off after so many bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.ranges, self.stops, self.asked = CONTENT, '"one"', True, [], []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        start, content = 0, self.server.content
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != "/file.tar.gz":
            self.send_error(404)
            return
        if asked and self.server.ranges and self.headers.get("If-Range") == self.server.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        end = start + self.server.stops.pop(0) if self.server.stops else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_silent", set())
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def archive(server, content=CONTENT, name="file.tar.gz") -> Archive:
    url = f"http://127.0.0.1:{server.server_port}/{name}"
    return Archive(url, len(content), hashlib.sha256(content).hexdigest())


def fetch(wanted, folder: Path, allow=False, report=lambda line: None):
    return download.fetch(wanted, folder, allow, report)


def visible(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def test_a_file_is_fetched_once(server, tmp_path):
    file = fetch(archive(server), tmp_path / "new" / "folder")
    assert file.read_bytes() == CONTENT
    assert fetch(archive(server), tmp_path / "new" / "folder") == file
    assert server.asked == [None]
    assert [f.name for f in file.parent.iterdir() if f.suffix in (".part", ".tag")] == []


def test_a_broken_connection_is_resumed_where_it_stopped(server, tmp_path):
    server.stops = [3_000_000, 1_000_000]
    told = []
    assert fetch(archive(server), tmp_path, report=told.append).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-", "bytes=4000000-"]
    assert [line for line in told if "resuming" in line]


def test_the_next_call_resumes_what_an_earlier_one_left(server, tmp_path):
    server.stops = [3_000_000, 0]
    with pytest.raises(download.Unreachable, match="broke off"):
        fetch(archive(server), tmp_path)
    assert visible(tmp_path) == []  # nothing under the file's own name
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000000-"


def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path):
    server.stops = [3_000_000, 0]
    with pytest.raises(download.Unreachable):
        fetch(archive(server), tmp_path)
    server.content, server.tag = CONTENT[::-1], '"two"'
    assert fetch(archive(server, CONTENT[::-1]), tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("setting", [{"ranges": False}, {"tag": None}])
def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path, setting):
    vars(server).update(setting)
    server.stops = [3_000_000, 5_000_000]
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT


def test_a_damaged_beginning_is_found_and_fetched_again(server, tmp_path):
    (tmp_path / ".file.tar.gz.part").write_bytes(b"x" * 1_000_000)
    (tmp_path / ".file.tar.gz.tag").write_text('"one"')
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000000-", None]


def test_a_beginning_that_is_too_long_is_begun_anew(server, tmp_path):
    (tmp_path / ".file.tar.gz.part").write_bytes(b"x" * len(CONTENT))
    (tmp_path / ".file.tar.gz.tag").write_text('"one"')
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT


def test_another_file_at_the_address_is_refused_or_taken_by_wish(server, tmp_path):
    other = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"its sha256 is .* and should be .* --allow_unverified"):
        fetch(archive(server, other), tmp_path)
    with pytest.raises(DataError, match="gave 10,240,000 bytes and not 5: another file is there now"):
        fetch(archive(server, b"short"), tmp_path)
    assert list(tmp_path.glob("*.part")) == [] and visible(tmp_path) == []
    assert fetch(archive(server, b"short"), tmp_path, allow=True).read_bytes() == CONTENT


def test_an_address_that_is_gone_is_told(server, tmp_path):
    with pytest.raises(download.Unreachable, match=r"gone\.tar\.gz answers 404 Not Found"):
        fetch(archive(server, name="gone.tar.gz"), tmp_path)


def test_a_full_disk_is_told_and_what_came_is_kept(server, tmp_path, monkeypatch):
    import builtins

    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, block):
            if self.file.tell() > 2_000_000:
                raise OSError(28, "No space left on device")
            return self.file.write(block)

    def limited(path, mode="r", *arguments, **settings):
        file = real(path, mode, *arguments, **settings)
        return Full(file) if str(path).endswith(".part") else file

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", limited)
        with pytest.raises(DataError, match=f"cannot write {tmp_path}: No space left on device"):
            fetch(archive(server), tmp_path)
    assert visible(tmp_path) == []
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=")


def _fetch_apart(wanted, folder):
    fetch(wanted, folder)


def test_two_processes_do_not_fetch_twice(server, tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch_apart, args=(archive(server), tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert server.asked == [None]
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT


def test_progress_says_how_much_and_how_fast():
    line = download._line(Path(".file.tar.gz.part"), 25_000_000, 100_000_000, 5e6)
    assert line == "file.tar.gz: 25 of 100 MB (25%), 5.0 MB/s"
    assert download._line(Path(".f.part"), 25_000_000, None, 5e6) == "f: 25 MB, 5.0 MB/s"
