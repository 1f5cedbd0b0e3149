# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics that are NaN where a class is missing, checks of metrics, and the images that thresholds were found on."""

from typing import Any

import torch
from anomalib import metrics
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT

__all__ = ["AUPRO", "AUROC", "F1Score", "RemembersValidation", "check_metrics", "default_evaluator"]

# Fields that the post-processor sets, in tests and predictions only.
LABELS = {"pred_label", "pred_mask"}
KINDS = ("good", "defective")
VALIDATED_KEY = "transfusion_validated_on"


class _Defined:
    """Mix-in that makes a metric of anomalib NaN, not 0, if the ground truth lacks a class that it needs.

    The second of the metric's ``fields`` is the ground truth: 0 for a good image or pixel, 1 for a defective one.
    """

    needs: tuple[int, ...] = (0, 1)
    """Classes that the ground truth must have for a value: 0 for good, 1 for defective."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.seen: torch.Tensor
        self.add_state("seen", default=torch.zeros(len(KINDS)), dist_reduce_fx="max")  # type: ignore[attr-defined]

    def update(self, batch: Batch, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Update the metric, and remember the classes in the ground truth.

        Args:
            batch: Batch with the fields of the metric.
            args: Passed to anomalib's metric.
            kwargs: Passed to anomalib's metric.
        """
        prediction, truth = (getattr(batch, field, None) for field in self.fields)  # type: ignore[attr-defined]
        if prediction is not None and truth is not None:
            defective = truth > 0
            found = torch.stack([(~defective).any(), defective.any()])
            self.seen = torch.maximum(self.seen, found.to(self.seen))
        super().update(batch, *args, **kwargs)  # type: ignore[misc]

    def compute(self) -> torch.Tensor | None:
        """Compute the metric.

        Returns:
            The value; NaN if the ground truth lacks a class, ``None`` if there was no ground truth at all.
        """
        absent = [KINDS[kind] for kind in self.needs if not self.seen[kind]]
        if not self.seen.any() or not absent:
            return super().compute()  # type: ignore[misc]
        name = self.name  # type: ignore[attr-defined]
        what = "pixel" if name.startswith("pixel") else "image"
        msg = (
            f"{name} is not a number: no {what} of the truth is {absent[0]}, but the metric compares with such. Add "
            "some to the data set to measure it."
        )
        rank_zero_warn(msg)
        return torch.full((), float("nan"), device=self.seen.device)


class AUROC(_Defined, metrics.AUROC):  # type: ignore[misc]
    """Area under the receiver operating characteristic."""


class F1Score(_Defined, metrics.F1Score):  # type: ignore[misc]
    """F1 score, which needs defective images or pixels but no good ones."""

    needs = (1,)


class AUPRO(_Defined, metrics.AUPRO):  # type: ignore[misc]
    """Area under the per-region overlap."""


def default_evaluator() -> Evaluator:
    """Return the default evaluator.

    Returns:
        Evaluator: Image AUROC in validation; image AUROC and F1, pixel AUROC and F1, and AUPRO in testing. Metrics that
        need masks or predicted labels are left out if there are none.
    """
    aupro = AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
    # Not in the state dict: a checkpoint must load into a model with other metrics.
    aupro.register_buffer("fpr_limit", torch.as_tensor(aupro.fpr_limit), persistent=False)
    return Evaluator(
        val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")],
        test_metrics=[
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            F1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False),
            AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False),
            F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
            aupro,
        ],
    )


def check_metrics(model: AnomalibModule) -> None:
    """Log which metrics are left out because the model predicts no labels, before the run.

    Args:
        model: The model, with its post-processor and evaluator or without.

    Raises:
        ValueError: If a metric with ``strict=True`` needs labels that no post-processor will set; names the metric.
    """
    evaluator: Any = model.evaluator
    if not isinstance(evaluator, Evaluator):
        return
    post_processor: Any = model.post_processor
    val_metrics: Any = evaluator.val_metrics
    test_metrics: Any = evaluator.test_metrics
    labels_in_tests = post_processor is not None and getattr(post_processor, "enable_thresholding", True)
    lacking = [("validation", metric) for metric in val_metrics if LABELS & set(metric.fields)]
    if not labels_in_tests:
        lacking += [("test", metric) for metric in test_metrics if LABELS & set(metric.fields)]
    for stage, metric in lacking:
        if metric.strict:
            reason = "a threshold is applied after it alone" if stage == "validation" else "the model has no threshold"
            msg = (
                f"The metric {metric.name} needs {' and '.join(sorted(LABELS & set(metric.fields)))}, which do not "
                f"exist in the {stage}: {reason}. Build the metric with strict=False to leave it out, or use "
                "post_processor=True and a metric of the test."
            )
            raise ValueError(msg)
    if lacking:
        names = ", ".join(metric.name for _, metric in lacking)
        rank_zero_info(f"{names}: left out, since there are no labels without a post-processor that has a threshold.")


class RemembersValidation(LightningModule):
    """Model mix-in that counts the images that the threshold was computed from, and saves the counts in checkpoints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.validated_on: list[int] | None = None
        """Numbers of good and defective images that the threshold was computed from; ``None`` if unknown."""

        self._counts = torch.zeros(len(KINDS), dtype=torch.long)

    def on_validation_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Count good and defective images on their device, so that the host does not wait for a GPU."""
        del outputs, args, kwargs
        labels: Any = batch.gt_label
        if labels is not None:
            defective = (labels > 0).sum()
            self._counts = self._counts.to(labels.device) + torch.stack([labels.numel() - defective, defective])

    def on_validation_epoch_end(self) -> None:
        """Sum the counts of all processes."""
        counts: Any = self.all_gather(self._counts.to(self.device))
        self._counts = torch.zeros(len(KINDS), dtype=torch.long)
        self.validated_on = counts.reshape(-1, len(KINDS)).sum(dim=0).tolist()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the numbers of images that the threshold was computed from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[VALIDATED_KEY] = self.validated_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the numbers of images that the threshold was computed from."""
        super().on_load_checkpoint(checkpoint)
        self.validated_on = checkpoint.get(VALIDATED_KEY)
