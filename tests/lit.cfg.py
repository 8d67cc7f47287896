"""How lit runs the IR tests below this folder: ``lit tests`` from the repository's root.

``lowc`` and ``filecheck`` are found beside the Python that runs lit, so that what is tested is
what this environment has installed.
"""

import os
import shutil
import sys
from pathlib import Path

import lit.formats

config.name = "lowc"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.excludes = ["Output"]

_here = Path(__file__).resolve().parent
config.test_source_root = str(_here)
config.test_exec_root = str(_here.parent / "build" / "lit")

_tools = Path(sys.executable).parent
for _tool in ("lowc", "filecheck"):
    if shutil.which(_tool, path=str(_tools)) is None:
        lit_config.fatal(
            f"{_tool} is not installed beside {sys.executable}: pip install -e '.[dev]'"
        )
config.environment["PATH"] = f"{_tools}{os.pathsep}{os.environ['PATH']}"
