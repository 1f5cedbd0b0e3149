# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""What the tests of sheets and pages share."""

import json
import re

from commands import typed

EMBEDDED = re.compile(r'<script type="application/json" id="results">(.*?)</script>', re.DOTALL)


def embedded(page):
    """Return the data of a page."""
    return json.loads(EMBEDDED.search(page.read_text(encoding="utf-8")).group(1))


def facts(page):
    """Return what the head of a page lists."""
    return dict(embedded(page)["facts"])


def anomalib(*arguments, folder):
    """Run the command line in a folder, and return what it printed, without line breaks."""
    done = typed("anomalib", *arguments, folder=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return (done.stdout + done.stderr).replace("\n", "")
