"""Width profiles, the families they give rise to, and files that anyone can open."""

from copycat import families
from copycat.architecture import Architecture, load, read, save, verify
from copycat.build import build
from copycat.builder import Builder
from copycat.families.width_series import rescale, uniform_profile
from copycat.input_shape import InputForm, InputShape, TensorForm, input_shape_of
from copycat.latency import Latency, measured_latency
from copycat.profile_chart import text_chart
from copycat.recipes import Recipe, recorded
from copycat.width_profile import WidthProfile

__all__ = [
    "Architecture",
    "Builder",
    "InputForm",
    "InputShape",
    "Latency",
    "Recipe",
    "TensorForm",
    "WidthProfile",
    "build",
    "families",
    "input_shape_of",
    "load",
    "measured_latency",
    "read",
    "recorded",
    "rescale",
    "save",
    "text_chart",
    "uniform_profile",
    "verify",
]
