"""What a compilation says about how long one thread takes for a call"""

from __future__ import annotations

import numpy as np
from lowc.compiler.call_time import BYTES, OPERATIONS, serial_microseconds
from lowc.passes.forms import Form
from products.linear import compile_linear


def test_the_larger_of_arithmetic_and_weights_counts() -> None:
    def energy(*, operations=0, weights=0, stored=0, moved=0):
        exported = {
            "operations": {"mulf.f32": operations // 2, "addf.f32": operations - operations // 2},
            "weight_bits": weights, "read_bits": moved, "written_bits": 0,
        }  # fmt: skip
        return {"dynamic": False, "exported": exported, "weight_bits": stored}

    assert serial_microseconds(energy(operations=10**9)) == 1e9 / OPERATIONS
    assert serial_microseconds(energy(weights=32 * 10**6, stored=8 * 10**6)) == 1e6 / BYTES
    assert serial_microseconds(energy(moved=16 * 10**6)) == 2e6 / BYTES
    assert serial_microseconds(energy(operations=10**9, stored=8)) == 1e9 / OPERATIONS
    assert serial_microseconds({**energy(), "dynamic": True}) is None


def test_an_artifact_says_it_unless_sizes_are_dynamic(tmp_path) -> None:
    weight = np.ones((24, 32), np.float32)
    for m, form in ((3, Form("exact")), (3, Form("dequant", "i4", 32)), (None, Form("exact"))):
        manifest = compile_linear(tmp_path, weight, form, m).manifest
        if m is None:
            assert manifest.serial_microseconds is None
        else:
            assert 2 * 3 * 24 * 32 / OPERATIONS <= manifest.serial_microseconds < 10
