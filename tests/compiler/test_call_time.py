"""What a compilation says about how long one thread takes for a call"""

from __future__ import annotations

import numpy as np
from lowc.compiler.call_time import OPERATIONS, WEIGHT_BYTES, serial_microseconds
from lowc.passes.forms import Form
from products.linear import compile_linear


def test_the_larger_of_arithmetic_and_weights_counts() -> None:
    few = {"dynamic": False, "exported": {"operations": {"addf.f32": 10}}, "weight_bits": 8e6}
    many = {"dynamic": False, "exported": {"operations": {"mulf.f32": 10**9}}, "weight_bits": 8}
    assert serial_microseconds(few) == 1e6 / WEIGHT_BYTES
    assert serial_microseconds(many) == 1e9 / OPERATIONS
    assert serial_microseconds({**few, "dynamic": True}) is None


def test_an_artifact_says_it_unless_sizes_are_dynamic(tmp_path) -> None:
    weight = np.ones((24, 32), np.float32)
    for m, form in ((3, Form("exact")), (3, Form("dequant", "i4", 32)), (None, Form("exact"))):
        manifest = compile_linear(tmp_path, weight, form, m).manifest
        if m is None:
            assert manifest.serial_microseconds is None
        else:
            assert 2 * 3 * 24 * 32 / OPERATIONS <= manifest.serial_microseconds < 10
