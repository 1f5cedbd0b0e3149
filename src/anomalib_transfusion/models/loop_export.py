# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Export of the reverse process to ONNX and OpenVINO as one loop, not as a copy of the network for every step.

Written out, twenty steps of the network are some 20,000 operations, and tools take minutes to optimize and load them.
As a loop (``Scan`` in ONNX) they are a twentieth of that.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.deploy import CompressionType

from .graph_export import GraphExport, drop_notes

if TYPE_CHECKING:
    import onnx

__all__ = ["LoopExport", "scan_steps"]

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


class LoopExport(GraphExport):
    """Export of a model that has ``inference_timesteps``, and a loop over them in :func:`scan_steps`."""

    def onnx_arguments(self, compression_type: CompressionType | None) -> dict[str, Any]:  # noqa: PLR6301
        """Write the loop out for INT8, because NNCF does not look into loops."""
        return {"unroll": compression_type in QUANTISED}

    def tidy(self, path: Path, *, unroll: bool) -> None:
        """Write out the loop if that was asked for, and take the exporter's notes out of an ONNX file.

        Args:
            path: ONNX model, overwritten.
            unroll: Whether the steps of the loop are to be written out.
        """
        _tidy(path, len(self.model.inference_timesteps) if unroll else None)


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
    drop_notes(model.graph)
    onnx.save(model, path)


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
