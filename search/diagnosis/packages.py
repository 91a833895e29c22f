"""Versions of Python and of packages, against those that Espalier asks for."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pruning.errors import first_line
from search.diagnosis.finding import Finding

_NAMED = ("torch", "torchvision", "ray", "optuna", "mlflow", "fvcore")
"""Packages whose versions are of interest also where nothing is wrong with them."""

_REINSTALL = "install it again: pip install --upgrade espalier (in a clone: make test)"


def check_packages() -> Iterator[Finding]:
    """Python, Espalier, each package that is missing or of another version, and the extras."""
    try:
        metadata = importlib.metadata.metadata("espalier")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "espalier", "not installed", "problem", "its files are used as they lie", _REINSTALL
        )
        return
    yield Finding("espalier", metadata["Version"])
    yield _python(metadata["Requires-Python"] or "")
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    always = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    yield from filter(None, map(_problem_with, always))
    named = [f"{name} {_version(name)}" for name in _NAMED if _version(name)]
    yield Finding("packages", ", ".join(named))
    for extra in metadata.get_all("Provides-Extra", []):
        yield from _extra(extra, [each for each in asked if each not in always])


def check_torch() -> Finding:
    """Whether torch and torchvision, which are built for each other, can be imported."""
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except Exception as error:  # what compiled parts raise that do not fit
        return Finding(
            "torch",
            f"torch {_version('torch')}, torchvision {_version('torchvision')}",
            "problem",
            f"they cannot be imported: {type(error).__name__}: {first_line(error)}",
            "install both from one source: pip install --force-reinstall torch torchvision",
        )
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    return Finding("torch", f"{torch.__version__}, built for {built_for}")


def _python(required: str) -> Finding:
    version = platform.python_version()
    if SpecifierSet(required).contains(version, prereleases=True):
        return Finding("python", f"{version} ({sys.executable})")
    return Finding(
        "python",
        version,
        "problem",
        f"Espalier needs Python {required}",
        "make an environment of a newer one: python3.12 -m venv …",
    )


def _problem_with(requirement: Requirement) -> Finding | None:
    version, lacking = _version(requirement.name), _lacking(requirement)
    if not lacking and requirement.specifier.contains(version, prereleases=True):
        return None
    found = f"{version}, without {', '.join(lacking)}" if lacking else version
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    wanted = f"{requirement.name}{extras}{requirement.specifier}"
    return Finding(
        requirement.name,
        found if version else "not installed",
        "problem",
        f"Espalier needs {wanted}",
        f"pip install '{wanted}'",
    )


def _lacking(requirement: Requirement) -> list[str]:
    """The packages that are not installed: itself, or those of its extras."""
    if not _version(requirement.name):
        return [requirement.name]
    names = []
    for text in importlib.metadata.requires(requirement.name) or []:
        part = Requirement(text)
        is_asked = part.marker is not None and any(
            part.marker.evaluate({"extra": extra}) for extra in requirement.extras
        )
        if is_asked and not _version(part.name):
            names.append(part.name)
    return names


def _extra(extra: str, optional: list[Requirement]) -> Iterator[Finding]:
    """Whether an extra is installed; a warning for what of it is of another version."""
    ours = [each for each in optional if each.marker and each.marker.evaluate({"extra": extra})]
    if any(each.name == "espalier" for each in ours):  # the tools of those who work on it
        return
    missing = [name for each in ours for name in _lacking(each)]
    if missing:
        note = f"not installed ({', '.join(missing)}): pip install 'espalier[{extra}]'"
        yield Finding(f"extra {extra}", note)
        return
    wrong = [finding for finding in map(_problem_with, ours) if finding is not None]
    for each in wrong:
        yield Finding(f"extra {extra}", each.found, "warning", each.wrong, each.mend)
    if not wrong:
        versions = (f"{each.name} {_version(each.name)}" for each in ours)
        yield Finding(f"extra {extra}", ", ".join(versions))


def _version(package: str) -> str:
    """Of an installed package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
