"""`espalier export`: an architecture to take along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruning.errors import ArchitectureError
from search.commands.stored import RUNS, stored_architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

_FORMATS = ("safetensors", "onnx", "pt2")


@click.command()
@click.argument("architecture", metavar="ARCH")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default=_FORMATS[0],
    show_default=True,
    help="safetensors: a folder of two files; onnx, pt2: one file",
)
@click.option("--out", type=click.Path(), help="folder or file to write; must not exist")
@click.option("--as-python", type=click.Path(), help="Python module to write; must not exist")
@click.option("--register", help="name under which MLflow's registry takes it; ARCH is SEARCH/NAME")
@click.option("--alias", default="best", show_default=True, help="alias there, with --register")
@click.option("--mlflow-url", default="", help="server that the search logged to, if it did")
@click.option("--trust", multiple=True, help="module whose builder may run, for a folder's network")
@RUNS
def export(
    architecture: str,
    *,
    form: str,
    out: str | None,
    as_python: str | None,
    register: str | None,
    alias: str,
    mlflow_url: str,
    trust: tuple[str, ...],
    runs: str,
) -> None:
    """Write ARCH, SEARCH/NAME or a folder, as architecture.json and weights.safetensors.

    Or as one file for other programs, or as the source of a Python module that makes the
    network with torch alone.
    """
    if out is None and as_python is None and not register:
        raise click.UsageError("Missing option '--out', '--as-python' or '--register'")
    if out is not None and out == as_python:
        raise click.UsageError(f"--out and --as-python are both {out}: choose two names")
    from copycat.architecture import load, read, verify  # noqa: PLC0415 - startup stays light
    from copycat.export import written_whole  # noqa: PLC0415
    from copycat.python_module import to_python  # noqa: PLC0415

    source, trusted = Path(architecture), trust
    if not (source / "architecture.json").exists():
        source = stored_architecture(architecture, runs)
        trusted = (*trust, *read(source).builder.modules)  # its search has run it before
    for target in filter(None, (out, as_python)):
        if Path(target).exists():
            option = "--out" if target == out else "--as-python"
            raise ArchitectureError(f"{target} already exists: choose another {option}")
    stored = verify(source, trust=trusted)
    text = to_python(stored, load(source, trust=trusted)) if as_python else ""
    if out:
        _write(source, Path(out), form, trusted)
        click.echo(f"{out} holds {architecture}; in Python: {_use(source, out, form)}")
    if as_python:
        with written_whole(as_python) as temporary:
            temporary.write_text(text, encoding="utf-8")
        click.echo(
            f"{as_python} makes the network of {architecture}; "
            f"its weights: {source / 'weights.safetensors'}"
        )
    if register:
        click.echo(f"registered {_registered(source, register, alias, mlflow_url)}")


def _registered(source: Path, name: str, alias: str, mlflow_url: str) -> str:
    from search.config import SearchConfig  # noqa: PLC0415 - startup stays light
    from search.registration import register_one  # noqa: PLC0415

    search = source.resolve().parent.parent
    config = SearchConfig(name=search.name, runs=str(search.parent), mlflow_url=mlflow_url)
    return register_one(config, source.name, name, alias).uri


def _write(source: Path, target: Path, form: str, trust: tuple[str, ...]) -> None:
    from copycat.architecture import load, read  # noqa: PLC0415 - startup stays light
    from copycat.export import to_onnx, to_pt2, written_whole  # noqa: PLC0415

    if form == "safetensors":
        with written_whole(target) as temporary:
            temporary.mkdir()
            for name in ("architecture.json", "weights.safetensors"):
                shutil.copyfile(source / name, temporary / name)
        return
    writers: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
        "onnx": to_onnx,
        "pt2": to_pt2,
    }
    writers[form](load(source, trust=trust), read(source).example_input, target)


def _use(source: Path, out: str, form: str) -> str:
    """How the network is opened again."""
    if form == "onnx":
        return f"onnxruntime.InferenceSession({out!r})"
    if form == "pt2":
        return f"torch.export.load({out!r}).module()"
    from copycat.architecture import TRUSTED_BUILDERS, read  # noqa: PLC0415 - startup stays light

    module = read(source).builder.module
    by_default = any(
        module == known or module.startswith(f"{known}.") for known in TRUSTED_BUILDERS
    )
    return f"copycat.load({out!r}{'' if by_default else f', trust=[{module!r}]'})"
