"""The script that trains a small GPT: it learns, what it saves compiles, bits per token are told."""

import json

import numpy as np
import pytest
from lowc.tools import tiny_gpt
from lowc.tools.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpt")
    options = ["--steps", "30", "--batch", "4", "--width", "64", "--layers", "1"]
    assert tiny_gpt.main([str(place), *options]) == 0
    return place


def test_bits_per_byte_of_what_was_saved(folder, capsys):
    arguments = ["--recipe", "w4a16", "--inputs", str(folder / "tiny-gpt-inputs.npz")]
    path = str(folder / "tiny-gpt.pt2")
    assert main(["report", "accuracy", path, *arguments, "--next-token", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    # Random weights need 8 bits, the most frequent bytes are learnt at once.
    assert 2 < record["bits_per_token"] < 7
    (recipe,) = record["recipes"]
    assert recipe["bits_per_token"] == pytest.approx(record["bits_per_token"], abs=0.2)
    # Groups of 16 with a scale and a zero point: 4 + 40 / 16.
    assert recipe["bits_per_weight"] == pytest.approx(6.5)
    assert recipe["picojoules"] > 0


def test_rows_held_back_are_not_those_of_training(folder):
    held_back = np.load(folder / "tiny-gpt-inputs.npz")["tokens"]
    trained = np.load(folder / "tiny-gpt-calibration.npz")["tokens"]
    assert held_back.shape == (tiny_gpt.EVALUATED, tiny_gpt.CONTEXT)
    assert not {row.tobytes() for row in held_back} & {row.tobytes() for row in trained}


def test_wrong_arguments(capsys):
    assert tiny_gpt.main(["--width", "66"]) == 2
    assert "no multiple of 4 heads" in capsys.readouterr().err
    assert tiny_gpt.main(["--steps", "many"]) == 2
