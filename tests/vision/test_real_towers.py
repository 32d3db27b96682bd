"""`TimmVision` and `OpenClipVision` with timm and open_clip, in an environment of its own.

Both import torchvision, of which a package index may have no build that fits the installed torch. Its Python modules
need no more of it than the declarations of two operators, which are made where its library cannot be loaded. This needs
a package index, and takes some minutes: `pytest -m slow tests/vision/test_real_towers.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OPERATORS = """
from pathlib import Path

import torch

try:
    torch.ops.load_library(str(Path(__file__).parent / "torchvision" / "_C.so"))
except OSError:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def fitting_torchvision() -> str:
    """Returns the release of torchvision for the installed torch: 0.28 for 2.13."""
    major, minor = torch.__version__.split(".")[:2]
    assert major == "2"
    return f"torchvision==0.{int(minor) + 15}.*"


def test_the_towers_of_both_libraries_pass(tmp_path: Path) -> None:
    venv.create(tmp_path / "environment")
    python = tmp_path / "environment" / "bin" / "python"
    (packages,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    wanted = ["timm>=1.0.31", "open_clip_torch>=3.3", fitting_torchvision(), "ftfy", "wcwidth"]
    subprocess.run([*install, *wanted], check=True)
    host = sysconfig.get_path("purelib")
    (packages / "host.pth").write_text(f"import site; site.addsitedir({host!r})\n")
    (packages / "missing_operators.py").write_text(OPERATORS)
    (packages / "operators.pth").write_text("import missing_operators\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    kept |= {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/vision/real_towers.py"]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
