# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Export of the reverse process to ONNX and OpenVINO as a loop, not as a copy of the network for every step.

Unrolled, twenty steps of the network are some 20,000 operations, and tools take minutes to optimize and load them. The
loop (``Scan`` in ONNX) has a twentieth of these. A single step is exported as it is.
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

# State of the reverse process: x_t, mask and sum of masks.
Carry = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scan_steps(step: Callable[..., Carry], start: Carry, inputs: tuple[torch.Tensor, ...]) -> Carry:
    """Run a loop by PyTorch's ``scan`` operator, which the exporter keeps as a loop.

    Args:
        step: Maps the state and this step's slice of each input to the next state.
        start: State before the first step.
        inputs: Tensors whose first dimension is the step.

    Returns:
        State after the last step.
    """
    from torch._higher_order_ops.scan import scan

    def combine(carry: Carry, slices: tuple[torch.Tensor, ...]) -> tuple[Carry, torch.Tensor]:
        # A loop must also return something for each step.
        return step(carry, *slices), slices[0].clone()

    # The tensors of a loop's state must not alias each other.
    end, _ = scan(combine, tuple(tensor.clone() for tensor in start), inputs)
    return end


class LoopExport(GraphExport):
    """Export mix-in for a model whose network has ``inference_timesteps`` and loops over them by :func:`scan_steps`."""

    def onnx_arguments(self, compression_type: CompressionType | None) -> dict[str, Any]:  # noqa: PLR6301
        """Unroll the loop for INT8, because NNCF does not quantize operations inside of loops."""
        return {"unroll": compression_type in QUANTISED}

    def tidy(self, path: Path, *, unroll: bool) -> None:
        """Unroll the loop if asked to, and remove the exporter's metadata from an ONNX file.

        Args:
            path: ONNX model, overwritten.
            unroll: Whether to unroll the loop.

        Raises:
            RuntimeError: If PyTorch's exporter did not keep the loop; the file is removed.
        """
        steps = len(self.model.inference_timesteps)
        _tidy(path, steps, unroll=unroll or steps == 1)


def _tidy(path: Path, num_steps: int, *, unroll: bool) -> None:
    """Unroll the loop of an ONNX file, or check that there is one, and remove the exporter's metadata.

    Args:
        path: ONNX model, overwritten; its file of weights stays unchanged.
        num_steps: Number of steps of the loop.
        unroll: Whether to unroll it; without a loop, nothing is.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    if unroll:
        _unroll(model.graph, num_steps)
    elif not any(node.op_type == "Scan" for node in model.graph.node):
        # If its first strategy fails, the exporter silently falls back to one that unrolls the loop.
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
    # Only the final state is used, not the outputs of each step, which follow in loop.output.
    for name, last in zip(loop.output, carry, strict=False):
        yield helper.make_node("Identity", [last], [name])
