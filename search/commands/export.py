"""`espalier export`: an architecture to take along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruning.errors import ArchitectureError
from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS, TRUST
from search.commands.completions import stored_networks
from search.commands.flags import refuse_without_effect
from search.commands.search_location import StoredNetwork
from search.commands.server_or_folder import location_of

if TYPE_CHECKING:
    from copycat import export as exports
    from copycat.architecture import trust as architecture_trust
else:
    architecture_trust, exports = lazy_modules("copycat.architecture.trust", "copycat.export")

_FORMATS = ("safetensors", "onnx", "pt2")


@click.command()
@click.argument("architecture", metavar="ARCH", shell_complete=stored_networks)
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
@TRUST
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
    if not register:
        refuse_without_effect(("alias", "mlflow_url"), "without --register")
    if out is None:
        refuse_without_effect(("form",), "without --out")
    location = location_of(runs)
    if out is not None and form not in location.forms:
        raise click.UsageError(
            f"a server writes {' or '.join(location.forms)}, not {form}: take the folder, then "
            f"`espalier export FOLDER --format {form}` here"
        )
    if register and location.refusal_to_register:
        raise click.UsageError(location.refusal_to_register)
    network = location.network(architecture, trust)
    for target, option in ((out, "--out"), (as_python, "--as-python")):
        if target and Path(target).exists():
            raise ArchitectureError(f"{target} already exists: choose another {option}")
    network.check()
    text = network.source_code() if as_python else ""
    if out:
        network.write(form, Path(out))
        click.echo(f"{out} holds {architecture}; in Python: {_use(network, out, form)}")
    if as_python:
        with exports.written_whole(as_python) as temporary:
            temporary.write_text(text, encoding="utf-8")
        is_beside = out is not None and form == "safetensors"
        weights = Path(out or "") / "weights.safetensors" if is_beside else network.weights
        click.echo(f"{as_python} makes the network of {architecture}; its weights: {weights}")
    if register:
        click.echo(f"registered {network.register(register, alias, mlflow_url)}")


def _use(network: StoredNetwork, out: str, form: str) -> str:
    """How the network is opened again."""
    if form == "onnx":
        return f"onnxruntime.InferenceSession({out!r})"
    if form == "pt2":
        return f"torch.export.load({out!r}).module()"
    module = network.builder
    trust = "" if architecture_trust.is_trusted_by_default(module) else f", trust=[{module!r}]"
    return f"copycat.load({out!r}{trust})"
