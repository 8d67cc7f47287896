"""The page, in a real browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import resources

import pytest
from lowc.passes.tiling import model_files
from serving import trained
from serving.foreign import run_file
from serving.server import Server


def test_in_chromium(server: Server) -> None:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("there is no Chromium: .ci/browser installs one where it may")
    run_file(
        "page.py",
        LOWC_HTTP=f"127.0.0.1:{server.port}",
        LOWC_UNIT=trained.MACHINE.unit,
        **_screenshot(),
    )


def _screenshot() -> dict[str, str]:
    path = os.environ.get("LOWC_SCREENSHOT")
    return {"LOWC_SCREENSHOT": path} if path else {}


def test_its_files(server: Server) -> None:
    """They are the package's, may load nothing from elsewhere, and name no other place."""
    folder = resources.files("lowc.tools.serve").joinpath("page")
    for path, name in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
        status, body, headers = server.ask(path)
        assert (status, body) == (200, folder.joinpath(name).read_bytes())
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not re.search(rb"https?://", body)


def test_known_words(server: Server) -> None:
    manifest = json.loads((model_files.PACKAGED / "avx512" / model_files.MANIFEST).read_text())
    packaged = manifest["machine"]["unit"]
    status, known, _ = server.ask("/v1/known")
    assert status == 200
    assert {trained.MACHINE.unit, packaged} <= set(known["units"])
    assert {"f32", "w4a8", "shift-add"} <= set(known["forms"])
    assert {"lmul", "w4a8", "shiftadd-2"} <= set(known["recipes"])
    for form in known["forms"]:
        matmul = {"form": form, "shape": [4, 64, 64]}
        assert server.ask("/v1/choose-tiles", {"matmuls": [matmul]})[0] == 200, form
