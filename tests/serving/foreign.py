"""Clients that others wrote, in an environment of their own: they ask for packages that lowc does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from layout import ROOT

PYTHON = ROOT / "build" / "clients" / "bin" / "python"
CLIENTS = ROOT / "tests" / "clients"


def foreign_python() -> Path:
    """Return the Python of that environment, or skip; in CI it must be there."""
    if not PYTHON.exists():
        said = "foreign clients are not installed: make clients"
        if os.environ.get("CI") == "true":
            pytest.fail(said, pytrace=False)
        pytest.skip(said)
    return PYTHON


def run_file(name: str, **environment: str) -> str:
    """Run the tests of one file of tests/clients there; fail with what they print."""
    command = [
        foreign_python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest",
        "-c", os.devnull, f"--rootdir={CLIENTS}", CLIENTS / name,
    ]  # fmt: skip
    ran = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    said = f"{ran.stdout[-8000:]}\n{ran.stderr[-2000:]}"
    assert ran.returncode == 0, said
    assert " passed" in ran.stdout, said
    return ran.stdout
