"""Networks to search from: a small zoo for small images, torchvision's, and the user's own.

Needs torch alone (torchvision only when one of its networks is asked for), so that an
exported architecture can be rebuilt without Ray, Optuna or MLflow.
"""

from search.models.digits import digits_resnet, digits_vgg
from search.models.registry import (
    builder_for,
    names,
    own_module,
    require_trusted,
    required_channels,
    resolve,
)
from search.models.resnet import resnet, resnet20, resnet32, resnet44, resnet56, resnet110
from search.models.vgg import vgg16
from search.models.wide_resnet import wide_resnet

__all__ = [
    "builder_for",
    "digits_resnet",
    "digits_vgg",
    "names",
    "own_module",
    "require_trusted",
    "required_channels",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resolve",
    "vgg16",
    "wide_resnet",
]
