# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Time of a training step, from normal images to the optimizer's step: ours, its variants and the plain path.

    python benchmarks/training_step.py --size small

Times are for a sample of the batch. "synthesis alone" is the part of "default" that makes the samples.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from contenders import TRAINING, make_setting, write_textures
from measure import Comparison, options_parser

# On a CPU a step of the full network takes half a minute with the paper's batch.
BATCHES = {("tiny", "cpu"): 2, ("full", "cpu"): 2}
PAPER_BATCH = 8


def main() -> None:
    """Measure and write."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--batch", type=int, help="images in a batch; 8 is the paper's")
    options = parser.parse_args()
    batch = options.batch or BATCHES.get((options.size, options.device), PAPER_BATCH)
    with TemporaryDirectory() as textures:
        write_textures(Path(textures))
        setting = make_setting(options, batch, Path(textures))
        name = f"training-step-{options.size}-batch{batch}"
        Comparison(name, "TRAINING", TRAINING, "plain path", "sample", setting, options).run()


if __name__ == "__main__":
    main()
