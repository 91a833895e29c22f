"""`espalier` as a program whose searches perform their jobs themselves, see samples.Workers.

So do the searches that its services start: `python without_ray.py serve …`. Each takes less
processor time. Services start searches with Ray in test_kills.py, test_guarded.py and
test_shutdown.py, Ray jobs in test_ray_job_launcher.py.
"""

from __future__ import annotations

import sys
from unittest import mock

from search.cli import main
from search.service.queue.launcher import resume_arguments

_LAUNCHER = "search.service.queue.subprocess_launcher.resume_arguments"


def by_this_program(*of_the_search: object) -> list[str]:
    """The arguments of a search's process, with this file in place of `-m search.cli`."""
    _, _, *arguments = resume_arguments(*of_the_search)  # type: ignore[arg-type]
    return [__file__, *arguments]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        with mock.patch(_LAUNCHER, by_this_program):
            main()
    else:
        import pytest
        from samples import Workers

        with pytest.MonkeyPatch.context() as patch:
            Workers().take_over(patch, draws=True)
            main()
