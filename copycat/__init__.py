"""Width profiles, the families they give rise to, and files that anyone can open."""

from copycat.architecture import Architecture, load, read, save, verify
from copycat.build import build
from copycat.builder import Builder
from copycat.recipes import Recipe, recorded
from copycat.rescale import rescale, uniform_profile
from copycat.width_profile import WidthProfile

__all__ = [
    "Architecture",
    "Builder",
    "Recipe",
    "WidthProfile",
    "build",
    "load",
    "read",
    "recorded",
    "rescale",
    "save",
    "uniform_profile",
    "verify",
]
