"""A Ray of a process's own: kept beside it, begun ahead, shared, and gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ray import tune
from samples import quick_config

from pruning.errors import DataError, LostProcessError
from search.config.data_config import DataConfig
from search.scheduling import own_ray, ray_node
from search.scheduling.ray_executor import _ray
from search.scheduling.share import Share
from search.studies.search_study import run

ONE = Share(num_workers=1, cpus=1, gpus=0.0)

KEPT = """
import sys, time
from search.scheduling import own_ray
from search.scheduling.share import Share
with own_ray.one_ray():
    print(own_ray.own_ray(Share(1, 1, 0.0)).address(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def as_another_process() -> Iterator[None]:
    """Without the Ray that all tests of this process share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_ray, "_KEEPER", ContextVar("of a module of tests", default=None))
        yield


@pytest.fixture(scope="module")
def kept() -> Iterator[own_ray.OwnRay]:
    """A Ray with one worker, that everything in this file shares."""
    with own_ray.one_ray():
        yield own_ray.own_ray(ONE)


def idle_workers(kept: own_ray.OwnRay) -> list[psutil.Process]:
    return [p for p in children_of(psutil.Process(kept._process.pid)) if "ray::IDLE" in p.cmdline()]


def test_jobs_begin_in_workers_that_are_ready_and_as_nice_as_we_are(
    kept: own_ray.OwnRay, tmp_path: Path
):
    """At Ray's own niceness of 15 they starve beside any other program."""

    def job(config: dict[str, object]) -> None:
        modules = [n for n in ("torch._dynamo", "search.trials.trial") if n in sys.modules]
        tune.report({"pid": os.getpid(), "niceness": os.nice(0), "modules": modules})

    with _ray("", ONE, 0):
        deadline = time.monotonic() + 60
        while not (idle := idle_workers(kept)) and time.monotonic() < deadline:
            time.sleep(0.1)
        run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0)
        trainable = tune.with_resources(job, {"cpu": 1})
        (result,) = tune.Tuner(trainable, run_config=run_config).fit()
    assert result.metrics["pid"] in [process.pid for process in idle]
    assert result.metrics["niceness"] == os.nice(0)
    assert result.metrics["modules"] == ["torch._dynamo", "search.trials.trial"]


def test_it_goes_without_what_only_clusters_need(kept: own_ray.OwnRay):
    assert kept.address()
    everything = children_of(psutil.Process(kept._process.pid))
    programs = {Path(word).name for process in everything for word in process.cmdline()[:4]}
    assert "gcs_server" in programs
    assert programs.isdisjoint({"dashboard.py", "monitor.py", "log_monitor.py"})


def test_one_serves_all_that_fits_it(kept: own_ray.OwnRay, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(own_ray, "_starting", lambda *_: pytest.fail("it was started anew"))
    with own_ray.one_ray():
        assert own_ray.own_ray(ONE, kept.store_bytes) is kept
    assert own_ray.own_ray(ONE) is kept
    assert not kept.fits(Share(2, 1, 0.0), 0)
    assert not kept.fits(Share(1, 1, 1.0), 0)
    assert not kept.fits(ONE, kept.store_bytes + 1)
    monkeypatch.chdir(tmp_path)  # where relative paths would mean something else to its workers
    assert not kept.fits(ONE, 0)


def children_of(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_nothing_of_it_outlives_the_process_that_has_it(how: str):
    command = [sys.executable, "-c", KEPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        all_of_it = children_of(psutil.Process(process.pid))
        assert len(all_of_it) > 3
        process.kill() if how == "killed" else process.terminate()
    _, alive = psutil.wait_procs(all_of_it, timeout=60)
    assert alive == []


def test_why_it_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own_ray, "_STORE_BYTES", -(1 << 40))
    with (
        own_ray._starting(ONE, 1) as broken,
        pytest.raises(LostProcessError, match="Ray does not start here: ") as caught,
    ):
        broken.address()
    assert "\n" not in str(caught.value)


SLOW = "The current node timed out during startup. This could happen because of anything."


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [([SLOW] * 2, 3), ([SLOW] * 3, 3), (["no memory"], 1), ([SLOW, "no memory"], 2)],
)
def test_on_a_busy_machine_a_start_may_take_longer_than_ray_waits(
    monkeypatch: pytest.MonkeyPatch, errors: list[str], attempts: int
):
    """What an attempt has begun ends before the next."""
    steps: list[str] = []

    def init(**settings: object) -> SimpleNamespace:
        assert settings["num_cpus"] == 1
        steps.append("begun")
        if steps.count("begun") <= len(errors):
            raise RuntimeError(errors[steps.count("begun") - 1])
        return SimpleNamespace(address_info={"gcs_address": "127.0.0.1:1"})

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))  # type: ignore[arg-type]
    monkeypatch.setattr(ray_node, "_end_children", lambda: steps.append("ended"))
    succeeds = len(errors) < attempts
    with nullcontext() if succeeds else pytest.raises(RuntimeError, match=errors[-1]):
        assert ray_node._started({"num_cpus": 1}) == "127.0.0.1:1"
    assert steps == [*["begun", "ended"] * (attempts - 1), "begun"]


ENDING = """
import subprocess, sys
from search.scheduling import ray_node
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
ray_node._end_children()
print(child.wait())
"""


def test_children_of_an_attempt_end():
    command = [sys.executable, "-c", ENDING]
    assert subprocess.check_output(command, text=True, timeout=120) == "-9\n"


def test_bad_input_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It has begun to start when the data turns out to be bad, and is gone with the error."""
    begun: list[int] = []

    def begin(share: Share) -> None:
        begun.append(share.num_workers)
        own_ray.own_ray(share)

    monkeypatch.setattr(own_ray, "_KEEPER", ContextVar("of another process", default=None))
    monkeypatch.setattr(own_ray, "begin", begin)
    monkeypatch.setattr(own_ray.OwnRay, "address", lambda self: pytest.fail("it was waited for"))
    before = set(children_of(psutil.Process()))
    config = quick_config(tmp_path, data=DataConfig(source=f"csv:{tmp_path}/none.csv"))
    with pytest.raises(DataError, match=r"none\.csv"):
        run(config)
    assert begun == [2]
    _, alive = psutil.wait_procs(set(children_of(psutil.Process())) - before, timeout=60)
    assert alive == []
    assert [*tmp_path.iterdir()] == []
