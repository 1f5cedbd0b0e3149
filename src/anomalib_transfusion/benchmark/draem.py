# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's DRÆM without a download."""

from pathlib import Path

import skimage
from anomalib.models import Draem
from anomalib.pre_processing import PreProcessor

from anomalib_transfusion.synthesis.sources import PHOTOGRAPHS

__all__ = ["draem_with_photographs"]


def draem_with_photographs(
    enable_sspcab: bool = False,
    beta: float | tuple[float, float] = (0.1, 1.0),
    pre_processor: PreProcessor | bool = True,
) -> Draem:
    """Build anomalib's DRÆM with the textures of TransFusion's ``texture_source: photographs``.

    DRÆM itself downloads the Describable Textures Dataset when it is built. In a config, this function stands where the
    class would: ``class_path: anomalib_transfusion.benchmark.draem_with_photographs``.

    Args:
        enable_sspcab: As in :class:`anomalib.models.Draem`.
        beta: As in :class:`anomalib.models.Draem`.
        pre_processor: As in :class:`anomalib.models.Draem`.

    Returns:
        The model.
    """
    # A folder that exists is not downloaded into; this one holds no images.
    model = Draem(
        dtd_dir=Path(__file__).parent,
        enable_sspcab=enable_sspcab,
        beta=beta,
        pre_processor=pre_processor,
    )
    folder = Path(skimage.__file__).parent / "data"
    model.augmenter.anomaly_source_paths = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
    return model
