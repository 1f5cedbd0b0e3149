# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""`make` alone says what can be made, and does nothing."""

import re
import shutil
import subprocess

import pytest

from paths import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_prints_every_target_and_variable(tmp_path):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    shutil.copy(ROOT / "Makefile", tmp_path)
    printed = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    lines = dict(re.findall(r"^  ([\w-]+) +(\S.*)$", printed, flags=re.MULTILINE))
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    variables = re.findall(r"^([A-Z_]+) \?=", text, flags=re.MULTILINE)
    assert {"demo", "test", "quality"} < set(targets)
    assert "MINUTES" in variables
    assert set(lines) == {*targets, *variables}
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
