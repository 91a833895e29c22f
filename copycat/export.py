"""A network as one file for other programs: ONNX, or torch.export's pt2.

Both hold stock operators only, σBN folded, in float32, and take any number of images at a time.
What was written is run and compared with the network before it gets its name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import ArchitectureError, first_line
from pruning.sigmoid_batchnorm import fold

TOLERANCE = 1e-4
"""Largest difference from torch's output, as a share of the largest output."""

_BATCHES = (1, 3)
"""Numbers of images that a written file is run on."""

_INPUT, _OUTPUT = "images", "logits"

_Run = Callable[[Tensor], Tensor]


def to_onnx(model: nn.Module, example_input: Tensor, file: str | Path) -> None:
    """Writes `file`, whose input "images" is N×C×H×W and whose output is "logits", N×classes.

    model: takes one tensor of images and returns one of logits; it is left as it is.
    example_input: N×C×H×W; only the shape of one image counts.
    onnxruntime runs the file on one and on several images; ArchitectureError, and no file, if
    the result is further than TOLERANCE from torch's. Needs the extra "onnx".
    """
    open_session = _onnx_sessions()
    network, images = _prepared(model, example_input)
    with written_whole(file) as temporary, _one_error("ONNX"):
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        program.save(temporary, external_data=False)
        _check_stock_operators(program)
        _compare(open_session(temporary), network, images, "onnxruntime")


def to_pt2(model: nn.Module, example_input: Tensor, file: str | Path) -> None:
    """Writes `file`, which torch.export.load reads; arguments and errors as in `to_onnx`.

    What is read from it again is run and compared.
    """
    network, images = _prepared(model, example_input)
    with written_whole(file) as temporary, _one_error("pt2"):
        dynamic_shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(network, (images,), dynamic_shapes=dynamic_shapes)
        packed = temporary.with_name("network.pt2")  # the ending that torch asks for
        torch.export.save(program, packed)
        loaded = torch.export.load(packed).module()
        _compare(loaded, network, images, "the file, read again,")
        packed.rename(temporary)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields a name beside `path`; what is there at the end, file or folder, becomes `path`.

    After an error nothing is left behind. Raises ArchitectureError if `path` is taken or cannot
    be written.
    """
    path = Path(path)
    if path.exists():
        raise ArchitectureError(f"{path} already exists: choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            yield (temporary := Path(folder) / path.name)
            temporary.rename(path)
    except OSError as error:
        raise ArchitectureError(f"cannot write {path}: {error}") from error


def random_images(example_input: Tensor, number: int) -> Tensor:
    """Repeatable images of this shape, N(0, 1), on the CPU."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, *example_input.shape[1:], generator=generator)


def _prepared(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Tensor]:
    """An inference copy on the CPU, and several images: one would be taken for a constant."""
    network = fold(model).cpu().float().eval().requires_grad_(False)
    return network, random_images(example_input, _BATCHES[-1])


@contextmanager
def _one_error(form: str) -> Iterator[None]:
    """Whatever an exporter raises becomes one line; what it warns of or logs is not shown."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except (ArchitectureError, OSError):
        raise
    except Exception as error:  # an exporter may raise anything
        raise ArchitectureError(
            f"this network cannot be written as {form}: {_cause(error)}"
        ) from error
    finally:
        logging.disable(previous)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong first: exporters wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _compare(run: _Run, network: nn.Module, example_input: Tensor, runner: str) -> None:
    for number in _BATCHES:
        images = random_images(example_input, number)
        expected, output = network(images), run(images)
        if output.shape != expected.shape:
            raise ArchitectureError(
                f"{runner} gives an output of shape {tuple(output.shape)} for {number} images, "
                f"torch {tuple(expected.shape)}: nothing was written"
            )
        scale = float(expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))
        difference = float((output - expected).abs().max()) / scale
        if not difference <= TOLERANCE:
            raise ArchitectureError(
                f"for {number} images {runner} differs from torch by {difference:.1e} of the "
                f"largest output, more than {TOLERANCE:.0e}: nothing was written"
            )


def _onnx_sessions() -> Callable[[Path], _Run]:
    """Opens a file in onnxruntime."""
    try:
        import onnx  # noqa: F401, PLC0415 - the extra is optional
        import onnxruntime  # noqa: PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ArchitectureError(
            f"ONNX needs {error.name or 'a package'}, which is not installed: "
            "pip install 'espalier[onnx]'"
        ) from error

    def open_session(file: Path) -> _Run:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            (output,) = session.run([_OUTPUT], {_INPUT: images.numpy()})
            return torch.from_numpy(np.asarray(output))

        return run

    return open_session


def _check_stock_operators(program: torch.onnx.ONNXProgram) -> None:
    model = program.model_proto
    domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if domains or model.functions:
        raise ArchitectureError(
            f"this network needs operators that ONNX itself does not have, of "
            f"{', '.join(sorted(domains)) or 'functions of its own'}: nothing was written"
        )
