"""Times that were measured, and the file that keeps them."""

from __future__ import annotations

import functools
import json
import math
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_architectures import TRUST
from torch import nn
from torch.utils import benchmark

from copycat import Latency, measured_latency, verify
from copycat.latency import LATENCY_FILE, read_latencies, record_latency
from pruning.errors import ArchitectureError, ConfigError


class Clock:
    """What torch's Timer reads instead of the time: a busy machine cannot put it forward."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "Timer", functools.partial(benchmark.Timer, timer=CLOCK))


class Sleeping(nn.Module):
    """Takes so many milliseconds of the clock, and remembers how it was called."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms
        self.norm = nn.BatchNorm2d(3)
        self.calls: list[tuple[Any, ...]] = []
        Sleeping.latest = self

    latest: Sleeping

    def __deepcopy__(self, memo: object) -> Sleeping:
        return Sleeping(self.ms)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inference = torch.is_inference_mode_enabled()
        self.calls.append((tuple(x.shape), torch.get_num_threads(), self.training, inference))
        CLOCK.seconds += self.ms / 1000
        return self.norm(x)


def latency(**changes: Any) -> Latency:
    made = Latency(1.5, 0.1, 100, "cpu", 1, 1, "host", "Processor", "2.11.0")
    return replace(made, **changes)


def test_what_is_measured(clock: None) -> None:
    model, threads = Sleeping(4), torch.get_num_threads()
    found = measured_latency(
        model, torch.zeros(1, 3, 2, 2), device="cpu", batch=5, threads=2, seconds=0.1
    )
    assert found.median_ms == pytest.approx(4)
    assert found.iqr_ms == pytest.approx(0, abs=1e-9)
    assert (found.device, found.batch, found.threads) == ("cpu", 5, 2)
    assert found.machine == platform.node()
    assert found.processor
    assert found.torch_version == torch.__version__
    assert set(Sleeping.latest.calls) == {((5, 3, 2, 2), 2, False, True)}
    assert 2 <= found.num_runs <= len(Sleeping.latest.calls) - 3  # the warm-up does not count
    assert torch.get_num_threads() == threads


def test_more_work_takes_longer(clock: None) -> None:
    times = [
        measured_latency(Sleeping(ms), torch.zeros(1, 3, 2, 2), seconds=0.05).median_ms
        for ms in (2, 20)
    ]
    assert times == pytest.approx([2, 20])


def test_the_network_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    example = torch.ones(2, 3, 4, 4)
    measured_latency(model, example, batch=7, seconds=0.01)
    assert model.training
    assert model[0].num_batches_tracked == 0
    assert example.shape == (2, 3, 4, 4)


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        assert x.shape[0] == 3
        assert scale.dim() == 0
        return x * scale


def test_inputs_by_keyword() -> None:
    example = {"x": torch.zeros(1, 2), "scale": torch.tensor(2.0)}
    assert measured_latency(TwoInputs(), example, batch=3, seconds=0.01).num_runs > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"threads": -1}, "threads must be at least 1, got -1"),
        ({"seconds": 0.0}, "seconds must be a finite number above 0, got 0"),
        ({"seconds": math.nan}, "seconds must be a finite number above 0, got nan"),
        ({"seconds": math.inf}, "seconds must be a finite number above 0, got inf"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured_latency(Sleeping(0), torch.zeros(1, 3, 2, 2), **settings)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no CUDA device here"):
        measured_latency(Sleeping(0), torch.zeros(1, 3, 2, 2), device="cuda")


def test_a_network_that_cannot_run() -> None:
    message = "the network cannot run on cpu at batch 2: .*shape"
    with pytest.raises(ConfigError, match=message):
        measured_latency(Fixed(), torch.zeros(1, 4), batch=2)


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(1, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    model = nn.Conv2d(3, 8, 3)
    found = measured_latency(model, torch.zeros(1, 3, 32, 32), device="cuda", seconds=0.2)
    assert found.processor == torch.cuda.get_device_name()
    assert 0 < found.median_ms < 100
    assert model.weight.device.type == "cpu"


# The file.


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert read_latencies(tmp_path) == ()


def test_measurements_are_kept_and_replaced(tmp_path: Path) -> None:
    record_latency(tmp_path, latency())
    others = [
        latency(machine="other"),
        latency(processor="Other"),
        latency(device="cuda"),
        latency(batch=8),
        latency(threads=2),
    ]
    for other in others:
        record_latency(tmp_path, other)
    assert read_latencies(tmp_path) == (latency(), *others)
    again = latency(median_ms=9, torch_version="2.12.0", num_runs=3)
    record_latency(tmp_path, again)
    assert read_latencies(tmp_path) == (*others, again)
    assert [file.name for file in tmp_path.iterdir()] == [LATENCY_FILE]
    assert (tmp_path / LATENCY_FILE).stat().st_mode & 0o777 == 0o644


def test_verification_does_not_mind(copied: Path) -> None:
    record_latency(copied, latency())
    before = verify(copied, trust=TRUST)
    (copied / LATENCY_FILE).write_text("{")
    assert verify(copied, trust=TRUST) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format_version=2),
        lambda content: content.pop("measurements"),
        lambda content: content.update(measurements=3),
        lambda content: content.update(measurements=[[]]),
        lambda content: content["measurements"][0].pop("device"),
        lambda content: content["measurements"][0].update(color="red"),
        lambda content: content["measurements"][0].update(batch="1"),
        lambda content: content["measurements"][0].update(batch=True),
        lambda content: content["measurements"][0].update(batch=1.5),
        lambda content: content["measurements"][0].update(median_ms=None),
        lambda content: content["measurements"][0].update(machine=[]),
    ],
)
def test_a_damaged_file(tmp_path: Path, change: Any) -> None:
    """It is neither read nor written over."""
    record_latency(tmp_path, latency())
    content = json.loads((tmp_path / LATENCY_FILE).read_text())
    change(content)
    (tmp_path / LATENCY_FILE).write_text(json.dumps(content))
    for use in (read_latencies, lambda path: record_latency(path, latency())):
        with pytest.raises(ArchitectureError, match=r"latency\.json is damaged .*: delete it and"):
            use(tmp_path)
    assert json.loads((tmp_path / LATENCY_FILE).read_text()) == content


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"[" * 100_000])
def test_a_file_that_is_no_such_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / LATENCY_FILE).write_bytes(text)
    with pytest.raises(ArchitectureError, match=r"latency\.json is damaged"):
        read_latencies(tmp_path)


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_latency(tmp_path, latency())

    def refuse(*_: object) -> None:
        raise OSError("disk on fire")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refuse)
        with pytest.raises(ArchitectureError, match=r"cannot write .*: disk on fire"):
            record_latency(tmp_path, latency(batch=2))
    assert read_latencies(tmp_path) == (latency(),)
    assert [file.name for file in tmp_path.iterdir()] == [LATENCY_FILE]
    with pytest.raises(ArchitectureError, match=r"cannot write"):
        record_latency(tmp_path / "missing", latency())
