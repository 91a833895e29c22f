"""The processes of a job on several GPUs, as actors of Ray: the first, the trial's, leads them.

Ray Train would begin them all, and the first one again, outside of what Tune has set aside for the
trial, and have them report together. Here a trial is one process as any other, which alone
reports, stores, prunes and is watched, and which has others take steps with it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.scheduling.ray_environment import missing_variables

os.environ.update(missing_variables())

import ray
import torch
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pruning.errors import EspalierError, ModelError, first_line
from search.system.accelerator_faults import poisoning
from search.system.memory_limit import memory_limited
from search.training.checkpoints import Attempts
from search.training.data_parallel import Ranks, joined
from search.training.following import Follower
from search.trials.job_context import JobContext

_GRACE_SECONDS = 10.0
"""For which a process may go on after another of its job has failed, to tell of it itself."""


@dataclass(frozen=True)
class Shared:
    """What workers fetch from Ray's store, the context and the data, and what each may use.

    gpus: of a job, a share of one or several.
    threads: of each process, of which a job has `num_processes`.
    """

    references: list[Any]
    threads: int
    gpus: float = 0.0
    num_processes: int = 1


def require_sendable(context: JobContext) -> None:
    """ModelError for a network that cannot be sent to the other processes of a job."""
    try:
        ray.cloudpickle.dumps(context.first_network(0))
    except Exception as error:  # whatever people's own classes hold
        raise ModelError(
            f"{context.config.model} cannot be sent to another process, as training on several "
            f"GPUs needs: {first_line(error)}; use --gpus-per-trial 1"
        ) from error


@contextmanager
def in_processes(context: JobContext, shared: Shared, attempts: Attempts) -> Iterator[JobContext]:
    """The context with all processes of a job, of which this is the first, inside the block.

    attempts: of the job, which learn why the process ends because of another.
    """
    if shared.num_processes == 1:
        yield context
        return
    followers = _begun(shared)
    try:
        others, size = _Followers(followers, attempts), shared.num_processes
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder, ExitStack() as stack:
            meeting = Path(folder) / "meeting"
            with others.at_work("join", meeting):
                stack.enter_context(joined(0, size, meeting, context.torch_device))
            yield replace(context, ranks=Ranks(0, size, others))
    finally:
        for follower in followers:
            ray.kill(follower)


def _begun(shared: Shared) -> list[Any]:
    """All processes but the first, once they are there, each on a GPU of what Tune set aside."""
    group = get_current_placement_group()
    followers = [
        ray.remote(_FollowerProcess)
        .options(
            num_cpus=group.bundle_specs[rank].get("CPU", 0),
            num_gpus=1,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
        )
        .remote(rank, shared)
        for rank in range(1, shared.num_processes)
    ]
    ray.get([follower.ready.remote() for follower in followers])
    return followers


class _FollowerProcess:
    """Any process of a job but the first."""

    def __init__(self, rank: int, shared: Shared) -> None:
        torch.set_num_threads(shared.threads)
        context, data = ray.get(shared.references)
        self._device, self._ranks = context.torch_device, Ranks(rank, shared.num_processes)
        self._follower, self._stack = Follower(self._ranks, data), ExitStack()
        self._stack.enter_context(memory_limited(context.config.resources.memory_gb))

    def ready(self) -> None:
        """Return once the process is there."""

    def join(self, meeting: Path) -> None:
        """Meet the other processes, for good."""
        ranks = self._ranks
        self._stack.enter_context(joined(ranks.rank, ranks.size, meeting, self._device))

    def begin(self, training: dict[str, Any]) -> None:
        """See `Follower`."""
        self._follower.begin(training)

    def epoch(self, number: int) -> None:
        """See `Follower`."""
        self._follower.epoch(number)


class _Followers:
    """Leads the other processes of a job; this one ends if one of them is lost.

    Ray then has all of them begin anew, and tries the job again from its checkpoint.
    """

    def __init__(self, followers: Sequence[Any], attempts: Attempts) -> None:
        self._followers, self._attempts = followers, attempts

    def begin(self, training: Mapping[str, Any]) -> None:
        """See `Others`."""
        sent = ray.put(dict(training))
        ray.get([follower.begin.remote(sent) for follower in self._followers])

    def epoch(self, number: int) -> AbstractContextManager[None]:
        """See `Others`."""
        return self.at_work("epoch", number)

    @contextmanager
    def at_work(self, method: str, *arguments: Any) -> Iterator[None]:
        """While this process does inside the block what is its part, the others do theirs."""
        answers = [getattr(each, method).remote(*arguments) for each in self._followers]
        is_over = threading.Event()
        threading.Thread(target=self._watch, args=(answers, is_over), daemon=True).start()
        try:
            yield
        except EspalierError:
            raise  # it is of the training, and all processes raise it
        except Exception:
            done, _ = ray.wait(answers, num_returns=1, timeout=_GRACE_SECONDS)
            self._end_if_failed(done)  # a connection that is gone says nothing of why
            raise
        else:
            self._end_if_failed(answers)
        finally:
            is_over.set()

    def _watch(self, answers: list[Any], is_over: threading.Event) -> None:
        """A process that has left the others would be waited for, for ever."""
        waiting = answers
        while waiting and not is_over.is_set():
            done, waiting = ray.wait(waiting, timeout=1.0)
            if any(map(_failure, done)) and not is_over.wait(_GRACE_SECONDS):
                self._end_if_failed(done)

    def _end_if_failed(self, answers: Sequence[Any]) -> None:
        if words := next(filter(None, map(_failure, answers)), ""):
            self._attempts.say(words)
            os._exit(1)


def _failure(answer: Any) -> str:
    """Why a process has not done what it was to do, in one line; empty if it has."""
    try:
        ray.get(answer)
    except ray.exceptions.RayActorError:
        return "one of its processes died"
    except Exception as error:
        cause = getattr(error, "cause", None) or error
        return poisoning(cause) or f"{type(cause).__name__}: {first_line(cause)}"
    return ""
