# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's Table 4 beside what a run of ``configs/benchmark/ablation.yaml`` found.

anomalib benchmark --config configs/benchmark/ablation.yaml
python benchmarks/ablation.py runs/benchmark/ablation/results.csv
"""

import argparse
from pathlib import Path

import pandas as pd

import record
from anomalib_transfusion.files import written_whole

BASE = "TransFusion"
METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "pixel_AUPRO": "AUPRO"}
# Differences of the image AUROC in points on VisA and on MVTec AD, as the text of Section 4.6 has them.
PAPER = {
    "no positional encoding": "-1.4, -1.9",
    "no previous mask": "-1.2, -2.4",
    "no L_n": "-31.8, -26.0",
    "no L_m": "about -1",
    "no L_a": "about -1",
    "no L_c": "about -1",
    "last mask only": "-1.5, -1.4",
    "M_disc only": "-0.1, -0.2",
    "M_recon only": "-0.9, -0.7",
    "5 timesteps": "robust",
    "10 timesteps": "robust",
    "50 timesteps": "robust",
    "quadratic schedule": "-2.0, -2.0",
    "root schedule": "-1.7, -0.7",
}


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Make the table: means over the seeds in %, differences from the base in points, and the paper's.

    Args:
        rows: The benchmark's table, ``results.csv``.

    Returns:
        A row a row of Table 4. The spread, where there are several seeds, is half of their range; differences are taken
        within a seed, and have their range in brackets.
    """
    done = rows[rows["status"] == "done"].set_index(["name", "seed"])[list(METRICS)] * 100
    groups = done.groupby("name", sort=False)
    mean, spread = groups.mean(), (groups.max() - groups.min()) / 2
    # Within a seed, where both rows are there.
    base = done[done.index.get_level_values("name") == BASE].droplevel("name")
    pairs = (done - base.reindex(done.index, level="seed")).dropna().groupby("name", sort=False)
    differences, lowest, highest = pairs.mean(), pairs.min(), pairs.max()
    table = pd.DataFrame({"seeds": groups.size()})
    for metric, title in METRICS.items():
        table[title] = [
            f"{value:.1f} ± {half:.1f}" if seeds > 1 else f"{value:.1f}"
            for value, half, seeds in zip(mean[metric], spread[metric], table["seeds"], strict=True)
        ]
        table[f"{title}, difference"] = [
            ""
            if name == BASE or name not in differences.index
            else f"{differences[metric][name]:+.1f} ({lowest[metric][name]:+.1f} to {highest[metric][name]:+.1f})"
            for name in table.index
        ]
    table["image AUROC, the paper's differences (VisA, MVTec AD)"] = [PAPER.get(name, "") for name in table.index]
    return table


def main() -> None:
    """Read, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.csv of the benchmark")
    parser.add_argument("--output", type=Path, default=record.ROOT / "results" / "ablation.md")
    options = parser.parse_args()
    rows = pd.read_csv(options.results)
    table = compare(rows)
    first = rows.iloc[0]
    lines = [
        "# The paper's Table 4 at a reduced size",
        "",
        "    anomalib benchmark --config configs/benchmark/ablation.yaml",
        f"    python benchmarks/ablation.py {options.results}",
        "",
        f"{first['data.class_path']} {first['category']}; {first['device']}, anomalib {first['version_anomalib']}, "
        f"torch {first['version_torch']}. Means over the seeds in %, ± half of their range. Differences in points, "
        "within a seed; in brackets their range.",
        "",
        str(table.to_markdown(disable_numparse=True)),
        "",
    ]
    failed = rows[rows["status"] != "done"]
    lines += [f"- {row['name']}, seed {row['seed']}: {row['status']}, {row['error']}" for _, row in failed.iterrows()]
    with written_whole(options.output) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
