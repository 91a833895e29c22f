"""How much of the machine a process may use."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from search.system import machine
from search.system.machine import usable_cores, usable_memory


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The process is in the control group /a/b of version 2, and on eight cores."""
    (tmp_path / "self").write_text("0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(machine, "_PROCESS_GROUPS", tmp_path / "self")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path / "groups"


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("max 100000", "300000 100000", 3),
        ("250000 100000", "600000 100000", 2),
        ("50000 100000", "max 100000", 1),
        ("1600000 100000", "max 100000", 8),
    ],
)
def test_cores_are_those_that_the_control_groups_have_time_for(
    groups: Path, inner: str, outer: str, expected: int
) -> None:
    (groups / "a" / "b" / "cpu.max").write_text(f"{inner}\n")
    (groups / "a" / "cpu.max").write_text(f"{outer}\n")
    assert usable_cores() == expected


def test_control_groups_of_version_1_count_too(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "self").write_text("9:name=systemd:/\n4:cpu,cpuacct:/c\n3:memory:/m\n0::/\n")
    for name in ("cpu/c", "memory/m"):
        (groups / name).mkdir(parents=True)
    (groups / "cpu" / "c" / "cpu.cfs_quota_us").write_text("400000\n")
    (groups / "cpu" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    (groups / "memory" / "m" / "memory.limit_in_bytes").write_text("1048576\n")
    assert usable_cores() == 4
    assert usable_memory() == 1 << 20
    (groups / "cpu" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores() == 8


def test_memory_is_what_the_tightest_control_group_has(groups: Path) -> None:
    whole = usable_memory()
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    assert usable_memory() == whole
    (groups / "a" / "memory.max").write_text("3000000\n")
    assert usable_memory() == 3_000_000
    (groups / "a" / "b" / "memory.max").write_text("2000000\n")
    assert usable_memory() == 2_000_000


def test_a_limit_on_addresses_limits_memory(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: (5_000_000, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert usable_memory() == 5_000_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a call of Linux")
def test_a_process_that_is_bound_to_one_core_uses_one() -> None:
    script = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from search.system.machine import usable_cores; print(usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
