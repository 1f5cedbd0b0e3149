# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What the brightness of an image alone tells of its label, category by category: a check of the data, not of a model.

    python benchmarks/brightness.py --root datasets/MVTecAD --categories screw magnetic_tile

The brightness is the mean of all pixels and channels. Where its AUROC is far from 0.5, a model may have its image AUROC
from the light of the photographs: above, where it takes bright images for anomalous; below, where any deviation from
the training's brightness raises its score and good test images deviate most.
"""

import argparse
from pathlib import Path

import torch
from anomalib.data import MVTec
from torch.utils.data import Dataset
from torchmetrics.functional.classification import binary_auroc

import record


def brightness(dataset: Dataset) -> torch.Tensor:
    """Return the mean of all pixels of each image, ``(N,)``."""
    return torch.stack([dataset[index].image.float().mean() for index in range(len(dataset))])  # type: ignore[arg-type]


def auroc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the AUROC of scores of any range."""
    # torchmetrics takes scores beyond [0, 1] for logits.
    return binary_auroc((scores - scores.min()) / (scores.max() - scores.min()), labels.long()).item()


def row_of(training: torch.Tensor, test: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Describe a category by the brightness of its images."""
    return {
        "training": training.mean().item(),
        "good": test[~labels].mean().item(),
        "defective": test[labels].mean().item(),
        "AUROC of the brightness": auroc(test, labels),
        "AUROC of the distance from the training's mean": auroc((test - training.mean()).abs(), labels),
    }


def main() -> None:
    """Read all images of each category, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in MVTec AD's layout")
    parser.add_argument("--categories", nargs="+", required=True)
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for category in options.categories:
        data = MVTec(root=options.root, category=category, num_workers=0)
        data.prepare_data()
        data.setup()
        labels = torch.tensor(data.test_data.samples["label_index"].to_numpy()).bool()
        rows[category] = row_of(brightness(data.train_data), brightness(data.test_data), labels)
    columns = ["", *next(iter(rows.values()))]
    record.show(
        "Brightness in [0, 1]",
        columns,
        [[category, *(f"{value:.3f}" for value in row.values())] for category, row in rows.items()],
        [],
    )


if __name__ == "__main__":
    main()
