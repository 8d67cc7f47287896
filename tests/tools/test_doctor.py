"""``lowc doctor``: what it reads, and what it advises."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from lowc.compiler import machine
from lowc.tools.cli import main
from lowc.tools.doctor import advice

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 amx_bf16 amx_tile amx_int8
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd40\n"
MEMORY = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n"


def test_this_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cpu"]["cores"] > 0
    assert found["packages"]["numpy"]
    assert {"cpu", "cpu-sync"} <= {device["name"] for device in found["devices"]}
    assert isinstance(found["advice"], list)


def test_this_machine_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for label in ("system", "cpu", "packages", "devices"):
        assert f"\n{label} " in f"\n{shown}"


def test_what_happens_between_short_calls(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWC_WAIT_POLICY", "passive")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "waiting   cores may sleep between short calls: LOWC_WAIT_POLICY=passive" in shown
    monkeypatch.setenv("LOWC_WAIT_POLICY", "pasive")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["waiting"] is None
    assert (
        "LOWC_WAIT_POLICY: there is no policy 'pasive' hint: did you mean 'passive'?"
        in (found["advice"])
    )


def test_it_does_not_import_torch() -> None:
    script = (
        "import sys; from lowc.tools.cli import main; main(['doctor']); "
        "sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_cpu_model_and_features() -> None:
    assert machine.cpu_model(XEON) == "Intel(R) Xeon(R) Platinum 8488C"
    features = machine.cpu_features(XEON, "x86_64")
    assert features == dict.fromkeys(
        ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx"), True
    )
    assert not machine.cpu_features(XEON.replace(" avx2", ""), "x86_64")["avx2"]
    assert machine.cpu_features(ARM, "aarch64") == {
        "neon dotprod": True, "i8mm": True, "sve": False,
    }  # fmt: skip
    assert machine.cpu_model("") != ""


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("", (16_384_000_000, 8_192_000_000)),
        ("max\n", (16_384_000_000, 8_192_000_000)),
        ("1000\n", (1000, 1000)),
        ("99000000000\n", (16_384_000_000, 8_192_000_000)),
    ],
)
def test_memory(limit: str, expected: tuple[int, int]) -> None:
    assert machine.memory_bytes(MEMORY, limit) == expected
    assert machine.memory_bytes("", limit) is None


def examined(**changes: Any) -> dict[str, Any]:
    found = {
        "cpu": {"features": {"avx2": True, "fma": True}},
        "packages": dict.fromkeys(machine.PACKAGES, "1.0"),
        "devices": [{"name": "cpu", "description": "", "problem": "", "hint": ""}],
    }
    return found | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"cpu": {"features": None}}, []),
        ({"cpu": {"features": {"avx2": False, "fma": True}}}, ["the CPU lacks AVX2"]),
        ({"packages": {**dict.fromkeys(machine.PACKAGES, "1"), "torch": None}},
         ["torch is missing: pip install 'lowc[torch]'"]),
        ({"packages": {**dict.fromkeys(machine.PACKAGES, "1"), "iree-base-runtime": "2"}},
         ["iree-base-compiler 1 and iree-base-runtime 2 differ"]),
        ({"devices": [{"name": "cuda", "description": "", "problem": "none", "hint": "do this"}]},
         ["no cuda device: do this"]),
    ],
)  # fmt: skip
def test_advice(changes: dict[str, Any], said: list[str]) -> None:
    found = advice(examined(**changes))
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))
