"""Along which axis channels go on when a reshape splits theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pruning.graph.call_sites import CallSites
from pruning.graph.channel_labels import Labels
from pruning.tracer.labelled_tensors import LabelledTensors
from pruning.tracer.trace_records import Course, Courses, Reshape, ReshapeKey


class Reshapes:
    """Decides it, by the courses given or else the usual way, and keeps what was decided.

    sites: tell which module runs.
    courses: by module and number of the reshape in a run, where it is not the usual way.
    present: what the present call decided, if anything.
    misled: those whose channels were then taken apart one by one, so that they go on otherwise.
    heads: the labels of axes of whole heads, by the module that divided channels into them.
    """

    def __init__(self, labelled: LabelledTensors, sites: CallSites, courses: Courses) -> None:
        self.present: Reshape | None = None
        self.misled: list[Reshape] = []
        self.heads: list[tuple[str, Labels]] = []
        self._decided: dict[bytes, tuple[Labels, Reshape]] = {}
        self.courses = courses
        self._labelled, self._sites = labelled, sites
        self._numbers: Counter[str] = Counter()

    def begin_run(self) -> None:
        """Another run of the network: its reshapes are numbered anew."""
        self._numbers.clear()

    def split_axis(self, sizes: tuple[int, ...], axes: Sequence[int], usual: int) -> int:
        """The axis, of `axes`, along which channels go on; see Tracing.reshapes.

        One axis if several were joined to it.
        """
        module = self._sites.module
        key = (module, self._numbers[module])
        self._numbers[module] += 1
        course = self.courses.get(key, Course(usual))
        if course.axis not in axes:
            course = Course(usual)
        self.present = Reshape(key, sizes, tuple(axes), course)
        return course.axis

    def went_on_along(self, labels: Labels) -> None:
        """Tie the labels of that axis to those whose number the network took for its size."""
        if self.present is not None and len(self.present.axes) > 1:
            self._decided[labels.tobytes()] = labels, self.present
        course = self.present.course if self.present else None
        if course is not None and course.of_heads:
            self.heads.append((self._sites.module, labels))
        if course is None or course.width_of is None:
            return
        slots = (s.labels for s in self._labelled.slots if (s.name, s.axis) == course.width_of)
        others = next(slots, labels[:0])
        if len(others) and len(others) % len(labels) == 0:
            channels = self._labelled.channels
            channels.tie(channels.tie_rows(others.reshape(-1, len(labels))), labels)

    def into_heads(self, contracted: Iterable[Labels]) -> dict[ReshapeKey, Course]:
        """Courses along whole heads, where channels went on as equal places of all heads.

        Of the modules that divide channels into heads and multiply two activations along what is
        in each. contracted: along which that was done.
        """
        multiplied = np.unique(np.concatenate([*contracted, np.zeros(0, np.int32)]))
        modules = {
            reshape.key[0]
            for labels, reshape in self._decided.values()
            if np.isin(labels, multiplied).any()
        }
        return {
            reshape.key: Course(reshape.axes[-2], of_heads=True)
            for _, reshape in self._decided.values()
            if reshape.key[0] in modules and reshape.course == Course(reshape.axes[-1])
        }

    def takes_apart(self, labels: Labels) -> None:
        """Note an axis of which the network takes single places; see Tracing.reshapes."""
        if (decided := self._decided.get(labels.tobytes())) is not None:
            self.misled.append(decided[1])
