"""States of jobs on disk: what survives, what is passed over, and when a job is given up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from samples import another_process
from torch import Tensor

from pruning.errors import DiskFullError, JobGivenUpError
from search.storage import atomic_files
from search.storage.atomic_files import disk_full_as_error, is_disk_full, write_durably
from search.training import checkpoints
from search.training.checkpoints import Attempts, Checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs" / "fine-tuned-3"


@pytest.fixture
def states(folder: Path) -> Checkpoints:
    return Checkpoints(folder)


def files(folder: Path) -> list[Path]:
    """Oldest first, whatever they are called."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def numbers(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[0]) for path in files(folder)]


# ---- what is stored


def test_a_state_is_read_back_as_it_was(states: Checkpoints):
    state = {
        "number": 3,
        "loss": 0.1 + 0.2,
        "nothing": None,
        "is_done": False,
        "stage": "fine-tuning",
        "records": [{"step": 1, "sparsity": None}, {"step": 2, "sparsity": 0.5}],
        "tensors": {
            "float": torch.tensor([0.1, -0.0, float("nan"), float("inf")]),
            "half": torch.randn(3, generator=torch.Generator().manual_seed(1)).bfloat16(),
            "double": torch.tensor(1 / 3, dtype=torch.float64),
            "int": torch.arange(4),
            "empty": torch.zeros(0, 3),
        },
    }
    states.save(1, state)
    found = states.load()
    assert found is not None
    tensors, expected = found.pop("tensors"), state.pop("tensors")
    assert found == state
    assert isinstance(expected, dict)
    assert {name: bits(tensor) for name, tensor in tensors.items()} == {
        name: bits(tensor) for name, tensor in expected.items()
    }


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, bytes(tensor.flatten().view(torch.uint8).tolist())


def test_of_a_job_that_was_never_begun_there_is_nothing(states: Checkpoints, folder: Path):
    assert states.load() is None
    assert not states.exists
    assert not folder.exists()


def test_the_newest_two_are_kept_and_the_newest_is_read(states: Checkpoints, folder: Path):
    for number in (1, 2, 3, 99, 100):
        states.save(number, {"number": number})
        assert states.load() == {"number": number}
    assert numbers(folder) == [99, 100]


def test_a_settled_job_leaves_nothing(states: Checkpoints, folder: Path):
    states.save(1, {"number": 1})
    assert states.exists
    states.clear()
    assert not states.exists
    assert states.load() is None
    assert not folder.exists()
    states.clear()  # again is no error


def test_jobs_do_not_read_each_others_states(tmp_path: Path):
    one, two = Checkpoints(tmp_path / "one"), Checkpoints(tmp_path / "two")
    one.save(1, {"of": "one"})
    assert two.load() is None
    two.save(1, {"of": "two"})
    one.clear()
    assert two.load() == {"of": "two"}


# ---- damage


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def lengthened(file: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes(8))


Damage = Callable[[Path], None]
DAMAGES = [torn, flipped, emptied, lengthened]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over_for_the_one_before(
    states: Checkpoints, folder: Path, damage: Damage
):
    for number in (1, 2):
        states.save(number, {"number": number, "weights": torch.full((50,), float(number))})
    damage(files(folder)[-1])
    found = states.load()
    assert found is not None
    assert found["number"] == 1
    assert torch.equal(found["weights"], torch.ones(50))
    states.save(2, {"number": 2})  # done again, it takes the place of the damaged one
    assert states.load() == {"number": 2}


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_all_are_damaged_the_job_begins_anew(
    states: Checkpoints, folder: Path, damage: Damage
):
    for number in (1, 2):
        states.save(number, {"number": number})
    for file in files(folder):
        damage(file)
    assert states.load() is None


def test_a_file_that_was_never_finished_is_no_state(states: Checkpoints, folder: Path):
    states.save(1, {"number": 1})
    (whole,) = files(folder)
    (folder / ".00000002-0000000000000000.pt.part").write_bytes(whole.read_bytes())
    assert states.load() == {"number": 1}


def test_a_state_runs_no_code(states: Checkpoints, folder: Path):
    """Whatever is in the folder: only tensors, numbers, strings and their containers are read."""
    states.save(1, {"path": Path("x")})
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        states.load()


# ---- a full disk


@pytest.fixture(params=["open", "write", "fsync", "replace"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Fills the disk, which is noticed at one of the steps of writing a file."""

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        if request.param == "open":
            monkeypatch.setattr(Path, "open", no_room)
        elif request.param == "write":
            opened = Path.open

            def open_full(self: Path, *arguments: str) -> object:
                stream = opened(self, *arguments)
                stream.write(b"the beginning")
                stream.close()
                return opened(Path("/dev/full"), "wb")

            monkeypatch.setattr(Path, "open", open_full)
        else:
            monkeypatch.setattr(atomic_files.os, request.param, no_room)

    return fill


def test_on_a_full_disk_the_old_states_stay_and_nothing_half_written_does(
    states: Checkpoints, folder: Path, full_disk: Callable[[], None], monkeypatch
):
    for number in (1, 2):
        states.save(number, {"number": number})
    before = {file.name: file.read_bytes() for file in files(folder)}
    full_disk()
    with pytest.raises(DiskFullError, match=rf"the disk of {folder} is full: make room, then run"):
        states.save(3, {"number": 3})
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in files(folder)} == before
    assert states.load() == {"number": 2}
    states.save(3, {"number": 3})  # once there is room
    assert states.load() == {"number": 3}


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, full_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "spent.json"
    write_durably(file, b"old")
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        write_durably(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert files(tmp_path) == [file]
    write_durably(file, b"new")
    assert file.read_bytes() == b"new"


def test_other_errors_are_no_full_disk(states: Checkpoints, folder: Path):
    folder.parent.mkdir()
    folder.write_text("a file in the way")
    with pytest.raises(FileExistsError):
        states.save(1, {})


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "no room"), True),
        (OSError(errno.EDQUOT, "over quota"), True),
        (OSError(errno.EACCES, "not yours"), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("os error 2"), False),
        (chained(RuntimeError("cannot be saved"), OSError(errno.ENOSPC, "no room")), True),
        (chained(RuntimeError("cannot be saved"), OSError(errno.EIO, "broken")), False),
    ],
    ids=str,
)
def test_a_full_disk_is_recognised_however_it_is_told(
    tmp_path: Path, error: Exception, expected: bool
):
    assert is_disk_full(error) == expected
    wanted = DiskFullError if expected else type(error)
    with pytest.raises(wanted) as caught, disk_full_as_error(tmp_path):
        raise error
    assert (caught.value is error) != expected


# ---- attempts


def test_three_attempts_at_one_epoch_are_enough(folder: Path):
    """Each by a process of its own, which finds on disk what those before it did."""
    for _ in range(3):
        Attempts(folder).begin(4)
    for _ in range(2):
        with pytest.raises(JobGivenUpError, match=r"^its worker process died, 3 times in epoch 5$"):
            Attempts(folder).begin(4)


def test_progress_counts_from_the_beginning(folder: Path):
    for step in (0, 0, 1, 1, 2, 2, 2, 3, 3, 3):
        Attempts(folder).begin(step)
    with pytest.raises(JobGivenUpError, match="3 times in epoch 4"):
        Attempts(folder).begin(3)


def test_a_job_that_loses_a_damaged_state_goes_back_without_being_given_up(folder: Path):
    for step in (4, 4, 4, 3, 3, 3):
        Attempts(folder).begin(step)
    with pytest.raises(JobGivenUpError, match="3 times in epoch 4"):
        Attempts(folder).begin(3)


def test_a_search_that_was_stopped_itself_starts_counting_anew(folder: Path):
    for _ in range(3):
        Attempts(folder).begin(0)
    Attempts(folder).forget()
    for _ in range(3):
        Attempts(folder).begin(0)
    with pytest.raises(JobGivenUpError):
        Attempts(folder).begin(0)


def test_last_words_are_the_reason(folder: Path):
    for _ in range(3):
        Attempts(folder).begin(0)
    Attempts(folder).say("no epoch ended within 30 s")
    with pytest.raises(JobGivenUpError, match=r"^no epoch ended within 30 s, 3 times in epoch 1$"):
        Attempts(folder).begin(0)


@pytest.mark.parametrize("content", ["", "[]", "3", '{"step": 1}', '{"step": null, "count": 2}'])
def test_a_damaged_count_is_none(folder: Path, content: str):
    Attempts(folder).begin(0)
    (file,) = files(folder)
    file.write_text(content)
    for _ in range(3):
        Attempts(folder).begin(1)
    with pytest.raises(JobGivenUpError, match="3 times in epoch 2"):
        Attempts(folder).begin(1)


def test_last_words_are_those_of_the_last_attempt(folder: Path):
    Attempts(folder).begin(0)
    Attempts(folder).say("CUDA error: device-side assert triggered")
    for _ in range(2):
        Attempts(folder).begin(0)
    with pytest.raises(JobGivenUpError, match=r"^its worker process died, 3 times"):
        Attempts(folder).begin(0)


def test_attempts_are_no_states_and_are_cleared_with_them(states: Checkpoints, folder: Path):
    states.attempts.begin(0)
    states.attempts.say("no luck")
    assert states.exists
    assert states.load() is None
    states.clear()
    assert not folder.exists()


# ---- one process at a time

HOLD = """
import sys
from pathlib import Path
from search.training.checkpoints import Checkpoints

with Checkpoints(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(folder: Path):
    """Another process that works on the job."""
    with another_process(HOLD, folder) as process:
        yield process


def test_another_process_is_kept_out_until_the_first_one_dies(
    states: Checkpoints, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoints, "_LOCK_SECONDS", 0.3)
    entered = []
    with (
        pytest.raises(JobGivenUpError, match="another process works on fine-tuned-3"),
        states.locked(),
    ):
        entered.append("while it was held")
    assert entered == []
    holder.kill()
    holder.wait()
    with states.locked():
        entered.append("after its death")
    assert entered == ["after its death"]


def test_one_waits_for_a_process_that_is_about_to_end(
    states: Checkpoints, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
):
    naps: list[float] = []

    def let_go(seconds: float) -> None:
        naps.append(seconds)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(checkpoints.time, "sleep", let_go)
    with states.locked():
        assert len(naps) == 1


def test_a_lock_is_let_go_also_after_an_error(states: Checkpoints):
    with pytest.raises(KeyboardInterrupt), states.locked():
        raise KeyboardInterrupt
    with states.locked():
        pass
