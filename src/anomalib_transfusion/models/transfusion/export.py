# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Export of the reverse process to ONNX and OpenVINO as one loop, not as a copy of the network for every step.

Written out, twenty steps of the network are some 20,000 operations, and tools take minutes to optimise and load them.
As a loop (``Scan`` in ONNX) they are a twentieth of that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.deploy import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin
from torch import nn

if TYPE_CHECKING:
    import onnx
    from anomalib import TaskType
    from anomalib.data import AnomalibDataModule
    from torchmetrics import Metric

    from .torch_model import TransFusionModel

__all__ = ["LoopExport", "scan_steps"]

# The oldest operator set that PyTorch's exporter writes by itself. anomalib's default of 14 asks for a conversion that
# fails and changes nothing.
OPSET_VERSION = 18
QUANTISED = (CompressionType.INT8, CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)

# x_t, mask and sum of masks.
Carry = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scan_steps(step: Callable[..., Carry], start: Carry, inputs: tuple[torch.Tensor, ...]) -> Carry:
    """Run the steps of a loop in a way that PyTorch's exporter keeps as a loop.

    Args:
        step: Takes what the step before left and this step's slice of the inputs.
        start: What the first step takes.
        inputs: Tensors whose first dimension is the step.

    Returns:
        What the last step left.
    """
    from torch._higher_order_ops.scan import scan

    def combine(carry: Carry, slices: tuple[torch.Tensor, ...]) -> tuple[Carry, torch.Tensor]:
        # A loop must also return something for each step.
        return step(carry, *slices), slices[0].clone()

    # Two tensors of a loop's state must not be the same one.
    end, _ = scan(combine, tuple(tensor.clone() for tensor in start), inputs)
    return end


class LoopExport(ExportMixin):
    """anomalib's export, of a TransFusion model, whose reverse process calls :func:`scan_steps`."""

    model: "TransFusionModel"  # type: ignore[assignment]

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX: pre-processing, reverse process, anomaly map, score and normalisation in one graph.

        In single precision, also of weights in another, in which runtimes lack operations.

        Args:
            export_root (Path | str): Path to the output folder.
            model_file_name (str): Name of the exported model.
                Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of the input images, ``None`` for any.
                Defaults to ``None``.
            kwargs: Further arguments of ``torch.onnx.export``; ``unroll=True`` writes out the steps of the reverse
                process, for tools that do not look into loops.

        Returns:
            Path: The ONNX model.

        Raises:
            RuntimeError: If PyTorch's exporter does not keep the loop.
            ValueError: If the model works on tiles.
        """
        if self.model.tiler is not None:
            # The tiler cuts in a Python loop, which the exporter writes out for many minutes.
            msg = (
                f"The model works on tiles of {self.model.tiler.tile_size_h}x{self.model.tiler.tile_size_w} pixels, "
                "and anomalib's tiler cannot be exported to ONNX or OpenVINO. Set model.model.tiler = None to export "
                "the network for whole images, or export to torch."
            )
            raise ValueError(msg)
        unroll = kwargs.pop("unroll", False)
        kwargs.setdefault("opset_version", OPSET_VERSION)
        with _as_before(self), _without_gradients(self), _in_single_precision(self):  # type: ignore[arg-type]
            path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)
        _tidy(path, len(self.model.inference_timesteps) if unroll else None)
        return path

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: "AnomalibDataModule | None" = None,
        metric: "Metric | None" = None,
        task: "TaskType | None" = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO, as anomalib does it; INT8 writes the loop out, because NNCF does not look into loops.

        Args:
            export_root (Path | str): Path to the output folder.
            model_file_name (str): Name of the exported model.
                Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of the input images, ``None`` for any.
                Defaults to ``None``.
            compression_type (CompressionType | None): ``FP16``, ``INT8``, ``INT8_PTQ`` or ``INT8_ACQ``.
                Defaults to ``None``.
            datamodule (AnomalibDataModule | None): Data for ``INT8_PTQ`` and ``INT8_ACQ``.
                Defaults to ``None``.
            metric (Metric | None): Metric for ``INT8_ACQ``.
                Defaults to ``None``.
            task (TaskType | None): Task type.
                Defaults to ``None``.
            max_drop (float): Largest loss of the metric for ``INT8_ACQ``.
                Defaults to ``0.01``.
            ov_kwargs (dict[str, Any] | None): Arguments of OpenVINO's model conversion.
                Defaults to ``None``.
            onnx_kwargs (dict[str, Any] | None): Arguments of :meth:`to_onnx`.
                Defaults to ``None``.

        Returns:
            Path: The OpenVINO model (``.xml``).
        """
        with _as_before(self):  # type: ignore[arg-type]
            return super().to_openvino(
                export_root,
                model_file_name,
                input_size,
                compression_type,
                datamodule,
                metric,
                task,
                max_drop,
                ov_kwargs,
                {"unroll": compression_type in QUANTISED, **(onnx_kwargs or {})},
            )


@contextmanager
def _as_before(module: nn.Module) -> Iterator[None]:
    """Leave every part of a module in training or evaluation mode as it was."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Freeze the parameters of a module: PyTorch cannot export a loop that would have to be differentiated."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


@contextmanager
def _in_single_precision(module: nn.Module) -> Iterator[None]:
    """Have all weights of a module in single precision, and give them back as they were."""
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point() and tensor.dtype != torch.float32]
    for tensor, data in kept:
        tensor.data = data.float()
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def _tidy(path: Path, num_steps: int | None) -> None:
    """Take the exporter's notes out of an ONNX file, which are larger than the graph. The weights stay where they are.

    Args:
        path: ONNX model, overwritten.
        num_steps: Number of steps to write the loop out to; ``None`` leaves the loop.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    if num_steps is not None:
        _unroll(model.graph, num_steps)
    elif not any(node.op_type == "Scan" for node in model.graph.node):
        # The exporter has a second way, without a loop, which it takes in silence where the first fails.
        path.unlink()
        msg = (
            f"PyTorch {torch.__version__} did not keep the reverse process as a loop, so {path} was not written. Pass "
            "unroll=True to have its steps written out, which takes many minutes, or try another version of PyTorch."
        )
        raise RuntimeError(msg)
    _drop_notes(model.graph)
    onnx.save(model, path)


def _drop_notes(graph: "onnx.GraphProto") -> None:
    """Remove the Python stack traces and shapes that the exporter notes at each operation, in loops as well."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _drop_notes(attribute.g)


def _unroll(graph: "onnx.GraphProto", num_steps: int) -> None:
    """Replace the loop of a graph by a copy of its operations for every step."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_steps(graph, node, num_steps) if node.op_type == "Scan" else [node])


def _steps(graph: "onnx.GraphProto", loop: "onnx.NodeProto", num_steps: int) -> Iterator["onnx.NodeProto"]:
    """Yield the operations of all steps of a loop (ONNX operator ``Scan``)."""
    import numpy as np
    from onnx import helper, numpy_helper

    attributes = {attribute.name: attribute for attribute in loop.attribute}
    body = attributes["body"].g
    graph.initializer.extend(body.initializer)
    num_carried = len(loop.input) - attributes["num_scan_inputs"].i
    carry, sequences = loop.input[:num_carried], loop.input[num_carried:]
    for step in range(num_steps):

        def at_step(name: str, step: int = step) -> str:
            return f"{name}_step_{step}"

        index = at_step(loop.name)
        yield helper.make_node("Constant", [], [index], value=numpy_helper.from_array(np.array(step)))
        for sequence in sequences:
            yield helper.make_node("Gather", [sequence, index], [at_step(sequence)], axis=0)
        inputs = (*carry, *map(at_step, sequences))
        names = dict(zip((value.name for value in body.input), inputs, strict=True))
        names.update((name, at_step(name)) for node in body.node for name in node.output)
        for node in body.node:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = at_step(node.name)
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            yield copy
        carry = [names[value.name] for value in body.output[:num_carried]]
    # What the loop returns for each step is used by nobody.
    for name, last in zip(loop.output, carry, strict=False):
        yield helper.make_node("Identity", [last], [name])
