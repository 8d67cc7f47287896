"""An artifact is IREE's own: ``iree-run-module`` runs it as it is."""

import subprocess
from pathlib import Path

import iree._runtime_libs
import lowc
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_dynamic_bert_runs_in_iree_run_module(tmp_path, recipe):
    """With dynamic shapes an embedding takes much stack, of which stock workers have little."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=128,
    )  # fmt: skip
    model = BertModel(config).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    dims = {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("tokens", max=64)}
    with torch.no_grad():
        exported = torch.export.export(model, (ids,), dynamic_shapes=(dims,))
    artifact = lowc.compile(exported, recipe, output=tmp_path / "bert.vmfb")
    expected = lowc.load(artifact)(np.ones((3, 9), np.int64)).last_hidden_state
    tool = Path(iree._runtime_libs.__file__).parent / "iree-run-module"
    done = subprocess.run(
        [
            tool, f"--module={artifact.path}", f"--parameters=model={artifact.parameters_path}",
            "--device=local-task", "--function=main", "--input=3x9xi64=1",
            f"--output=@{tmp_path}/hidden.npy", f"--output=@{tmp_path}/pooled.npy",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load(tmp_path / "hidden.npy") - expected).max() < 1e-5
