"""Runs lit over tests/filecheck, once, and reports each of its files as a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from layout import ROOT

FOLDER = ROOT / "tests" / "filecheck"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.mlir"))


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """File → lit's verdict and output."""
    report = tmp_path_factory.mktemp("lit") / "report.json"
    lit = Path(sys.executable).with_name("lit")
    command = [lit, "-q", "--timeout", "300", "--output", report, FOLDER]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert report.exists(), f"lit did not run:\n{ran.stdout}{ran.stderr}"
    tests = json.loads(report.read_text())["tests"]
    found = {t["name"].partition("filecheck/")[2]: (t["code"], t.get("output", "")) for t in tests}
    assert set(found) == set(FILES), "lit ran other files than there are"
    return found


@pytest.mark.filecheck
@pytest.mark.parametrize("file", FILES)
def test_file(file: str, results: dict[str, tuple[str, str]]) -> None:
    code, output = results[file]
    assert code == "PASS", f"{code}: tests/filecheck/{file}\n{output}"
