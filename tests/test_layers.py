"""Who may import whom, among the packages and inside each of them."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "pruning": {"torch", "numpy", "fvcore"},
    "copycat": {
        *("torch", "numpy", "safetensors", "pruning", "matplotlib"),
        *("onnx", "onnxruntime", "onnxscript"),
    },
    "mlflow_server": {"mlflow", "click", "sqlalchemy"},
}
"""Beside themselves and the standard library. `search` may import anything.

onnx, onnxruntime and onnxscript are optional: a function of copycat.export imports them, to
write an ONNX file and to check it; another of copycat.profile_chart imports matplotlib. sqlalchemy
comes with mlflow, which needs it for any database.
"""


@functools.cache
def imported_names(file: Path) -> tuple[str, ...]:
    """Every "module" and "module.name" that `file` imports when it runs, lazily or not."""
    return tuple(_imported_names(file))


def _imported_names(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_modules":
            yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute in this project"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def files(package: str) -> dict[str, Path]:
    """Every module of `package` by its dotted name."""
    found = {}
    for file in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    assert found
    return found


PACKAGES = ("pruning", "copycat", "mlflow_server", "search")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package} | set(sys.stdlib_module_names)
    for name, file in files(package).items():
        roots = {imported.partition(".")[0] for imported in imported_names(file)}
        assert roots <= allowed, name


def test_few_files_import_ray() -> None:
    importers = [
        name
        for package in PACKAGES
        for name, file in files(package).items()
        if any(imported.partition(".")[0] == "ray" for imported in imported_names(file))
    ]
    names = ("ray_executor", "ray_node", "ray_processes")
    assert importers == [f"search.scheduling.{name}" for name in names]


def test_private_names_of_others_are_imported_in_one_place_each() -> None:
    importers = {
        name
        for package in PACKAGES
        for name, file in files(package).items()
        for imported in imported_names(file)
        if any(part.startswith("_") and part != "__future__" for part in imported.split("."))
    }
    assert importers == {"pruning.networks.torch_interior", "search.scheduling.ray_executor"}


ROOMS = {
    "copycat": (
        *("width_profile", "builder", "input_shape", "recipes", "build", "latency", "export"),
        "profile_chart",
        *("families", "architecture", "python_source"),
    ),
    "pruning": (
        *(
            "errors",
            "lazy_imports",
            "einsum_products",
            "networks",
            "cost",
            "fvcore_count",
            "rules",
            "graph",
            "unit_costs",
            "ranking",
            "restrictions",
            "selection",
        ),
        *("tracer", "layer_sizes", "surgery", "optimizer_state", "rehearsal", "tracing", "gates"),
        *("structure_removal", "scale_flow", "trained_scales", "sigmoid_batchnorm"),
        *("regularizers", "scaling_factors", "criteria"),
        *("optimizer_groups", "one_shot", "iterative"),
    ),
    "search": (
        *(
            "system",
            "terminal",
            "storage",
            "config",
            "data",
            "models",
            "tasks",
            "training",
            "trials",
        ),
        *("results", "tracking", "scheduling", "studies", "experiments"),
        *("server_events", "client", "service", "diagnosis"),
        *("commands", "cli"),
    ),
    "search.service": (
        *("service_config", "throttled_log", "problem_details", "runs_folder", "database"),
        *("schemas", "access", "torch_worker", "mlflow", "queue", "api", "server"),
    ),
}
"""Folders, and files beside them, from the lowest up: each may import those before it."""


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_a_higher_one(package: str) -> None:
    rank = {room: position for position, room in enumerate(ROOMS[package])}
    prefix = f"{package}."
    rooms = {
        name: name.removeprefix(prefix).split(".")[0]
        for name in files(package)
        if name.startswith(prefix)
    }
    assert set(rooms.values()) == set(rank)
    climbs = [
        (name, imported)
        for name, room in rooms.items()
        for imported in imported_names(files(package)[name])
        if imported in rooms and rank[rooms[imported]] > rank[room]
    ]
    assert climbs == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_says_what_it_is_for(package: str) -> None:
    for name, file in files(package).items():
        if file.name == "__init__.py":
            assert ast.get_docstring(ast.parse(file.read_text())), name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_inside_a_package_points_upwards(package: str) -> None:
    """The files can be listed so that each imports only those above it in the list."""
    modules = files(package)
    imports = {
        name: {i for i in imported_names(file) if i in modules and i != name}
        for name, file in modules.items()
    }
    # `from package import module` needs the module, not what package/__init__.py gathers
    for name, needed in imports.items():
        parents = {i for i in needed if any(other.startswith(f"{i}.") for other in needed)}
        imports[name] = needed - parents
    order = list(graphlib.TopologicalSorter(imports).static_order())
    assert set(order) == set(modules)


def imported_by(statement: str, *, among: Sequence[str]) -> list[str]:
    """Which of these modules a new interpreter has imported after the statement."""
    script = f"import sys\n{statement}\nprint(*(m for m in {list(among)!r} if m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, check=True, text=True
    )
    return result.stdout.split()


def test_pruning_and_copycat_need_neither_ray_nor_optuna_nor_mlflow() -> None:
    every_name = (
        "import pruning, copycat\n"
        "for package in (pruning, copycat):\n"
        "    for name in package.__all__: getattr(package, name)"
    )
    others = ("ray", "optuna", "mlflow", "torchvision", "search", "mlflow_server", "matplotlib")
    others += ("onnxruntime", "onnx", "onnxscript")
    assert imported_by(every_name, among=("torch", *others)) == ["torch"]


def test_studies_import_ray_and_scipy_when_they_need_them() -> None:
    """Not before a study has a job for a worker; one that is refused, or is over, has none."""
    every_study = "from search.studies import search_study, family_study, correlation_study"
    assert imported_by(every_study, among=("torch", "ray", "scipy.stats")) == ["torch"]


HELP = (
    "import contextlib, io, sys\nfrom search.cli import main\n"
    "sys.argv = 'espalier {} --help'.split()\n"
    "with contextlib.redirect_stdout(io.StringIO()): main()"
)


COMPLETION = (
    "from click.shell_completion import ShellComplete as S\nfrom search.cli import cli\n"
    "c = S(cli, {}, 'espalier', 'E')\nfor name in ('model', 'criterion', 'recipe'):\n"
    "    assert c.get_completions(['search', f'--{name}'], '')"
)


@pytest.mark.parametrize(
    "statement",
    [
        "import pruning.errors, pruning.cost",
        "import search.tracking.search_state, search.storage.atomic_files",
        "import search.service.server, search.service.torch_worker.tasks",
        "import search.cli as c; [c.cli.get_command(None, name) for name in c.SUMMARIES]",
        "from search import Client",
        COMPLETION,
        HELP.format(""),
        *(HELP.format(command) for command in ("search", "family", "correlate", "serve")),
    ],
)
def test_what_waits_or_asks_does_without_the_heavy_packages(statement: str) -> None:
    heavy = ("torch", "torchvision", "ray", "optuna", "mlflow", "sklearn", "matplotlib")
    assert imported_by(statement, among=heavy) == []
