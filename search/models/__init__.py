"""Networks to search from: a small zoo for small images, torchvision's, and the user's own.

Needs torch alone (torchvision only when one of its networks is asked for), so that an
exported architecture can be rebuilt without Ray, Optuna or MLflow.
"""

from search.models.digits import digits_resnet, digits_vgg
from search.models.lenet import lenet3
from search.models.mobilenet import mobilenetv2
from search.models.preactivation_resnet import preact_resnet18, wide_resnet
from search.models.registry import (
    builder_for,
    module_to_trust,
    names,
    own_module,
    require_trusted,
    required_channels,
    resolve,
)
from search.models.resnet import resnet, resnet20, resnet32, resnet44, resnet56, resnet110
from search.models.vgg import vgg16, vgg16_fc

__all__ = [
    "builder_for",
    "digits_resnet",
    "digits_vgg",
    "lenet3",
    "mobilenetv2",
    "module_to_trust",
    "names",
    "own_module",
    "preact_resnet18",
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
    "vgg16_fc",
    "wide_resnet",
]
