# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's export to ONNX and OpenVINO, in training or evaluation mode, without the exporter's metadata."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from anomalib.deploy import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin
from torch import nn
from torchvision.transforms.v2 import Compose, Resize

if TYPE_CHECKING:
    import onnx
    from anomalib import TaskType
    from anomalib.data import AnomalibDataModule
    from torchmetrics import Metric

__all__ = ["GraphExport", "resized"]

# The oldest operator set that PyTorch's exporter writes without a conversion. A conversion to anomalib's default, 14,
# fails and leaves 18.
OPSET_VERSION = 18


class GraphExport(ExportMixin):
    """Export mix-in for a model, which stays unchanged; it must come before :class:`AnomalibModule`."""

    model: Any
    post_processor: Any

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX: pre-processing, model and normalization in one graph.

        The graph is in single precision, whatever that of the weights, because runtimes lack operations in others.

        Args:
            export_root (Path | str): Path to the output folder.
            model_file_name (str): Name of the exported model.
                Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of the input images, ``None`` for any.
                Defaults to ``None``.
            kwargs: Further arguments of ``torch.onnx.export``; ``unroll=True`` unrolls the loop over timesteps, for
                tools that cannot process loops.

        Returns:
            Path: The ONNX model.

        Raises:
            RuntimeError: If PyTorch's exporter does not keep a loop.
            ValueError: If the model works on tiles.
        """
        if self.model.tiler is not None:
            # The tiler has a Python loop, which the exporter would take many minutes to unroll.
            msg = (
                f"The model works on tiles of {self.model.tiler.tile_size_h}x{self.model.tiler.tile_size_w} pixels, "
                "and anomalib's tiler cannot be exported to ONNX or OpenVINO. Set model.model.tiler = None to export "
                "the network for whole images, or export to torch."
            )
            raise ValueError(msg)
        unroll = kwargs.pop("unroll", False)
        kwargs.setdefault("opset_version", OPSET_VERSION)
        with as_before(self), _without_gradients(self), _in_single_precision(self), _without_stack_traces():  # type: ignore[arg-type]
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
        """Export to OpenVINO by anomalib's method; the model keeps its mode.

        Args:
            export_root (Path | str): Path to the output folder.
            model_file_name (str): Name of the exported model.
                Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of the input images, ``None`` for any.
                Defaults to ``None``.
            compression_type (CompressionType | None): ``FP16``, ``INT8``, ``INT8_PTQ`` or ``INT8_ACQ``.
                Defaults to ``None``.
            datamodule (AnomalibDataModule | None): Data for ``INT8_PTQ`` and ``INT8_ACQ``. Images of other sizes
                than ``input_size``, or the model's where that is ``None``, are resized.
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

        Raises:
            ValueError: If the model does not bear the compression, or ``INT8_ACQ`` has no predicted labels.
        """
        self.check_compression(compression_type)
        if compression_type == CompressionType.INT8_ACQ and self.post_processor is None:
            msg = (
                "compression_type=INT8_ACQ compares predicted labels, and post_processor=False gives none; expected a "
                "post-processor. Build the model with one, or use INT8_PTQ."
            )
            raise ValueError(msg)
        size = input_size or getattr(self, "input_size", None)
        with as_before(self), resized(datamodule, size):  # type: ignore[arg-type]
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

    def check_compression(self, compression_type: CompressionType | None) -> None:
        """Raise ValueError for a compression that the model does not bear; by default it bears all.

        Args:
            compression_type: Compression type of an export.
        """

    def onnx_arguments(self, compression_type: CompressionType | None) -> dict[str, Any]:  # noqa: PLR6301
        """Return the arguments of :meth:`to_onnx` for an export to OpenVINO.

        Args:
            compression_type: Compression type of the export.
        """
        del compression_type
        return {}

    def tidy(self, path: Path, *, unroll: bool) -> None:  # noqa: PLR6301
        """Remove the exporter's metadata, which is larger than the graph, from an ONNX file.

        Args:
            path: ONNX model, overwritten; its file of weights stays unchanged.
            unroll: Whether to unroll a loop over timesteps; ignored for a model without a loop.
        """
        del unroll
        import onnx

        model = onnx.load(path, load_external_data=False)
        drop_notes(model.graph)
        onnx.save(model, path)


@contextmanager
def resized(datamodule: "AnomalibDataModule | None", size: tuple[int, int] | None) -> Iterator[None]:
    """Context in which a data module gives images of one size, for anomalib's calibration of INT8.

    A training resizes by the pre-processor of the data module's trainer. An export has no trainer, and fails on images
    that the graph does not take, or that do not fit into one batch.

    Args:
        datamodule: Data module, the same again at the end; nothing is done for ``None``.
        size: Height and width in pixels; nothing is done for ``None``.
    """
    if datamodule is None or size is None:
        yield
        return
    names = [f"{subset}_augmentations" for subset in ("train", "val", "test")]
    kept = {name: getattr(datamodule, name) for name in names}
    trainer, datamodule.trainer = datamodule.trainer, None
    for name, augmentations in kept.items():
        resize = Resize(size, antialias=True)
        setattr(datamodule, name, resize if augmentations is None else Compose([augmentations, resize]))
    try:
        yield
    finally:
        datamodule.trainer = trainer
        for name, augmentations in kept.items():
            setattr(datamodule, name, augmentations)
        datamodule._update_augmentations()  # noqa: SLF001


@contextmanager
def as_before(module: nn.Module) -> Iterator[None]:
    """Context that restores the training or evaluation mode of every submodule at its end."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Context that freezes the parameters of a module, because PyTorch cannot export a differentiable loop."""
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
    """Context that converts all weights of a module to single precision, and restores them at its end."""
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point() and tensor.dtype != torch.float32]
    for tensor, data in kept:
        tensor.data = data.float()
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Context in which PyTorch notes no stack trace for each operation: a quarter of the time of an export."""
    config = torch.fx.config
    name = "do_not_emit_stack_traces"
    # Older versions of PyTorch have no such setting.
    if not hasattr(config, name):
        yield
        return
    before = getattr(config, name)
    setattr(config, name, True)
    try:
        yield
    finally:
        setattr(config, name, before)


def drop_notes(graph: "onnx.GraphProto") -> None:
    """Remove the Python stack traces and shapes that the exporter attaches to each operation, also inside of loops."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                drop_notes(attribute.g)
