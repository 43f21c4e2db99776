"""The memory that a program may take, from files as the kernel writes them."""

import pytest

from lra.train import device

KB = 1024


def machine(root, available_kb, groups):
    """Writes a tree of /proc and /sys files under `root`."""
    files = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:   {available_kb} kB\n"} | groups
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


V2 = {
    "proc/self/cgroup": "0::/job/step\n",
    "sys/fs/cgroup/job/step/memory.max": "max\n",
    "sys/fs/cgroup/job/memory.max": f"{500 * KB}\n",
    "sys/fs/cgroup/job/memory.stat": f"anon {100 * KB}\nfile 999999999\n",
}
V1 = {
    "proc/self/cgroup": "9:cpu:/job\n4:memory:/job\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{300 * KB}\n",
    "sys/fs/cgroup/memory/job/memory.stat": f"cache 77777\ntotal_rss {50 * KB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}


@pytest.mark.parametrize(
    ("available", "groups", "limit", "expected"),
    [
        (1000, {}, None, 1000),
        (1000, V2, None, 400),
        (200, V2, None, 200),
        (1000, V1, None, 250),
        (1000, V2, 30 * KB, 30),
        (1000, {}, 2000 * KB, 1000),
    ],
)
def test_available_memory_is_the_least_of_host_groups_and_limit(tmp_path, available, groups, limit, expected):
    machine(tmp_path, available, groups)
    assert device.available_memory(limit, tmp_path) == expected * KB


def test_a_machine_that_says_nothing_sets_no_limit(tmp_path):
    assert device.available_memory(None, tmp_path) is None
    assert device.available_memory(5, tmp_path) == 5


def test_a_program_that_plans_too_much_is_refused():
    device.require_memory(1000, limit=1000)
    with pytest.raises(MemoryError, match=r"plans 3\.00 GiB and there are 1\.00 GiB"):
        device.require_memory(3 * device.GIB, limit=device.GIB)


def test_an_accelerator_s_own_limit_counts_and_the_host_s_does_not(monkeypatch, tmp_path):
    machine(tmp_path, 10, {})

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 77 * KB}

    monkeypatch.setattr(device.jax, "local_devices", lambda: [Device()])
    assert device.available_memory(None, tmp_path) == 77 * KB
    assert device.available_memory(8 * KB, tmp_path) == 8 * KB
