"""Which images a network learns from."""

from __future__ import annotations

from search.config.settings import option, require, settings


@settings
class DataConfig:
    """Which images to learn from, and how many of them."""

    source: str = option(
        "digits", "digits, cifar10, cifar100, mnist, fashion-mnist or imagefolder:PATH"
    )
    root: str = option(".data", "folder that holds downloaded data sets")
    download: bool = option(False, "allow torchvision to download the data set")
    image_size: int | None = option(None, "resize images to this many pixels a side", ge=1)
    flip: bool | None = option(
        None, "mirror training images at random; by default only photographs"
    )
    limit_train: int | None = option(None, "use at most this many training images", ge=1)
    validation_fraction: float = option(
        0.2, "share of the training images held out; it drives every choice", gt=0, lt=1
    )

    def __post_init__(self) -> None:
        require(bool(self.source), "data", "the name of a data set", self.source)
