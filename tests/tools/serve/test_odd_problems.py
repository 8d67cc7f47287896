"""Products that no compiler asks about, and texts that no UTF-8 has, are 400 and nothing worse."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from lowc.passes.tiling.problem import Problem
from lowc.tools.serve import logs
from lowc.tools.serve.faults import Fault
from lowc.tools.serve.products import check_problem
from serving.server import Server

W4A8 = {
    "form": "w4a8", "lowering": "kernel", "unit": "avx512vnni", "batch": 1, "m": 16, "n": 64,
    "k": 64, "own_batch": True, "weight": "i4", "group": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "lmul", "packs": True, "group": 0}, {"form": "w3a8", "weight": "i3", "group": 1, "k": 15},
        {"form": "wa16", "group": 0, "k": None}, {"form": "w4a16", "group": 0}, {"form": "w4a16", "k": None},
        {"form": "w4a16", "weight": "i3"}, {"form": "w4a8", "weight": "nf4"}, {"form": "lut", "weight": "signs"},
        {"form": "shift-add", "weight": "signs", "planes": 1 << 20, "table_bits": 8, "span": 32},
        {"form": "f32", "weight": "i4"}, {"form": "nothing"}, {"unit": "avx512foo"}, {"unit": "avx512\ud800"},
        {"\ud800": 1}, {"form": "\ud800"}, {"form": "w\udfffa8"}, {"m": "\ud800"},
        {"scales": "f8"}, {"scales": "\ud800"}, {"scales": "f8", "lowering": "linalg"},
    ],
)  # fmt: skip
def test_a_product_that_is_none(server: Server, changes: dict[str, Any]) -> None:
    status, found, _ = server.ask("/v1/predict-tiles", {"problems": [{**W4A8, **changes}]})
    assert status in (400, 404), found
    assert found["error"]
    assert not server.logged("failed")


@pytest.mark.parametrize("lowering", ["kernel", "linalg"])
@pytest.mark.parametrize("scales", ["f16", "bogus"])
def test_scales_of_what_has_none(scales: str, lowering: str) -> None:
    with pytest.raises(Fault) as caught:
        check_problem(Problem("f32", lowering, "avx512vnni", 1, 16, 64, 64, scales=scales))
    assert caught.value.body == {"error": f"no 'f32' has scales in '{scales}'"}


def test_what_is_one_is_answered(server: Server) -> None:
    assert server.ask("/v1/predict-tiles", {"problems": [W4A8]})[0] == 200


@pytest.mark.parametrize("lowering", ["kernel", "linalg"])
@pytest.mark.parametrize("target", ["avx512foo", "avx512\ud800"])
def test_a_unit_of_no_machine(server: Server, lowering: str, target: str) -> None:
    one = {"form": "f32", "shape": [8, 8, 8], "target": target, "lowering": lowering}
    assert server.ask("/v1/choose-tiles", {"matmuls": [one]})[0] in (400, 404)


def test_any_fault_can_be_written() -> None:
    assert orjson.loads(orjson.dumps(Fault(400, "no \ud800 field").body)) == {"error": "no ? field"}


def test_any_fact_can_be_logged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    logs.log("tried", text="a\ud800", number=1 << 70, odd=Odd(), plain=5)
    line = json.loads(capfdbinary.readouterr().err)
    assert (line["event"], line["plain"]) == ("tried", 5)
    assert line["text"] == r"'a\ud800'"
