"""From a name on the command line to a network: the zoo, torchvision, or the user's own code.

Four spellings are understood:
    resnet56, wrn-40-2            a network of this package (the zoo)
    torchvision:mobilenet_v2      any classifier or segmentation network of torchvision, without
                                  pretrained weights
    timm:resnet18                 any network of timm, if that is installed, without them either
    my_module:make_net            a callable of the user's that returns a torch.nn.Module
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from copycat.architecture.trust import check_no_download, is_trusted_by_default
from copycat.builder import Builder, not_installed
from pruning.errors import ArchitectureError, ModelError
from pruning.lazy_imports import lazy_modules
from pruning.networks.nested_tensors import tensors_in
from search.data.data import Sample
from search.data.trusted_code import require_trusted_code

if TYPE_CHECKING:
    import timm
    from torchvision import models as torchvision_models
else:
    torchvision_models, timm = lazy_modules("torchvision.models", "timm")

_ZOO: dict[str, tuple[str, dict[str, object]]] = {
    "vgg16": ("vgg16", {}),
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (20, 32, 44, 56, 110)},
    "vgg16-fc": ("vgg16_fc", {}),
    "lenet3": ("lenet3", {}),
    "preact-resnet18": ("preact_resnet18", {}),
    "mobilenetv2": ("mobilenetv2", {}),
    "digits-vgg": ("digits_vgg", {}),
    "digits-resnet": ("resnet", {"depth": 14}),
}
"""The function and its arguments; those with a depth have shallower relatives (copycat.Depth)."""

_WIDE_RESNET = re.compile(r"wrn-(\d+)-(\d+)")
_WIDE_RESNET_EXAMPLES = ("wrn-16-4", "wrn-28-10", "wrn-40-1", "wrn-40-2", "wrn-40-4")
_TORCHVISION = "torchvision:"
_TIMM = "timm:"
_WITH_AUXILIARY_LOGITS = ("googlenet", "inception_v3")
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def resolve(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    own: Mapping[str, object] | None = None,
) -> Builder:
    """The builder of the network called `name`, for so many classes and image channels.

    A callable of the user's gets `num_classes` and `in_channels` only if its signature names
    them. Raises ModelError for a name that means nothing, a module that cannot be imported,
    a missing or uncallable attribute, and a torchvision network asked to read anything but 3
    channels.
    own: further arguments, before all others; ModelError for one that the callable does not take,
        and for what would download weights.
    """
    builder = _builder(name, num_classes, in_channels)
    if not own:
        return builder
    _check_arguments(name, builder, own)
    builder = Builder(builder.target, {**builder.arguments, **own})
    try:
        check_no_download(name, builder)
    except ArchitectureError as error:
        raise ModelError(str(error)) from error
    return builder


def _builder(name: str, num_classes: int, in_channels: int) -> Builder:
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
    if name.startswith(_TIMM):
        return _timm_source(name, num_classes, in_channels)
    if ":" in name:
        accepted = _parameter_names(Builder(name).function())
        return Builder(name, {key: arguments[key] for key in arguments if key in accepted})
    raise _unknown(name)


def builder_for(name: str, sample: Sample, own: Mapping[str, object] | None = None) -> Builder:
    """The builder of the network called `name` for such samples.

    The channels that it is asked to read are those of the first input.
    own: as for `resolve`.
    """
    first = next(tensors_in(sample.inputs))
    in_channels = first.shape[1] if first.ndim > 1 else 1
    return resolve(name, num_classes=len(sample.classes), in_channels=in_channels, own=own)


def own_module(name: str) -> str:
    """The module of the user's own that `name` would import; empty for the zoo and libraries."""
    is_own = ":" in name and not name.startswith((_TORCHVISION, _TIMM))
    return name.partition(":")[0] if is_own else ""


def module_to_trust(name: str) -> str:
    """The module to be trusted before a stored network called `name` is built; empty for none."""
    module = own_module(name)
    return "" if is_trusted_by_default(module) else module


def require_trusted(name: str, trust: Sequence[str], origin: object) -> None:
    """ModelError if the network `name`, as `origin` has it, is code that nobody allowed by name.

    trust: modules, or callables as module:callable.
    """
    require_trusted_code(name, own_module(name), trust, f"{origin} names the network", ModelError)


def required_channels(name: str) -> int | None:
    """How many image channels the network called `name` insists on; None if any will do.

    torchvision's classifiers read 3; grey images have to be repeated for them. Of a user's
    own callable nothing is known, so None.
    """
    return 3 if name.startswith(_TORCHVISION) else None


def names() -> tuple[str, ...]:
    """Every name that `resolve` knows: the zoo, some wide ResNets, torchvision's networks.

    Wide ResNets of other depths and widths (wrn-DEPTH-WIDTH), timm:NAME and the user's own
    module:callable are understood as well.
    """
    torchvision = (_TORCHVISION + name for name in _torchvision_modules())
    return (*_ZOO, *_WIDE_RESNET_EXAMPLES, *torchvision)


def _torchvision_modules() -> dict[str, str]:
    """The module of every classifier and segmentation network of torchvision, by its name."""
    modules = (torchvision_models, torchvision_models.segmentation)
    return {
        name: module.__name__
        for module in modules
        for name in torchvision_models.list_models(module=module)
    }


def _torchvision_source(name: str, num_classes: int, in_channels: int) -> Builder:
    bare = name.removeprefix(_TORCHVISION)
    module = _torchvision_modules().get(bare)
    if module is None:
        raise _unknown(name)
    if in_channels != 3:
        raise ModelError(f"{name} reads images of 3 channels, got {in_channels}")
    arguments: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if bare in _WITH_AUXILIARY_LOGITS:
        arguments |= {"aux_logits": False, "init_weights": True}
    if module.endswith(".segmentation"):
        arguments["weights_backbone"] = None
    return Builder(f"{module}:{bare}", arguments)


def _timm_source(name: str, num_classes: int, in_channels: int) -> Builder:
    bare = name.removeprefix(_TIMM)
    try:
        known = timm.list_models()
    except ImportError as error:
        raise not_installed("timm") from error
    if bare not in known:
        close = difflib.get_close_matches(bare, known, n=4)
        hint = f"did you mean {', '.join(_TIMM + one for one in close)}?" if close else ""
        raise ModelError(f"timm has no network {bare!r}; {hint or 'see timm.list_models()'}")
    arguments = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    return Builder(f"timm.models:{bare}", arguments)


def _check_arguments(name: str, builder: Builder, own: Mapping[str, object]) -> None:
    """ModelError for an argument that the callable does not take."""
    try:
        parameters = inspect.signature(builder.function()).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind in _BY_KEYWORD]
    for argument in own:
        if argument not in known:
            close = difflib.get_close_matches(argument, known, n=3) or known
            hint = f"did you mean {', '.join(close)}?" if close else "it takes none"
            raise ModelError(f"{name} takes no argument {argument!r}: {hint}")


def _unknown(name: str) -> ModelError:
    """An error that offers the nearest names, compared without the torchvision prefix."""
    spellings: dict[str, list[str]] = {}
    for known in names():
        spellings.setdefault(known.removeprefix(_TORCHVISION), []).append(known)
    close = difflib.get_close_matches(name.removeprefix(_TORCHVISION), spellings, n=4)
    offers = ", ".join(known for bare in close for known in spellings[bare])
    hint = f"did you mean {offers}?" if offers else f"the zoo has {', '.join(_ZOO)}, wrn-40-2;"
    return ModelError(
        f"no network is called {name!r}; {hint} torchvision:NAME, timm:NAME and module:callable "
        "also work"
    )


def _parameter_names(make: Callable[..., object]) -> set[str]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return set()
    return {parameter.name for parameter in parameters if parameter.kind in _BY_KEYWORD}
