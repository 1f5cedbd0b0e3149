# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Docstrings render: Sphinx, which anomalib's documentation is made with, has nothing to say against them."""

import subprocess
import sys

from paths import ROOT

CONFIGURATION = """
project = "anomalib-transfusion"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "basic"
# Fields of a NamedTuple would otherwise be described twice.
napoleon_use_ivar = True
"""


def modules():
    """Return the names of all modules of the package."""
    source = ROOT / "src"
    for path in sorted((source / "anomalib_transfusion").rglob("*.py")):
        yield ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def test_docstrings_render(tmp_path):
    """Every public docstring of every module; a warning of Sphinx is an error."""
    names = list(modules())
    assert "anomalib_transfusion.models.transfusion.torch_model" in names
    # Packages repeat names of their modules: nothing is entered into the index.
    pages = "\n\n".join(f".. automodule:: {name}\n   :members:\n   :no-index:" for name in names)
    title = "Reference\n=========\n\n"
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    (tmp_path / "index.rst").write_text(title + pages)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", str(tmp_path), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    page = (tmp_path / "html/index.html").read_text(encoding="utf-8")
    assert "Blend the anomaly appearance into the normal one (paper Eq. 2)" in page
    # Headings of the Google style that Sphinx did not take for such would stand in the text.
    assert ">Args:<" not in page
