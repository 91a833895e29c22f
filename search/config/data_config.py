"""Which data a network learns from."""

from __future__ import annotations

from search.config.settings import option, require, require_defaults, settings

_FILES = ("imagefolder:", "csv:")
"""How sources begin that are no code."""


@settings
class DataConfig:
    """Which data to learn from, and how much of them.

    source: a name; `imagefolder:PATH`, with a folder train/, val/ or test/ of each part, in it one
    of each class; `csv:FILE`, a table of images (see search.data.csv_file); or module:callable,
    which returns Datasets (see search.DataSplits).
    """

    source: str = option(
        "digits",
        "digits, cifar10, cifar100, mnist, fashion-mnist, imagefolder:PATH, csv:FILE, or "
        "module:callable of your own that returns Datasets",
    )
    root: str = option(".data", "folder that holds downloaded data sets")
    download: bool = option(False, "allow torchvision to download the data set")
    image_size: int | None = option(None, "resize images to this many pixels a side", ge=1)
    flip: bool | None = option(
        None, "mirror training images at random; by default only photographs"
    )
    limit_train: int | None = option(None, "use at most this many training images", ge=1)
    validation_fraction: float = option(
        0.2,
        "share of the training images held out, where there is no validation part; it drives "
        "every choice",
        gt=0,
        lt=1,
    )
    workers: int | None = option(
        None,
        "processes that read samples ahead, for each trial; by default one per core of the trial, "
        "none where that does not pay",
        ge=0,
    )

    def __post_init__(self) -> None:
        require(bool(self.source), "data", "the name of a data set", self.source)
        if self.own_module:
            why = f"on {self.source}, whose Datasets have transforms of their own"
            require_defaults(self, ("image_size", "flip"), why)

    @property
    def own_module(self) -> str:
        """The module of the user's own that these data would import; empty if there is none."""
        module, colon, _ = self.source.partition(":")
        return module if colon and not self.source.startswith(_FILES) else ""
