# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A sheet for each image: the image, the truth where it is known, the anomaly map and the reconstruction."""

from collections.abc import Iterator
from pathlib import Path

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import add_text_to_image, create_image_grid
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_transfusion.files import written_whole

__all__ = ["ResultSheet"]


class ResultSheet(ImageVisualizer):
    """anomalib's image visualizer with the reconstruction as a further panel.

    It takes the parameters of :class:`anomalib.visualization.ImageVisualizer`. The model has to keep the
    reconstructions of the batch that it evaluated last in an attribute ``reconstruction``, as TransFusion does. Without
    ``output_dir`` the sheets go to the folder ``images`` of the run.
    """

    def sheets(self, batch: ImageBatch, reconstructions: torch.Tensor) -> Iterator[tuple[ImageItem, Image.Image]]:
        """Draw the sheets of a batch.

        Args:
            batch: Images with predictions.
            reconstructions: x_0 of each image in [0, 1], ``(B, 3, H, W)``.

        Yields:
            Each image and its sheet.
        """
        width, height = self.field_size
        for item, reconstruction in zip(batch, reconstructions, strict=True):
            panel = to_pil_image(reconstruction.float().cpu()).resize((width, height))
            if self.text_config.get("enable", True):
                text_config = {key: value for key, value in self.text_config.items() if key != "enable"}
                panel = add_text_to_image(panel, "Reconstruction", **text_config)
            panels = self.visualize(item)
            if isinstance(panels, Image.Image):
                columns = [panels.crop((x, 0, x + width, height)) for x in range(0, panels.width, width)]
                yield item, create_image_grid([*columns, panel], nrow=len(columns) + 1)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the sheets of a batch, in the folders that the images have in their data set."""
        del outputs, batch_idx, dataloader_idx
        datamodule = getattr(trainer, "datamodule", None)
        reconstructions: torch.Tensor = pl_module.reconstruction  # type: ignore[assignment]
        for item, sheet in self.sheets(batch, reconstructions):
            filename = generate_output_filename(
                input_path=item.image_path or "",
                output_path=self._folder(trainer),
                dataset_name=getattr(datamodule, "name", None),
                category=getattr(datamodule, "category", None),
            )
            with written_whole(filename) as partial:
                sheet.save(partial, format=Image.registered_extensions()[filename.suffix.lower()])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the sheets are."""
        del pl_module
        rank_zero_info(f"Result sheets (image, truth, anomaly map, mask, reconstruction): {self._folder(trainer)}")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the sheets are."""
        self.on_test_end(trainer, pl_module)

    def _folder(self, trainer: Trainer) -> Path:
        """Return the folder of this run's sheets."""
        return Path(self.output_dir or Path(trainer.default_root_dir) / "images")
