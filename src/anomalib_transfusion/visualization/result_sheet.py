# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""A result sheet for each image, and an HTML page to browse all sheets of a run."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.post_processing import PostProcessor
from anomalib.utils.path import convert_to_title_case, generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.item_visualizer import visualize_image_item
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import distributed
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_transfusion.categories.attach import applied_post_processor
from anomalib_transfusion.categories.pictures import folder_of_category
from anomalib_transfusion.data.category_dataset import CategoryDataset
from anomalib_transfusion.files import fitting_name, marked_name, written_whole
from anomalib_transfusion.training.image_files import evaluated_images

from .output_names import as_one_name, plain_path, tell_apart
from .panels import RECONSTRUCTION
from .result_page import Result, Summary, write_page
from .sheet_drawing import caption, difference_panel, halves, labeled, side_by_side

__all__ = ["ResultSheet"]

# Formats that browsers show; sheets of images in other formats are PNG.
SHOWN_BY_BROWSERS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
NAMES = {"gt_mask": "Ground truth", "pred_mask": "Predicted mask", "anomaly_map": "Anomaly map"}


class ResultSheet(ImageVisualizer):
    """anomalib's image visualizer with verdict, reconstruction and difference, and a page to browse all sheets.

    The parameters are those of :class:`anomalib.visualization.ImageVisualizer`. If a model has an attribute ``panels``,
    images of the last batch in [0, 1] by name, these are shown as well, and the difference of image and
    ``Reconstruction`` if that is among them. Without ``output_dir`` the sheets and the page ``index.html`` go to the
    folder ``images`` of the run, and those of predictions to ``images/predictions``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        # Results of the current run by sheet, so that an image that occurs twice is listed once.
        self._results: dict[str, Result] = {}
        self._places: dict[Path, PurePath] = {}
        self._claimed: set[str] = set()

    def panels(self, item: ImageItem, shown: Mapping[str, torch.Tensor] | None = None) -> list[Image.Image]:
        """Draw the panels of a sheet: anomalib's, the model's, and the difference of image and reconstruction.

        Args:
            item: Image with predictions.
            shown: Images of the model's ``panels`` in [0, 1] by name, ``(C, H, W)`` each.

        Returns:
            The panels; an empty list if anomalib's visualizer draws nothing.
        """
        width, height = self.field_size
        drawn = visualize_image_item(
            item,
            fields=self.fields,
            overlay_fields=self.overlay_fields,
            field_size=self.field_size,
            fields_config=self.fields_config,
            overlay_fields_config=self.overlay_fields_config,
            text_config={"enable": False},
        )
        if drawn is None:
            return []
        panels = [drawn.crop((x, 0, x + width, height)) for x in range(0, drawn.width, width)]
        names = self._names(item)
        extra = {name: to_pil_image(image.float().cpu()) for name, image in (shown or {}).items()}
        if shown and RECONSTRUCTION in shown:
            extra["Difference"] = difference_panel(item.image, shown[RECONSTRUCTION])  # type: ignore[arg-type]
        names += extra
        panels += [panel.convert("RGB").resize((width, height)) for panel in extra.values()]
        if not self.text_config.get("enable", True):
            return panels
        text_config = {key: value for key, value in self.text_config.items() if key != "enable"}
        return [labeled(panel, name, text_config) for name, panel in zip(names, panels, strict=True)]

    def _names(self, item: ImageItem) -> list[str]:
        """Return the names of the panels that anomalib's visualizer draws."""

        def there(field: str) -> bool:
            return getattr(item, field, None) is not None or (field == "image" and item.image_path is not None)

        def name(field: str) -> str:
            return NAMES.get(field, convert_to_title_case(field))

        names = [name(field) for field in self.fields if there(field)]
        for base, overlays in self.overlay_fields:
            shown = [name(field) for field in overlays if there(field)]
            if there(base):
                # A panel is named after the overlays alone if they lie over the image.
                names.append(" + ".join(shown if base == "image" and shown else [name(base), *shown]))
        return names

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the results, and choose the paths of the sheets of this run."""
        del pl_module
        self._results = {}
        name, categories = getattr(getattr(trainer, "datamodule", None), "name", None), categories_of_images(trainer)
        images: dict[PurePath, list[Path]] = {}
        for image in map(plain_path, evaluated_images(trainer)):
            images.setdefault(folder_of_category(categories.get(image, ""), image, name), []).append(image)
        self._places = {
            image: PurePath(folder, place)
            for folder, some in images.items()
            for image, place in tell_apart(some, lambda image: usual_place(image, trainer)).items()
        }
        self._claimed = {as_one_name(*place.parts) for place in self._places.values()}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the results, and choose the paths of the sheets of this run."""
        self.on_test_start(trainer, pl_module)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the sheets of a batch, in folders named as in the data set."""
        del outputs, batch_idx, dataloader_idx
        folder = self._folder(trainer)
        threshold, _ = threshold_of(pl_module)
        for item, panels in self._drawn(batch, getattr(pl_module, "panels", {})):
            # An image without a file is named by a number.
            unnamed = f"image_{trainer.global_rank}_{len(self._results):05}"
            place = self._place(plain_path(item.image_path or unnamed), trainer)
            filename = folder / place
            result = Result(
                sheet=place.as_posix(),
                kind=Path(item.image_path or "").parent.name,
                score=float("nan") if item.pred_score is None else float(item.pred_score),
                # Without a threshold, anomalib's label is no verdict.
                verdict=None if threshold is None or item.pred_label is None else bool(item.pred_label),
                truth=None if item.gt_label is None else bool(item.gt_label),
                category=getattr(item, "category", None) or "",
            )
            parts = halves(panels)
            above = None
            if self.text_config.get("enable", True):
                # Over the left half, which the page shows above the right one.
                above = caption(parts[0][1], self.field_size[1], result, threshold, self.text_config.get("font"))
            sheet = side_by_side(panels, above)
            with written_whole(filename) as partial:
                # The quality applies to lossy formats; others ignore it.
                sheet.save(partial, format=Image.registered_extensions()[filename.suffix.lower()], quality=92)
            self._results[result.sheet] = replace(result, size=sheet.size, parts=parts)

    def _drawn(
        self,
        batch: ImageBatch,
        shown: Mapping[str, torch.Tensor],
    ) -> Iterator[tuple[ImageItem, list[Image.Image]]]:
        """Yield the images of a batch that have panels to draw, with these panels."""
        for number, item in enumerate(batch):
            if panels := self.panels(item, {name: images[number] for name, images in shown.items()}):
                yield item, panels

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page over the sheets of all processes, and say where it is."""
        results = self._results
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, results)
            results = {sheet: result for part in gathered for sheet, result in part.items()}
        if not results or not trainer.is_global_zero:
            return
        threshold, note = threshold_of(pl_module)
        note = note_by_category(trainer, results.values()) or note
        auroc = trainer.callback_metrics.get("image_AUROC") if trainer.testing else None
        # AUROC is undefined for images of one class, whatever the metric returns.
        measured = auroc is not None and {True, False} <= {result.truth for result in results.values()}
        summary = Summary(
            model=type(pl_module).__name__,
            data=data_name(trainer, results.values()),
            date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            threshold=threshold,
            threshold_note=note,
            image_auroc=float(auroc) if auroc is not None and measured else None,
        )
        page = write_page(self._folder(trainer), list(results.values()), summary)
        sheets = "1 result sheet" if len(results) == 1 else f"{len(results)} result sheets"
        rank_zero_info(f"{sheets}, and a page to browse them: {page}")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page over the sheets of all processes, and say where it is."""
        self.on_test_end(trainer, pl_module)

    def _place(self, image: Path, trainer: Trainer) -> PurePath:
        """Return the path of an image's sheet, relative to the folder of the sheets."""
        if image not in self._places:
            # The data set did not list its files beforehand, and the names that other processes use are unknown.
            place = usual_place(image, trainer)
            if trainer.world_size > 1 or as_one_name(*place.parts) in self._claimed:
                place = place.with_name(marked_name(place.name, str(image)))
            self._places[image] = place.with_name(fitting_name(place.name))
            self._claimed.add(as_one_name(*self._places[image].parts))
        return self._places[image]

    def _folder(self, trainer: Trainer) -> Path:
        """Return the folder of this run's sheets."""
        if self.output_dir:
            return Path(self.output_dir)
        folder = Path(trainer.default_root_dir) / "images"
        # Predictions of test images have no ground truth: they must not replace the sheets and the page of the test.
        return folder / "predictions" if trainer.predicting else folder


def categories_of_images(trainer: Trainer) -> dict[Path, str]:
    """Return the category of each test image; an empty dictionary if the data has no categories.

    Args:
        trainer: Trainer of the run.
    """
    dataset = getattr(getattr(trainer, "datamodule", None), "test_data", None)
    if not isinstance(dataset, CategoryDataset):
        return {}
    return dict(zip(map(plain_path, dataset.samples.image_path), dataset.categories, strict=True))


def usual_place(image: Path, trainer: Trainer) -> PurePath:
    """Return anomalib's path for the picture of an image, relative to the folder of the pictures.

    Args:
        image: The image.
        trainer: Trainer of the run.

    Returns:
        The path; with the suffix ``.png`` added if browsers do not show the image's format.
    """
    datamodule = getattr(trainer, "datamodule", None)
    place = generate_output_filename(
        input_path=image,
        output_path="",
        dataset_name=getattr(datamodule, "name", None),
        category=getattr(datamodule, "category", None),
        mkdir=False,
    )
    return place if place.suffix.lower() in SHOWN_BY_BROWSERS else place.with_name(f"{place.name}.png")


def data_name(trainer: Trainer, results: Iterable[Result]) -> str:
    """Return the names of data set and category, or of the folders that were predicted."""
    datamodule = getattr(trainer, "datamodule", None)
    names = [getattr(datamodule, "name", None), getattr(datamodule, "category", None)]
    return ", ".join(filter(None, names)) or ", ".join(sorted({result.kind for result in results}))


def note_by_category(trainer: Trainer, results: Iterable[Result]) -> str:
    """Return a sentence about the thresholds of categories; an empty text if they have no thresholds of their own.

    Args:
        trainer: Trainer of the run.
        results: Result for each image.
    """
    categories = sorted({result.category for result in results})
    found = {name: applied for name in categories if (applied := applied_post_processor(trainer, name)) is not None}
    # Without normalization, anomalib compares the scores of all images with one number.
    if not any(getattr(applied, "enable_normalization", False) for applied in found.values()):
        return ""
    listed = ", ".join(f"{category} {float(applied.image_threshold):#.4g}" for category, applied in found.items())
    rest = "" if len(found) == len(categories) else " The other categories have the pooled one."
    return f"Scores are normalized by category, so that 0.5 is the threshold found for each ({listed} before).{rest}"


def threshold_of(model: LightningModule) -> tuple[float | None, str]:
    """Return the threshold on the scale of the scores, and a sentence about it.

    Args:
        model: Model with anomalib's post-processor, or without one.

    Returns:
        The threshold, or ``None`` if the model applies none, and the sentence.
    """
    post_processor = getattr(model, "post_processor", None)
    if not isinstance(post_processor, PostProcessor):
        return None, "Without a post-processor, scores are the model's own, and no threshold says what is a defect."
    if not post_processor.enable_thresholding:
        return None, "The post-processor was told to apply no threshold."
    threshold = float(post_processor.normalized_image_threshold)
    raw = float(post_processor.image_threshold)
    if math.isnan(raw):
        return threshold, (
            "The model was never validated on labeled defects, so this is anomalib's threshold and not one that was "
            "measured."
        )
    if not post_processor.enable_normalization:
        return threshold, "Scores are not normalized; this is what anomalib compares them with."
    good, defective = getattr(model, "validated_on", None) or (1, 1)
    if not good or not defective:
        found = "lowest score of the defects" if defective else "highest score of the good images"
        return threshold, (
            f"The validation images were all {'defective' if defective else 'good'}, so no threshold could be found: "
            f"scores are normalized so that 0.5 is the {found} among them ({raw:#.4g} before)."
        )
    return threshold, f"Scores are normalized so that 0.5 is the threshold found in validation ({raw:#.4g} before)."
