"""The zoo's exact sizes and fresh weights, and how names become networks."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import copycat
from copycat import Architecture, Builder, WidthProfile, save, verify
from pruning import measure_cost, to_sigmoid_batchnorm, trace
from pruning.errors import ModelError
from search.models import mobilenetv2, names, required_channels, resnet20, resolve, vgg16
from search.models.resnet import BasicBlock, ResNet

ZOO = {
    "vgg16": (3, 32),
    "resnet20": (3, 32),
    "resnet56": (3, 32),
    "wrn-16-1": (3, 32),
    "wrn-40-2": (3, 32),
    "preact-resnet18": (3, 32),
    "vgg16-fc": (3, 32),
    "mobilenetv2": (3, 32),
    "lenet3": (3, 32),
    "digits-vgg": (1, 8),
    "digits-resnet": (1, 8),
}
DRAWN_AS_BY_TORCH = ("mobilenetv2", "lenet3")
OF_ONE_SIZE = "lenet3"


def build(name: str, num_classes: int = 10) -> tuple[nn.Module, torch.Tensor]:
    channels, size = ZOO[name]
    model = resolve(name, num_classes=num_classes, in_channels=channels)()
    return model, torch.randn(1, channels, size, size)


@pytest.mark.filterwarnings("ignore:.*jit.script.*deprecated:FutureWarning")  # importing fvcore
@pytest.mark.parametrize(
    ("name", "params", "flops"),
    [
        ("vgg16", 14_728_266, 313_754_624),
        ("resnet56", 853_018, 126_554_752),
        ("wrn-40-2", 2_243_546, 329_008_384),
        # 40,550,400 in convolutions, 640 in the linear layer, 2 a batch-norm element, pooling
        ("resnet20", 269_722, 40_550_400 + 640 + 2 * 188_416 + 4_096),
        # 28²·16·75 + 10²·32·400 in convolutions, 800·120 + 120·84 + 84·10 in linear layers
        ("lenet3", 121_182, 940_800 + 1_280_000 + 106_920),
        # RNI, Table 5, has 408k at a width of 0.35: see below
        ("mobilenetv2", 2_236_682, 91_276_800),
        ("preact-resnet18", 11_172_170, 556_536_832),
        # vgg16 and two linear layers with batch norm more, those at a position instead of 2 × 2
        ("vgg16-fc", 14_728_266 + 2 * (512 * 512 + 3 * 512), 313_754_624 + 2 * (512 * 512 + 1_024)),
        # 64·9·(32 + 32²) + 16·9·(32·64 + 64²) + 4·9·(64·128 + 128²), batch norm, linear layer
        ("digits-vgg", 288_170, 2_377_728 + 2 * 7_168 + 1_280),
    ],
)
def test_sizes_are_those_worked_out_by_hand(name: str, params: int, flops: int) -> None:
    cost = measure_cost(*build(name))
    assert (cost.params, cost.flops) == (params, flops)


def test_vgg16_can_be_narrower() -> None:
    convolutions = [m for m in vgg16(width_mult=0.25).modules() if isinstance(m, nn.Conv2d)]
    widths = [16, 16, 32, 32, 64, 64, 64, *6 * [128]]
    assert [convolution.out_channels for convolution in convolutions] == widths


def test_the_small_mobilenet_has_as_many_parameters_as_in_the_rni_paper() -> None:
    """Table 5: 408k beside ResNet-56 pruned to half of its filters on CIFAR-10."""
    network = mobilenetv2(10, 3, width_mult=0.35)
    assert round(sum(p.numel() for p in network.parameters()) / 1e3) in (408, 409)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in ZOO if name != OF_ONE_SIZE])
def test_output_is_one_row_of_logits_an_image_at_other_sizes_too(name: str) -> None:
    model, example = build(name, num_classes=7)
    model.eval()
    larger = torch.randn(2, example.shape[1], 40, 40)
    assert model(example).shape == (1, 7)
    assert model(larger).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in DRAWN_AS_BY_TORCH])
def test_fresh_weights_follow_the_recipe(name: str) -> None:
    torch.manual_seed(0)
    model, _ = build(name)
    scale = 1.0 if name.startswith(("wrn", "preact")) else 0.5
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2_000:
            out, _, height, width = layer.weight.shape
            assert layer.weight.std().item() == pytest.approx(
                math.sqrt(2 / (height * width * out)), rel=0.1
            )
            assert abs(layer.weight.mean().item()) < 0.1 * layer.weight.std().item()
        elif isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.15)
            assert layer.bias.eq(0).all()
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(scale).all()
            assert layer.bias.eq(0).all()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            assert layer.bias.eq(0).all()


def test_reset_parameters_reads_the_shapes_the_layers_have_now() -> None:
    torch.manual_seed(0)
    model, example = build("resnet20")
    block = model.get_submodule("stage1.block0")
    block.conv1.weight = nn.Parameter(block.conv1.weight[:4].detach().clone())
    block.conv2.weight = nn.Parameter(block.conv2.weight[:, :4].detach().clone())
    block.norm1 = nn.BatchNorm2d(4)
    block.norm1.running_mean += 3
    model.reset_parameters()
    assert block.conv1.weight.shape == (4, 16, 3, 3)
    assert block.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 4)), rel=0.1)
    assert block.norm1.running_mean.eq(0).all()
    assert model(example.expand(2, -1, -1, -1)).shape == (2, 10)


def test_reset_parameters_lets_sigmoid_batch_norms_draw_their_own_scales() -> None:
    model = to_sigmoid_batchnorm(build("digits-vgg")[0])
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, 0.5)
    model.reset_parameters()
    scales = torch.cat([p for key, p in model.named_parameters() if ".norm" in key])
    assert scales.std().item() == pytest.approx(1, rel=0.15)


def test_equal_seeds_give_equal_weights() -> None:
    first, second = (torch.manual_seed(3) and build("digits-resnet")[0] for _ in range(2))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_shortcut_subsamples_and_appends_zero_channels() -> None:
    block = BasicBlock(3, 5, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 3, 7, 6)
    out = block(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert out[:, 3:].eq(0).all()


def test_shortcut_follows_the_channels_of_narrowed_layers() -> None:
    """Removing channel 1 on both sides is the same as removing it from the output."""
    torch.manual_seed(0)
    whole = BasicBlock(3, 5, stride=2).eval()
    small = BasicBlock(2, 4, stride=2).eval()
    kept_in, kept_out = torch.tensor([0, 2]), torch.tensor([0, 2, 3, 4])
    with torch.no_grad():
        whole.conv1.weight[:, 1] = 0
        whole.conv2.weight[:, 1] = 0
        small.conv1.weight.copy_(whole.conv1.weight[kept_out][:, kept_in])
        small.conv2.weight.copy_(whole.conv2.weight[kept_out][:, kept_out])
    x = torch.rand(1, 3, 8, 8)
    assert torch.allclose(small(x[:, kept_in]), whole(x)[:, kept_out], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [("wrn-41-2", "6n \\+ 4 with n ≥ 1, got 41"), ("wrn-40-0", "at least 1, got 0")],
)
def test_impossible_wide_resnets_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(name, num_classes=10, in_channels=3)()


def test_impossible_depth_of_a_resnet_is_refused() -> None:
    with pytest.raises(ModelError, match="6n \\+ 2 with n ≥ 1, got 21"):
        ResNet(21, num_classes=10, in_channels=3)


def test_source_survives_json() -> None:
    source = resolve("wrn-16-1", num_classes=4, in_channels=1)
    assert source.target == "search.models:wide_resnet"
    again = Builder(**json.loads(json.dumps({**vars(source)})))
    assert again == source
    assert again()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "inception_v3"])
def test_torchvision_networks_are_built_without_a_word(name: str) -> None:
    source = resolve(f"torchvision:{name}", num_classes=6, in_channels=3)
    assert source.target == f"torchvision.models:{name}"
    json.dumps(source.arguments)
    model = source()  # warnings are errors
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 6)


def test_torchvision_networks_want_three_channels() -> None:
    assert required_channels("torchvision:resnet18") == 3
    assert required_channels("resnet20") is None
    with pytest.raises(ModelError, match="torchvision:resnet18 reads images of 3 channels, got 1"):
        resolve("torchvision:resnet18", num_classes=10, in_channels=1)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvisions_segmentation_networks_are_pruned_and_stored(
    name: str, tmp_path: Path
) -> None:
    """They return mappings; weights of their backbones are not downloaded."""
    builder = resolve(f"torchvision:{name}", num_classes=4, in_channels=3)
    image = torch.zeros(1, 3, 32, 32)
    network = builder()
    graph = trace(network, image)
    assert measure_cost(network, image) == graph.cost()
    widths = {g.name: max(g.least_width, g.width // 2 // g.unit * g.unit) for g in graph.prunable}
    smaller = copycat.build(network, WidthProfile(widths), image, graph=graph)
    assert graph.cost(widths).flops < 0.5 * graph.cost().flops
    assert smaller.eval()(image)["out"].shape == (1, 4, 32, 32)
    classes = ("sky", "sea", "ship", "gull")
    stored = Architecture(builder, WidthProfile(widths), (3, 32, 32), classes, graph.cost(widths))
    save(tmp_path / "net", stored, smaller)
    assert verify(tmp_path / "net", graph=graph)


def test_every_listed_name_resolves() -> None:
    listed = names()
    assert {"vgg16", "resnet110", "wrn-40-2", "digits-vgg", "torchvision:resnet50"} <= set(listed)
    for name in listed:
        resolve(name, num_classes=10, in_channels=3)


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("resnet65", "resnet56"),
        ("mobilenet_v2", "torchvision:mobilenet_v2"),
        ("torchvision:resnt18", "torchvision:resnet18"),
        ("zzzzzz", "vgg16, resnet20"),
    ],
)
def test_unknown_names_get_the_nearest_ones(name: str, offer: str) -> None:
    with pytest.raises(ModelError, match=offer) as caught:
        resolve(name, num_classes=10, in_channels=3)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


USERS_CODE = """
from torch import nn
def wide(num_classes, in_channels=3): return nn.Linear(in_channels, num_classes)
def plain(): return nn.Linear(2, 2)
def keywords(**options): return nn.Linear(len(options) + 1, 1)
def number(): return 3
def broken(num_classes): raise ValueError("no\\nluck")
class Factory:
    @staticmethod
    def make(*, num_classes): return nn.Linear(1, num_classes)
setting = 7
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_networks.py").write_text(USERS_CODE)
    (tmp_path / "users_mistake.py").write_text("import not_there_at_all")
    (tmp_path / "users_script.py").write_text("import sys\nsys.exit('usage: …')")
    yield "users_networks"
    sys.modules.pop("users_networks", None)


@pytest.mark.parametrize(
    ("attribute", "arguments", "shape"),
    [
        ("wide", {"num_classes": 5, "in_channels": 4}, (5, 4)),
        ("plain", {}, (2, 2)),
        ("keywords", {}, (1, 1)),
        ("Factory.make", {"num_classes": 5}, (5, 1)),
    ],
)
def test_users_callable_gets_what_its_signature_names(
    users_module: str, attribute: str, arguments: dict[str, int], shape: tuple[int, int]
) -> None:
    before = list(sys.path)
    source = resolve(f"{users_module}:{attribute}", num_classes=5, in_channels=4)
    assert source.arguments == arguments
    model = source()
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == shape
    assert sys.path == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("users_absent:make", "cannot import 'users_absent': ModuleNotFoundError"),
        ("users_mistake:make", "cannot import 'users_mistake'.*'not_there_at_all'"),
        ("users_script:make", "cannot import 'users_script': SystemExit: usage"),
        ("users_networks:absent", "module 'users_networks' has no attribute 'absent'"),
        ("users_networks:setting", "users_networks:setting must be callable, got int"),
        ("users_networks:number", "must return a torch.nn.Module, got int"),
        (
            "users_networks:broken",
            r"users_networks:broken failed: ValueError: no luck \(users_networks\.py, line 7\)",
        ),
        (":make", "given as module:callable, got ':make'"),
        ("users_networks:", "given as module:callable, got 'users_networks:'"),
    ],
)
def test_faults_of_users_code_are_told_in_one_line(
    users_module: str, target: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve(target, num_classes=5, in_channels=4)()
    assert "\n" not in str(caught.value)


def test_own_arguments_come_before_all_others(users_module: str) -> None:
    source = resolve(f"{users_module}:wide", num_classes=5, in_channels=4, own={"in_channels": 7})
    assert source.arguments == {"num_classes": 5, "in_channels": 7}
    source = resolve(f"{users_module}:keywords", num_classes=5, in_channels=4, own={"x": 1, "y": 2})
    assert source().weight.shape == (1, 3)
    source = resolve(
        "torchvision:mobilenet_v2", num_classes=5, in_channels=3, own={"width_mult": 0.25}
    )
    assert source().features[0][0].out_channels == 8


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("users_networks:wide", {"chanels": 3}, r"wide takes no argument 'chanels': did you mean"),
        ("users_networks:plain", {"x": 3}, "plain takes no argument 'x': it takes none"),
        ("digits-vgg", {"depth": 3}, "digits-vgg takes no argument 'depth': did you mean"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "which would download weights"),
        ("timm:resnet18", {"pretrained": True}, "which would download weights"),
        ("timm:resnet18", {"checkpoint_path": "file.pth"}, "which would download weights"),
        ("timm:resnet18", {"pretrained_cfg": "a1_in1k"}, "which would download weights"),
    ],
)
def test_arguments_that_are_refused(
    users_module: str, name: str, own: dict[str, object], message: str
) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ModelError, match=message) as caught:
        resolve(name, num_classes=5, in_channels=3, own=own)
    assert "\n" not in str(caught.value)


def test_a_wrapped_network_is_taken_out_of_its_wrapper(users_module: str, tmp_path: Path) -> None:
    lines = (
        "import torch",
        "from torch import nn",
        "def spread(): return nn.DataParallel(nn.Linear(2, 3))",
        "def compiled(): return torch.compile(nn.DataParallel(nn.Linear(2, 3)), backend='eager')",
    )
    (tmp_path / "users_wrappers.py").write_text("\n".join(lines))
    for name in ("spread", "compiled"):
        network = resolve(f"users_wrappers:{name}", num_classes=3, in_channels=2)()
        assert type(network) is nn.Linear
    sys.modules.pop("users_wrappers", None)


def test_without_timm_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "timm.models", raising=False)
    for make in (
        lambda: resolve("timm:resnet18", num_classes=3, in_channels=3),
        Builder("timm.models:resnet18"),
    ):
        with pytest.raises(ModelError, match=r"^timm is not installed: pip install 'espalier\[tim"):
            make()


def test_models_data_and_training_need_no_search_dependencies() -> None:
    code = (
        "import sys, search.models, search.data.datasets, search.training.trainer;"
        "print([m for m in ('ray', 'optuna', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_zoo_leaves_torchvision_alone() -> None:
    code = "import sys, search.models; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_residual_networks_are_one_series_by_their_depth(depth: int) -> None:
    builder = resolve(f"resnet{depth}", num_classes=10, in_channels=3)
    assert (builder.target, builder.arguments["depth"]) == ("search.models:resnet", depth)
    named = Builder(f"search.models:resnet{depth}", {"num_classes": 10, "in_channels": 3})
    shapes, shapes_of_named = (
        {name: tensor.shape for name, tensor in make().state_dict().items()}
        for make in (builder, named)  # architectures stored earlier are built by the latter
    )
    assert shapes == shapes_of_named
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in builder().modules()) == depth


def test_channel_group_names_read_well() -> None:
    modules = dict(resnet20().named_modules())
    assert {"conv1", "stage1.block0.conv1", "stage3.block2.norm2", "classifier"} <= set(modules)
