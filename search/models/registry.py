"""From a name on the command line to a network: the zoo, torchvision, or the user's own code.

Three spellings are understood:
    resnet56, wrn-40-2            a network of this package (the zoo)
    torchvision:mobilenet_v2      any classifier of torchvision, without pretrained weights
    my_module:make_net            a callable of the user's that returns a torch.nn.Module
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from copycat.architecture.trust import is_within
from copycat.builder import Builder
from pruning.errors import ModelError
from pruning.lazy_imports import lazy_modules
from pruning.networks.nested_tensors import tensors_in
from search.data.data import Sample

if TYPE_CHECKING:
    from torchvision import models as torchvision_models
else:
    (torchvision_models,) = lazy_modules("torchvision.models")

_ZOO: dict[str, tuple[str, dict[str, object]]] = {
    "vgg16": ("vgg16", {}),
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (20, 32, 44, 56, 110)},
    "digits-vgg": ("digits_vgg", {}),
    "digits-resnet": ("resnet", {"depth": 14}),
}
"""The function and its arguments; those with a depth have shallower relatives (copycat.Depth)."""

_WIDE_RESNET = re.compile(r"wrn-(\d+)-(\d+)")
_WIDE_RESNET_EXAMPLES = ("wrn-16-4", "wrn-28-10", "wrn-40-1", "wrn-40-2", "wrn-40-4")
_TORCHVISION = "torchvision:"
_WITH_AUXILIARY_LOGITS = ("googlenet", "inception_v3")


def resolve(name: str, *, num_classes: int, in_channels: int) -> Builder:
    """The builder of the network called `name`, for so many classes and image channels.

    A callable of the user's gets `num_classes` and `in_channels` only if its signature names
    them. Raises ModelError for a name that means nothing, a module that cannot be imported,
    a missing or uncallable attribute, and a torchvision network asked to read anything but 3
    channels.
    """
    wide_resnet = _WIDE_RESNET.fullmatch(name)
    arguments: dict[str, object] = {"num_classes": num_classes, "in_channels": in_channels}
    if name in _ZOO:
        function, own = _ZOO[name]
        return Builder(f"search.models:{function}", own | arguments)
    if wide_resnet:
        depth, width = map(int, wide_resnet.groups())
        return Builder("search.models:wide_resnet", {"depth": depth, "width": width, **arguments})
    if name.startswith(_TORCHVISION):
        return _torchvision_source(name, num_classes, in_channels)
    if ":" in name:
        accepted = _parameter_names(Builder(name).function())
        return Builder(name, {key: arguments[key] for key in arguments if key in accepted})
    raise _unknown(name)


def builder_for(name: str, sample: Sample) -> Builder:
    """The builder of the network called `name` for such samples.

    The channels that it is asked to read are those of the first input.
    """
    first = next(tensors_in(sample.inputs))
    in_channels = first.shape[1] if first.ndim > 1 else 1
    return resolve(name, num_classes=len(sample.classes), in_channels=in_channels)


def own_module(name: str) -> str:
    """The module of the user's own that `name` would import; empty for the zoo and torchvision."""
    return "" if name.startswith(_TORCHVISION) or ":" not in name else name.partition(":")[0]


def require_trusted(
    name: str, trust: Sequence[str], origin: object, *, kind: str = "network"
) -> None:
    """ModelError if the network `name`, as `origin` has it, is code that nobody allowed by name.

    trust: modules, or callables as module:callable.  kind: what else it may be, in the message.
    """
    module = own_module(name)
    if module and name not in trust and not is_within(module, trust):
        raise ModelError(
            f"{origin} names the {kind} {name}, which is code: if it is yours, allow it by name: "
            f"--trust {module}"
        )


def required_channels(name: str) -> int | None:
    """How many image channels the network called `name` insists on; None if any will do.

    torchvision's classifiers read 3; grey images have to be repeated for them. Of a user's
    own callable nothing is known, so None.
    """
    return 3 if name.startswith(_TORCHVISION) else None


def names() -> tuple[str, ...]:
    """Every name that `resolve` knows: the zoo, some wide ResNets, torchvision's classifiers.

    Wide ResNets of other depths and widths (wrn-DEPTH-WIDTH) and the user's own
    module:callable are understood as well.
    """
    torchvision = (_TORCHVISION + name for name in _torchvision_names())
    return (*_ZOO, *_WIDE_RESNET_EXAMPLES, *torchvision)


def _torchvision_names() -> list[str]:
    return cast(list[str], torchvision_models.list_models(module=torchvision_models))


def _torchvision_source(name: str, num_classes: int, in_channels: int) -> Builder:
    bare = name.removeprefix(_TORCHVISION)
    if bare not in _torchvision_names():
        raise _unknown(name)
    if in_channels != 3:
        raise ModelError(f"{name} reads images of 3 channels, got {in_channels}")
    arguments: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if bare in _WITH_AUXILIARY_LOGITS:
        arguments |= {"aux_logits": False, "init_weights": True}
    return Builder(f"torchvision.models:{bare}", arguments)


def _unknown(name: str) -> ModelError:
    """An error that offers the nearest names, compared without the torchvision prefix."""
    spellings: dict[str, list[str]] = {}
    for known in names():
        spellings.setdefault(known.removeprefix(_TORCHVISION), []).append(known)
    close = difflib.get_close_matches(name.removeprefix(_TORCHVISION), spellings, n=4)
    offers = ", ".join(known for bare in close for known in spellings[bare])
    hint = f"did you mean {offers}?" if offers else f"the zoo has {', '.join(_ZOO)}, wrn-40-2;"
    return ModelError(
        f"no network is called {name!r}; {hint} torchvision:NAME and module:callable also work"
    )


def _parameter_names(make: Callable[..., object]) -> set[str]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return set()
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in by_keyword}
