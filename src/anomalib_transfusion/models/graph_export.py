# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's export, of models in training or evaluation mode, to ONNX files without the exporter's notes."""

from collections.abc import Iterator
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

__all__ = ["GraphExport"]

# The oldest operator set that PyTorch's exporter writes by itself. anomalib's default of 14 asks for a conversion that
# fails and changes nothing.
OPSET_VERSION = 18


class GraphExport(ExportMixin):
    """Stands in front of :class:`AnomalibModule` among the bases of a model; leaves the model as it was."""

    model: Any

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX: pre-processing, model and normalization in one graph.

        In single precision, also of weights in another, in which runtimes lack operations.

        Args:
            export_root (Path | str): Path to the output folder.
            model_file_name (str): Name of the exported model.
                Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of the input images, ``None`` for any.
                Defaults to ``None``.
            kwargs: Further arguments of ``torch.onnx.export``; ``unroll=True`` writes out the steps of a loop, for
                tools that do not look into loops.

        Returns:
            Path: The ONNX model.

        Raises:
            RuntimeError: If PyTorch's exporter does not keep a loop.
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
        with as_before(self), _without_gradients(self), _in_single_precision(self):  # type: ignore[arg-type]
            path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)
        self.tidy(path, unroll=unroll)
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
        """Export to OpenVINO, as anomalib does it.

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
        with as_before(self):  # type: ignore[arg-type]
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
                {**self.onnx_arguments(compression_type), **(onnx_kwargs or {})},
            )

    def onnx_arguments(self, compression_type: CompressionType | None) -> dict[str, Any]:  # noqa: PLR6301
        """Return the arguments of :meth:`to_onnx` for an export to OpenVINO.

        Args:
            compression_type: As of :meth:`to_openvino`.
        """
        del compression_type
        return {}

    def tidy(self, path: Path, *, unroll: bool) -> None:  # noqa: PLR6301
        """Take the exporter's notes out of an ONNX file, which are larger than the graph. The weights stay in place.

        Args:
            path: ONNX model, overwritten.
            unroll: Whether the steps of a loop are to be written out; without a loop there is nothing to do.
        """
        del unroll
        import onnx

        model = onnx.load(path, load_external_data=False)
        drop_notes(model.graph)
        onnx.save(model, path)


@contextmanager
def as_before(module: nn.Module) -> Iterator[None]:
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


def drop_notes(graph: "onnx.GraphProto") -> None:
    """Remove the Python stack traces and shapes that the exporter notes at each operation, in loops as well."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                drop_notes(attribute.g)
