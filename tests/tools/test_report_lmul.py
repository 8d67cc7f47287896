"""``lowc report lmul``: the table, the paper's two claims, JSON, and the figure."""

import json

import numpy as np
import pytest
from lowc.tools.cli import main
from lowc.tools.report import lmul

SAMPLES = ["--samples", "200000", "--seed", "1"]


@pytest.fixture(scope="module")
def rows():
    return lmul.measure(200_000, 1)


def test_table_and_claims(capsys):
    assert main(["report", "lmul", *SAMPLES]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("L-Mul  ")] == [
        ["L-Mul", str(bits)] for bits in (1, 2, 3, 4, 5, 6, 7, 23)
    ]
    for name in ("PAM", "E5M2", "E4M3", "bf16", "f16"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert "200000 pairs" in text
    assert lines[-2].startswith("L-Mul of 4 bits <= E4M3 products: holds (rms 3.5")
    assert lines[-1].startswith("L-Mul of 3 bits < E5M2 products: holds (rms 5.9")


def test_json_is_what_was_measured(capsys, rows):
    assert main(["report", "lmul", "--json", *SAMPLES]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["seed"]) == (200_000, 1)
    assert [row["errors"]["rms"] for row in found["rows"]] == [row.errors.rms for row in rows]
    assert [claim["holds"] for claim in found["claims"]] == [True, True]


def test_errors_are_the_known_ones(rows):
    rms = {(row.name, row.mantissa_bits): row.errors.rms for row in rows}
    known = {2: 8.46, 3: 5.96, 4: 3.59, 5: 3.58, 7: 3.06, 23: 3.10}
    for bits, value in known.items():
        assert rms["L-Mul", bits] == pytest.approx(value, abs=0.03)
    assert rms["PAM", 23] == pytest.approx(4.85, abs=0.03)
    assert rms["E5M2", 2] == pytest.approx(7.19, abs=0.03)
    assert rms["E4M3", 3] == pytest.approx(3.61, abs=0.03)
    greatest = {row.name: row.errors.max for row in rows if row.mantissa_bits == 23}
    assert greatest == pytest.approx({"L-Mul": 7.3, "PAM": 11.1}, abs=0.1)


def test_expected_losses_are_the_papers_and_are_measured(rows):
    table = {
        1: (0.6875, 0.25), 2: (0.3594, 0.25), 3: (0.1836, 0.25), 4: (0.0928, 0.1875),
        5: (0.0466, 0.2188), 6: (0.0234, 0.2031), 7: (0.0117, 0.1953),
    }  # fmt: skip
    lmuls = {row.mantissa_bits: row for row in rows if row.name == "L-Mul"}
    for bits, losses in table.items():
        assert (lmuls[bits].f1, lmuls[bits].f2) == pytest.approx(losses, abs=6e-5)
    for row in lmuls.values():
        assert row.f1_measured == pytest.approx(row.f1, abs=0.003)
        assert row.f2_measured == pytest.approx(row.f2, abs=0.003)


def test_a_claim_that_fails_says_so():
    claim = lmul.Claim(4, "E4M3", strict=False, lmul=3.7, exact=3.6)
    assert not claim.holds
    assert claim.text == (
        "L-Mul of 4 bits <= E4M3 products: does not hold (rms 3.700 % against 3.600 %)"
    )
    assert lmul.Claim(4, "E4M3", strict=False, lmul=3.6, exact=3.6).holds
    assert not lmul.Claim(3, "E5M2", strict=True, lmul=3.6, exact=3.6).holds


def test_blocks_make_one_sample(monkeypatch):
    monkeypatch.setattr(lmul, "_BLOCK", 300)
    assert [len(a) for a, _ in lmul._operands(1000, 2)] == [300, 300, 300, 100]
    values = np.random.default_rng(3).standard_normal(1000)
    sums = lmul._Sums()
    for start in range(0, 1000, 300):
        sums.add(values[start : start + 300])
    assert sums.errors().rms == pytest.approx(100 * np.sqrt((values**2).mean()))
    assert sums.errors().mean == pytest.approx(100 * values.mean())
    assert sums.errors().max == 100 * np.abs(values).max()


def test_operands_are_all_mantissas():
    for side in next(lmul._operands(100_000, 0)):
        assert side.min() >= 0x3F800000
        assert side.max() < 0x40000000
        assert np.unique(side).size > 99_000


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot(suffix, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"errors{suffix}"
    assert main(["report", "lmul", "--samples", "2000", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert f"plotted in {path}" in capsys.readouterr().err


def test_refuses_an_unknown_kind_of_plot(tmp_path, capsys):
    assert main(["report", "lmul", "--plot", str(tmp_path / "errors.gif")]) == 2
    assert "a plot cannot be written as '.gif'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_refuses_no_samples(capsys):
    assert main(["report", "lmul", "--samples", "0"]) == 2
    assert "--samples" in capsys.readouterr().err
