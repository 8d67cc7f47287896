"""NVIDIA's assembler, from the PATH or from where `make ptxas` puts it."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_FETCHED = Path(__file__).parents[2] / "build" / "ptxas"


@functools.cache
def assembler():
    """The path of ``ptxas``; where there is none, the test is skipped."""
    found = shutil.which("ptxas") or shutil.which("ptxas", path=str(_FETCHED))
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no ptxas: `make ptxas` could not get it")
    if found is None:
        pytest.skip("there is no ptxas to assemble PTX with: `make ptxas` gets it")
    return found


def assemble(text, arch):
    """Assemble PTX for a chip; return what is said of each kernel's registers."""
    done = subprocess.run(
        [assembler(), f"-arch={arch}", "-v", "-o", "/dev/null", "/dev/stdin"],
        input=text, capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 0, said[-2000:]
    return said
