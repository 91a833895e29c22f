"""Networks of timm, ultralytics, torchvision and others by name, with fresh weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

YOLO = (
    "yolov3 yolov3-tiny yolov5n yolov6n yolov8n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls "
    "yolov9t yolov10n yolo11n yolo12n yolo26n rtdetr-resnet50 rtdetr-l"
)
DETECTION = (
    "fasterrcnn_resnet50_fpn fasterrcnn_mobilenet_v3_large_fpn maskrcnn_resnet50_fpn "
    "keypointrcnn_resnet50_fpn retinanet_resnet50_fpn fcos_resnet50_fpn ssd300_vgg16 "
    "ssdlite320_mobilenet_v3_large"
)
SEGMENTATION = (
    "fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large"
)
VIDEO = "r3d_18 mc3_18 r2plus1d_18 s3d mvit_v1_b swin3d_t"
CONVOLUTIONAL = (
    "bat_resnext26ts cs3darknet_s cspdarknet53 cspresnet50 densenet121 dla34 dm_nfnet_f0 dpn68 "
    "ecaresnet26t efficientnet_b0 efficientnet_cc_b0_4e ese_vovnet19b_dw gcresnet33ts gernet_s "
    "ghostnet_100 hgnet_tiny hrnet_w18_small inception_next_atto inception_v3 lcnet_050 "
    "mambaout_femto mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 rdnet_tiny "
    "regnetx_002 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnetv2_50x1_bit rexnet_100 "
    "selecsls42 seresnet18 skresnet18 starnet_s1 tinynet_e tresnet_m vovnet39a xception41 "
    "convnext_atto convnextv2_atto"
)
ATTENTIVE = (
    "beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convit_tiny "
    "crossvit_tiny_240 davit_tiny deit_tiny_patch16_224 edgenext_xx_small efficientformer_l1 "
    "efficientformerv2_s0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8 "
    "focalnet_tiny_srf gmlp_ti16_224 halonet26t hiera_tiny_224 lambda_resnet26t levit_128s "
    "maxvit_pico_rw_256 mixer_s32_224 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny "
    "nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0 resmlp_12_224 samvit_base_patch16_224 "
    "sequencer2d_s swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tiny_vit_5m_224 "
    "tnt_s_patch16_224 twins_svt_small visformer_tiny vit_tiny_patch16_224 volo_d1_224 "
    "xcit_nano_12_p16_224"
)
PYTORCHCV = (
    "alexnet bninception preresnet10 resnext14_16x4d seresnet10 senet16 resnestabc14 ibn_resnet50 "
    "airnet50_1x64d_r2 airnext50_32x4d_r2 bam_resnet18 cbam_resnet18 resattnet56 sknet50 scnet50 "
    "diaresnet10 diracnet18v2 sharesnet18 condensenet74_c4_g4 sparsenet121 peleenet drnc26 "
    "darknet_tiny channelnet revnet38 irevnet301 bagnet9 dla46c msdnet22 fishnet99 espnetv2_wd2 "
    "dicenet_wd5 vovnet27s selecsls42 hardnet39ds xdensenet121_2 squeezeresnet_v1_0 sqnxt23_w1 "
    "shufflenet_g3_wd4 shufflenetv2b_wd2 menet108_8x1_g3 fdmobilenet_wd4 igcv3_wd4 ghostnet "
    "mnasnet_small darts fbnet_cb nasnet_4a1056 mixnet_s nin_cifar10 pyramidnet110_a48_cifar10 "
    "wrn20_10_1bit_cifar10 ror3_56_cifar10 rir_cifar10 resdropresnet20_cifar10 "
    "shakeshakeresnet20_2x16d_cifar10 shakedropresnet20_cifar10 fractalnet_cifar10 "
    "isqrtcovresnet18 octresnet10_ad2 ntsnet_cub fcn8sd_resnetd50b_cityscapes "
    "pspnet_resnetd50b_cityscapes icnet_resnetd50b_cityscapes fastscnn_cityscapes "
    "cgnet_cityscapes dabnet_cityscapes sinet_cityscapes bisenet_resnet18_celebamaskhq "
    "danet_resnetd50b_cityscapes fpenet_cityscapes ctxnet_cityscapes lednet_cityscapes "
    "edanet_cityscapes enet_cityscapes erfnet_cityscapes linknet_cityscapes segnet_cityscapes "
    "unet_cityscapes sqnet_cityscapes simplepose_resnet18_coco "
    "lwopenpose2d_mobilenet_cmupan_coco lwopenpose3d_mobilenet_cmupan_coco ibppose_coco "
    "centernet_resnet18_voc lffd20x5s320v2_widerface espcnet_cityscapes"
)
MONAI = (
    "UNet BasicUNet DynUNet SegResNet VNet AttentionUnet HighResNet UNETR SwinUNETR DenseNet121 "
    "EfficientNetBN SEResNet50 BasicUNetPlusPlus ViT AutoEncoder"
)
SMP = (
    "Unet:resnet18 UnetPlusPlus:resnet18 MAnet:resnet18 Linknet:efficientnet-b0 FPN:mobilenet_v2 "
    "PSPNet:resnet18 DeepLabV3:resnet18 DeepLabV3Plus:resnet18 PAN:resnet18 UPerNet:resnet18 "
    "Segformer:mit_b0 Unet:densenet121 Unet:mit_b0 FPN:se_resnet50"
)
TRANSFORMERS = (
    "Bert DistilBert Albert Electra GPT2 T5Encoder Llama ViT Swin ConvNext ConvNextV2 Segformer "
    "MobileViT Dinov2 Wav2Vec2"
)
FAMILIES = {
    "ultralytics": [f"ultralytics:{name}" for name in YOLO.split()],
    "torchvision, detection": [f"torchvision:{name}" for name in DETECTION.split()],
    "torchvision, segmentation": [f"torchvision:{name}" for name in SEGMENTATION.split()],
    "torchvision, video": [f"torchvision:{name}" for name in VIDEO.split()],
    "timm, convolutional": [f"timm:{name}" for name in CONVOLUTIONAL.split()],
    "timm, with attention or mixing": [f"timm:{name}" for name in ATTENTIVE.split()],
    "pytorchcv": [f"pytorchcv:{name}" for name in PYTORCHCV.split()],
    "MONAI": [f"monai:{name}" for name in MONAI.split()],
    "segmentation_models_pytorch": [f"smp:{name}" for name in SMP.split()],
    "transformers": [f"transformers:{name}" for name in TRANSFORMERS.split()],
}
ALL = frozenset(name for names in FAMILIES.values() for name in names)


def make(name: str) -> tuple[nn.Module, Any]:
    """A network with fresh weights in eval mode, and an example of what it reads."""
    source, _, kind = name.partition(":")
    makers: dict[str, Callable[[str], tuple[nn.Module, Any]]] = {
        "timm": of_timm,
        "torchvision": of_torchvision,
        "ultralytics": of_ultralytics,
        "pytorchcv": of_pytorchcv,
        "monai": of_monai,
        "smp": of_smp,
        "transformers": of_transformers,
    }
    model, example = makers[source](kind)
    return model.eval(), example


def of_timm(name: str) -> tuple[nn.Module, Any]:
    import timm  # noqa: PLC0415 - an extra

    model = timm.create_model(name, pretrained=False)
    return model, torch.randn(1, *model.default_cfg["input_size"])


def of_torchvision(name: str) -> tuple[nn.Module, Any]:
    weights = {} if name in VIDEO.split() else {"weights_backbone": None}
    model = torchvision.models.get_model(name, weights=None, **weights)
    if name in DETECTION.split():
        return model, ([torch.rand(3, 320, 320)],)
    if name in VIDEO.split():
        return model, torch.randn(1, 3, 16, 224, 224)
    return model, torch.randn(1, 3, 128, 128)


def of_ultralytics(name: str) -> tuple[nn.Module, Any]:
    from ultralytics.nn import tasks  # noqa: PLC0415 - an extra

    kinds = {
        "rtdetr": tasks.RTDETRDetectionModel,
        "-seg": tasks.SegmentationModel,
        "-pose": tasks.PoseModel,
        "-obb": tasks.OBBModel,
        "-cls": tasks.ClassificationModel,
        "yolo": tasks.DetectionModel,
    }
    make = next(kind for part, kind in kinds.items() if part in name)
    return make(f"{name}.yaml", verbose=False), torch.rand(1, 3, 320, 320)


def of_pytorchcv(name: str) -> tuple[nn.Module, Any]:
    from pytorchcv.model_provider import get_model  # noqa: PLC0415 - an extra

    extents = {"cifar10": 32, "cityscapes": 512, "celebamaskhq": 640, "coco": 256, "voc": 256}
    extents |= {"cub": 448}
    extent = extents.get(name.rpartition("_")[2], 224)
    sized = {"in_size": (extent, extent)} if name.endswith("cityscapes") else {}
    return get_model(name, pretrained=False, **sized), torch.rand(1, 3, extent, extent)


def of_monai(name: str) -> tuple[nn.Module, Any]:
    nets = importlib.import_module("monai.networks.nets")
    ends = {"in_channels": 1, "out_channels": 2}
    volume = {"spatial_dims": 3, **ends}
    settings: dict[str, dict[str, Any]] = {
        "UNet": {**volume, "channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
        | {"num_res_units": 2},
        "AttentionUnet": {**volume, "channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
        "AutoEncoder": {**volume, "channels": (16, 32, 64), "strides": (2, 2, 2)},
        "DynUNet": {
            **volume,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "res_block": True,
        },
        "VNet": volume,
        "SegResNet": volume,
        "UNETR": {**ends, "img_size": (32, 32, 32), "feature_size": 8, "hidden_size": 192}
        | {"mlp_dim": 384, "num_heads": 4},
        "SwinUNETR": {**ends, "feature_size": 12},
        "EfficientNetBN": {"model_name": "efficientnet-b0", "spatial_dims": 2}
        | {"in_channels": 1, "pretrained": False},
        "SEResNet50": {"spatial_dims": 2, "in_channels": 1, "num_classes": 2},
        "ViT": {"in_channels": 1, "img_size": (32, 32, 32), "patch_size": (8, 8, 8)}
        | {"hidden_size": 192, "mlp_dim": 384, "num_heads": 4, "num_layers": 4},
    }
    model = getattr(nets, name)(**settings.get(name, volume))
    if name in ("EfficientNetBN", "SEResNet50"):
        return model, torch.rand(1, 1, 64, 64)
    extent = 64 if name == "SwinUNETR" else 32
    return model, torch.rand(1, 1, extent, extent, extent)


def of_smp(name: str) -> tuple[nn.Module, Any]:
    import segmentation_models_pytorch as smp  # noqa: PLC0415 - an extra

    kind, _, encoder = name.partition(":")
    make = getattr(smp, kind)
    return make(encoder, encoder_weights=None, classes=5), torch.rand(1, 3, 128, 128)


def of_transformers(name: str) -> tuple[nn.Module, Any]:
    transformers = importlib.import_module("transformers")
    kind = name.removesuffix("Encoder")
    small = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    small |= {"intermediate_size": 256}
    settings: dict[str, dict[str, Any]] = {
        "DistilBert": {"dim": 128, "n_layers": 3, "n_heads": 4, "hidden_dim": 256},
        "Albert": {**small, "embedding_size": 64},
        "Electra": {**small, "embedding_size": 64},
        "GPT2": {"n_embd": 128, "n_layer": 3, "n_head": 4, "vocab_size": 1000},
        "T5": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 3, "num_heads": 4},
        "Llama": {**small, "num_key_value_heads": 2, "vocab_size": 1000},
        "Wav2Vec2": {**small, "num_conv_pos_embedding_groups": 4},
    }
    pictures = ("ViT", "Swin", "ConvNext", "ConvNextV2", "Segformer", "MobileViT", "Dinov2")
    given = settings.get(kind, small if kind in ("Bert", "ViT", "Dinov2") else {})
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{kind}Config")(**given))
    if kind in pictures:
        return model, {"pixel_values": torch.rand(1, 3, 224, 224)}
    if kind == "Wav2Vec2":
        return model, {"input_values": torch.rand(1, 8000)}
    return model, {"input_ids": torch.randint(0, 1000, (1, 16))}
