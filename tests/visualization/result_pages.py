# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What the tests of sheets and pages share."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ANOMALIB = Path(sys.executable).with_name("anomalib")
EMBEDDED = re.compile(r'<script type="application/json" id="results">(.*?)</script>', re.DOTALL)


def embedded(page):
    """Return the data of a page."""
    return json.loads(EMBEDDED.search(page.read_text(encoding="utf-8")).group(1))


def facts(page):
    """Return what the head of a page lists."""
    return dict(embedded(page)["facts"])


def anomalib(*arguments, folder):
    """Run the command line in a folder, and return what it printed, without line breaks."""
    done = subprocess.run(
        [ANOMALIB, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return (done.stdout + done.stderr).replace("\n", "")
