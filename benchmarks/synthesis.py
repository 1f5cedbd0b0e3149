# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Time to make a synthetic anomaly: our generator, the plain path and anomalib's ``PerlinAnomalyGenerator``.

    python benchmarks/synthesis.py --size full

Times are for an anomalous sample. "anomalies" is what ``PerlinAnomalyGenerator`` does as well; "whole samples" add the
timestep, the previous mask, the forward process and the rotation.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from contenders import SYNTHESIS, make_setting, write_textures
from measure import Comparison, options_parser

# Image size of a training, but for ``tiny``.
IMAGE_SIZES = {"tiny": 64, "small": 256, "full": 256}


def main() -> None:
    """Measure and write."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--batch", type=int, help="images in a batch: 8 on a CPU, 32 on a GPU")
    options = parser.parse_args()
    batch = options.batch or (32 if options.device == "cuda" else 8)
    with TemporaryDirectory() as textures:
        write_textures(Path(textures))
        setting = make_setting(options, batch, Path(textures), IMAGE_SIZES[options.size])
        baseline = "PerlinAnomalyGenerator"
        name = f"synthesis-{options.size}"
        Comparison(name, "SYNTHESIS", SYNTHESIS, baseline, "anomalous sample", setting, options).run()


if __name__ == "__main__":
    main()
