"""A network as one file for other programs: ONNX, or torch.export's pt2.

Both hold stock operators only, σBN folded, in float32, and take any number of samples at a time.
What was written is run and compared with the network before it gets its name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.cost import ExampleInput, call_arguments
from pruning.errors import ArchitectureError, first_line
from pruning.networks.nested_tensors import returned_tensors
from pruning.networks.tensor_calls import OfTensors
from pruning.networks.torch_interior import tree_map_only
from pruning.sigmoid_batchnorm import fold

TOLERANCE = 1e-4
"""Largest difference from torch's output, as a share of the largest output."""

_BATCHES = (1, 3)
"""Numbers of samples that a written file is run on."""

_INPUT, _OUTPUT = "images", "logits"
_READ_AGAIN = "the file, read again,"

Tensors = tuple[Tensor, ...]
_Run = Callable[[Tensors], Tensors]


def to_onnx(model: nn.Module, example_input: ExampleInput, file: str | Path) -> None:
    """Writes `file`, whose input "images" is N×C×H×W and whose output is "logits", N×classes.

    model: is left as it is. Of one that takes or returns several tensors, inputs are called
        images_0, images_1 … and outputs logits_0, logits_1 …, in their order.
    example_input: as for `pruning.trace`; only the shape of one sample counts.
    onnxruntime runs the file on one and on several samples; ArchitectureError, and no file, if
    the result is further than TOLERANCE from torch's. Needs the extra "onnx".
    """
    open_session = _onnx_sessions()
    with written_whole(file) as temporary, _one_error("ONNX"):
        network = _prepared(model, example_input)
        inputs = _inputs(network, example_input, _BATCHES[-1])
        names = _numbered(_INPUT, inputs), _numbered(_OUTPUT, tensors_of(network(*inputs)))
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=_dynamic(network, inputs),
            verbose=False,
        )
        assert program is not None
        program.save(temporary, external_data=False)
        _check_stock_operators(program)
        _compare(open_session(temporary), network, example_input, "onnxruntime")


def to_pt2(model: nn.Module, example_input: ExampleInput, file: str | Path) -> None:
    """Writes `file`, which torch.export.load reads; arguments and errors as in `to_onnx`.

    A program that takes or returns several tensors does so one after the other. What is read from
    it again is run and compared.
    """
    with written_whole(file) as temporary, _one_error("pt2"):
        network = _prepared(model, example_input)
        inputs = _inputs(network, example_input, _BATCHES[-1])
        dynamic_shapes = _dynamic(network, inputs)
        program = torch.export.export(network, inputs, dynamic_shapes=dynamic_shapes)
        packed = temporary.with_name("network.pt2")  # the ending that torch asks for
        torch.export.save(program, packed)
        loaded = torch.export.load(packed).module()
        _compare(lambda given: tensors_of(loaded(*given)), network, example_input, _READ_AGAIN)
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


def random_inputs(example_input: ExampleInput, number: int) -> ExampleInput:
    """Repeatable inputs like this one for so many samples, in its dtypes, on the CPU.

    Fractions are of N(0, 1); whole numbers from 0 to the highest of the example.
    """
    generator = torch.Generator().manual_seed(number)

    def drawn(tensor: Tensor) -> Tensor:
        shape = (number, *tensor.shape[1:]) if tensor.dim() else ()
        if tensor.is_floating_point():
            values = torch.randn(shape, generator=generator)
        else:
            highest = max(0, int(tensor.max()))
            values = torch.randint(0, highest + 1, shape, generator=generator)
        return values.to(tensor.dtype)

    inputs: ExampleInput = tree_map_only(Tensor, drawn, example_input)
    return inputs


def tensors_of(outputs: Any) -> Tensors:
    """All tensors in what a network returns, in order."""
    return tuple(returned_tensors(outputs, set()))


def _prepared(model: nn.Module, example_input: ExampleInput) -> nn.Module:
    """An inference copy on the CPU, of tensors alone; the network itself if it is of one."""
    network = fold(model).cpu().float().eval().requires_grad_(False)
    positional, keyword = _arguments(example_input, 1)
    is_plain = isinstance(example_input, Tensor)
    if is_plain and isinstance(network(*positional), Tensor):
        return network
    return OfTensors(network, positional, keyword)


def _inputs(network: nn.Module, example_input: ExampleInput, number: int) -> Tensors:
    """The tensors that the prepared network is called with, for so many samples.

    Exporters get several: one would be taken for a constant.
    """
    positional, keyword = _arguments(example_input, number)
    return OfTensors(network, positional, keyword).tensors


def _arguments(example_input: ExampleInput, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random arguments of the network for so many samples, all fractions in float32."""

    def in_float32(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    return call_arguments(tree_map_only(Tensor, in_float32, random_inputs(example_input, number)))


def _dynamic(network: nn.Module, inputs: Tensors) -> Any:
    """Which axis of each input is free: the first."""
    batch = torch.export.Dim("batch")
    free = tuple({0: batch} if tensor.dim() else {} for tensor in inputs)
    return (free,) if isinstance(network, OfTensors) else free


def _numbered(name: str, tensors: Tensors) -> list[str]:
    return [name] if len(tensors) == 1 else [f"{name}_{i}" for i in range(len(tensors))]


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


def _compare(run: _Run, network: nn.Module, example_input: ExampleInput, runner: str) -> None:
    for number in _BATCHES:
        inputs = _inputs(network, example_input, number)
        for expected, output in zip(tensors_of(network(*inputs)), run(inputs), strict=True):
            _compare_tensors(expected, output, number, runner)


def _compare_tensors(expected: Tensor, output: Tensor, number: int, runner: str) -> None:
    if output.shape != expected.shape:
        raise ArchitectureError(
            f"{runner} gives an output of shape {tuple(output.shape)} for {number} images, "
            f"torch {tuple(expected.shape)}: nothing was written"
        )
    expected, output = expected.double(), output.double()
    scale = float(expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
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

        def run(inputs: Tensors) -> Tensors:
            names = [known.name for known in session.get_inputs()]
            given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            outputs = session.run(None, given)
            return tuple(torch.from_numpy(np.asarray(output)) for output in outputs)

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
