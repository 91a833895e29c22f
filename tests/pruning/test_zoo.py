"""Networks from elsewhere: torchvision's detectors and, if installed, timm's and YOLO."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torchvision
from gating import channels_of, difference, gated, random_plan
from networks import call, randomised
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from pruning import Budget, ChannelGraph, KeepPlan, measure_cost, remove_channels, select
from pruning.criteria import WeightMagnitude
from pruning.rules import Offered
from pruning.tracing import whole_trace

IMAGE = ([torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))],)
DETECTORS = {
    "ssdlite320_mobilenet_v3_large": 35,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 33,
    "RetinaNet": 20,
    "FCOS": 20,
    "MaskRCNN": 20,
    "KeypointRCNN": 25,
    "ssd300_vgg16": 20,
}
"""Name, and how many groups are free at least; those with capitals have a ResNet-18 behind them."""

QUICK = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")


def every_detector(*names: str) -> Any:
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "name", [n if n in QUICK else pytest.param(n, marks=slow) for n in names]
    )


@functools.cache
def detector(name: str) -> nn.Module:
    sizes = {} if "ssd" in name else {"min_size": 96, "max_size": 96}
    if name[0].isupper():
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        few = {"box_detections_per_img": 5} if name.endswith("RCNN") else {}
        return getattr(detection, name)(backbone, num_classes=5, **sizes, **few).eval()
    return torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=5, **sizes
    ).eval()


@functools.cache
def graph_of(name: str) -> ChannelGraph:
    return whole_trace(detector(name), IMAGE)


@every_detector(*DETECTORS)
def test_a_detector_is_free_but_for_what_it_finds(name: str) -> None:
    graph = graph_of(name)
    assert len(graph.prunable) >= DETECTORS[name]
    assert not any("another path" in str(group.pinned) for group in graph.groups)


@every_detector(*DETECTORS)
def test_a_smaller_detector_still_finds_boxes(name: str) -> None:
    smaller = remove_channels(detector(name), graph_of(name), random_plan(graph_of(name), seed=1))
    with torch.no_grad():
        (found,) = smaller(*IMAGE)
    assert found["boxes"].shape == (len(found["scores"]), 4)


def test_what_a_detector_finds_is_what_it_finds_with_gates() -> None:
    name = "ssdlite320_mobilenet_v3_large"
    model, graph = randomised(detector(name), seed=3).double(), graph_of(name)
    plan = random_plan(graph, seed=2)
    inputs = ([IMAGE[0][0].double()],)
    with torch.no_grad():
        (expected,) = call(gated(model, graph, plan), inputs)
        (found,) = remove_channels(model, graph, plan)(*inputs)
    model.float()
    assert len(found["boxes"]) == len(expected["boxes"]) > 0
    assert difference(found["scores"], expected["scores"]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("yolov8n", 48), ("yolov5n", 59), ("yolo11n", 50), ("yolov10n", 55), ("rtdetr-resnet50", 75)],
)
def test_yolo_is_pruned(name: str, least: int) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="pip install '.[zoo]'")
    kind = tasks.RTDETRDetectionModel if "rtdetr" in name else tasks.DetectionModel
    model = kind(f"{name}.yaml", verbose=False).eval()
    example = torch.rand(1, 3, 160, 160)
    graph = whole_trace(model, example)
    assert len(graph.prunable) >= least
    smaller = remove_channels(model, graph, random_plan(graph, seed=1))
    with torch.no_grad():
        smaller(example)
    plan = select(WeightMagnitude(2).score(model, graph), graph, Budget.parse("flops=50%"))
    cost = graph.cost(plan.widths)
    assert 0.49 < cost.flops / graph.cost().flops <= 0.5
    assert measure_cost(remove_channels(model, graph, plan), example) == cost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("vit_tiny_patch16_224", 12 * [3]),
        ("swin_tiny_patch4_window7_224", [3, 3, 6, 6, *6 * [12], 24, 24]),
    ],
)
def test_timm_loses_whole_heads(name: str, heads: list[int]) -> None:
    timm = pytest.importorskip("timm", reason="pip install '.[zoo]'")
    model = timm.create_model(name, pretrained=False).eval()
    example = torch.rand(1, *model.default_cfg["input_size"])
    graph = whole_trace(model, example, Offered(whole_heads=True))
    groups = [group for group in graph.prunable if group.name.endswith(".heads")]
    assert [group.num_units for group in groups] == heads
    plan = KeepPlan({group.name: channels_of(group, {0, 1}) for group in groups})
    smaller = remove_channels(model, graph, plan)
    kept = [getattr(module, "num_heads", None) for module in smaller.modules()]
    assert kept.count(2) == len(heads)
    assert measure_cost(smaller, example) == graph.cost(plan.widths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("convit_tiny", "patch_embed.proj"),
        ("levit_128s", "stem.conv4.linear"),
        ("efficientformer_l1", "stem.conv2"),
        ("efficientvit_b0", "stem.in_conv.conv"),
        ("samvit_base_patch16_224", "patch_embed.proj"),
        ("convnext_atto", "stem.0"),
        ("convnextv2_atto", "stem.0"),
        ("vit_tiny_patch16_224", "patch_embed.proj"),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj"),
        ("resnetv2_50x1_bit", "stem.conv"),
        ("efficientnet_cc_b0_4e", "blocks.1.0.conv_pwl"),
    ],
)
def test_timm_is_pruned_inexactly(name: str, embedding: str) -> None:
    """embedding: what makes the stream that all blocks add to, or the first of several."""
    timm = pytest.importorskip("timm", reason="pip install '.[zoo]'")
    model = timm.create_model(name, pretrained=False).eval()
    example = torch.rand(1, *model.default_cfg["input_size"])
    graph = whole_trace(model, example, Offered(exact=False))
    least = {group.name: group.floor() * group.unit for group in graph.prunable}
    assert graph.cost(least).flops < 0.6 * graph.cost().flops
    assert graph.group(embedding).pinned is None
    assert graph.cost({embedding: least[embedding]}).flops < graph.cost().flops
    smaller = remove_channels(model, graph, random_plan(graph, seed=1))
    with torch.no_grad():
        assert smaller(example).shape == model(example).shape
