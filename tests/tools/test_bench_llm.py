"""``lowc bench llm`` on a tiny network: its rows, the opponent's file, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from lowc.errors import InternalError
from lowc.tools.bench import llm_gguf
from lowc.tools.bench.llm_files import kind_of
from lowc.tools.bench.llm_process import Process
from lowc.tools.bench.other_load import OtherLoad
from lowc.tools.cli import main

TINY = [
    "--hidden", "32", "--layers", "1", "--heads", "4", "--kv-heads", "2", "--feed-forward", "64",
    "--vocabulary", "64", "--prompts", "6", "--contexts", "5,9", "--steps", "3", "--blocks", "2",
    "--threads", "1",
]  # fmt: skip
PEER = os.environ.get("LOWC_LLAMA_PYTHON") or sys.executable
HAS_PEER = sys.executable != PEER or all(map(util.find_spec, ("llama_cpp", "gguf")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    return tmp_path_factory.mktemp("llm")


@pytest.mark.slow
def test_prompts_steps_and_memory_are_measured(folder, capsys):
    against = ["--against", "llama.cpp", "--llama-python", PEER] if HAS_PEER else ["--against", ""]
    given = ["bench", "llm", *TINY, "--cache", "i8", *against, "--folder", str(folder)]
    assert main([*given, "--json", "--keep", str(folder / "kept")]) == 0
    record = json.loads(capsys.readouterr().out)
    names = ["lowc:w4a8-i8", "llama.cpp:q4_0"] if HAS_PEER else ["lowc:w4a8-i8"]
    assert [row["name"] for row in record["rows"]] == names
    for row in record["rows"]:
        assert list(row["prefill"]) == ["6"] and list(row["decode"]) == ["5", "9"]
        assert row["prefill"]["6"]["calls"] == 2 and row["decode"]["9"]["calls"] == 6
        assert 0 < row["load_s"] < row["first_token_s"]
        # The same network: weights in 4 bits say nearly what PyTorch says, wrong ones do not.
        assert 0.97 < row["cosine"] <= 1
        assert row["peak_bytes"] > row["before_bytes"] > 1 << 20
    assert list(record["other_cores"]) == ["prefill 6", "decode 5", "decode 9"]
    (kept,) = (folder / "kept").iterdir()
    assert kept.name.startswith("llm-w4a8-") and json.loads(kept.read_text()) == record
    # What is there is taken as it is, by the same network alone.
    assert main([*given, "--prepare"]) == 0
    assert "compiling" not in capsys.readouterr().err
    assert main([*given, "--layers", "2"]) == 2
    assert "files of another network" in capsys.readouterr().err


def test_pairs_turn_as_halves_do():
    generator = np.random.default_rng(0)
    weight, x = generator.standard_normal((12, 5)), generator.standard_normal(5)
    heads, angles = 2, np.array([0.3, 1.1, 2.0])
    halves = (weight @ x).reshape(heads, 2, 3)
    low, high = halves[:, 0], halves[:, 1]
    turned = [low * np.cos(angles) - high * np.sin(angles)]
    turned.append(high * np.cos(angles) + low * np.sin(angles))
    pairs = (llm_gguf.in_pairs(weight, heads) @ x).reshape(heads, 3, 2)
    one, other = pairs[..., 0], pairs[..., 1]
    np.testing.assert_allclose(one * np.cos(angles) - other * np.sin(angles), turned[0])
    np.testing.assert_allclose(other * np.cos(angles) + one * np.sin(angles), turned[1])


def test_weights_have_the_names_that_llama_cpp_reads():
    assert llm_gguf.gguf_name("model.layers.3.mlp.up_proj.weight") == "blk.3.ffn_up.weight"
    assert llm_gguf.gguf_name("model.layers.0.input_layernorm.weight") == "blk.0.attn_norm.weight"
    assert llm_gguf.gguf_name("model.norm.weight") == "output_norm.weight"
    assert llm_gguf.gguf_name("lm_head.weight") == "output.weight"


def test_blocks_have_the_bits_of_the_recipe():
    assert [kind_of([name]) for name in ("w4a8", "w8a8", "f32")] == ["q4_0", "q8_0", "q4_0"]


def test_a_python_without_llama_cpp_is_refused(tmp_path, capsys):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    assert main(["bench", "llm", "--llama-python", str(bare)]) == 2
    said = capsys.readouterr().err
    assert "has no llama.cpp" in said and "pip install llama-cpp-python gguf" in said
    assert main(["bench", "llm", "--llama-python", str(tmp_path / "none")]) == 2
    assert "there is no Python" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [(["--prompts", "1"], "2 or more"), (["--contexts", "a"], "no list"),
     (["--cache", "i3"], "no format of a cache"), (["--against", "vllm"], "vllm"), (["--against", "", "--prepare"], "no folder")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(given, words, capsys):
    assert main(["bench", "llm", *given]) == 2
    assert words in capsys.readouterr().err


def _spin(seconds):
    code = (
        f"import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
    )
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="it reads Linux's counters")
def test_what_others_take_is_counted_and_what_is_measured_is_not():
    stranger = OtherLoad([])
    begun = time.perf_counter()
    _spin(0.3).wait()
    taken = stranger.cores() * (time.perf_counter() - begun)
    assert taken > 0.15
    measured = _spin(0.3)
    both, without = OtherLoad([]), OtherLoad([measured.pid])
    # It has ended, and its counters are still there.
    os.waitid(os.P_PID, measured.pid, os.WEXITED | os.WNOWAIT)
    assert without.cores() < both.cores()
    measured.wait()


def test_a_contender_that_fails_says_why():
    command = [sys.executable, "-m", "lowc.tools.bench.llm_worker"]
    expected = pytest.raises(InternalError, match=r"lowc:f32 ended: UserError: .*missing\.vmfb")
    with Process(command, "lowc:f32", Path("missing.vmfb"), 1, 8) as process, expected:
        process.ask("load", tokens=[1, 2])
