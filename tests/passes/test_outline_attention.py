"""What is an attention over a cache, and what only looks like one."""

import pytest
from layout import ROOT
from lowc.compiler.frontend import parse_module
from lowc.compiler.report import matmul_rows
from lowc.passes import annotations
from lowc.passes.outline_attention import OutlineAttention
from lowc.passes.runner import Runner

TEXT = (ROOT / "tests/filecheck/passes/outline-attention.mlir").read_text()


def outlined(*changes, unit="avx512"):
    """Return the module of the IR test after the pass, and what the pass said."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    module = parse_module(text, "attention")
    runner = Runner([OutlineAttention(unit=unit)])
    runner.run(module)
    return module, [remark.message for remark in runner.remarks]


def names(module):
    return [
        op.name for op in annotations.operations(module) if op.name.startswith(("linalg", "flow"))
    ]


def test_both_products_keep_a_row_in_the_report():
    module, [said] = outlined()
    assert "read in place" in said
    rows = matmul_rows(module)
    assert [row["name"] for row in rows] == ["a:qk", "a:pv"]
    assert all(row["form"] == "exact" and "in one dispatch" in row["lowering"] for row in rows)
    assert names(module) == ["flow.dispatch"]


def test_scores_may_be_taken_as_they_are_and_keys_be_no_part_of_anything():
    module, _ = outlined(("ins(%s : tensor<2x3x?xf32>) outs(%e", "ins(%x0 : tensor<2x3x?xf32>) outs(%e"),
                         ("  %x = linalg.generic", "  %x0 = linalg.fill ins(%zero : f32) outs(%e : tensor<2x3x?xf32>) -> tensor<2x3x?xf32>\n  %unread = linalg.generic"),
                         ("%x :", "%s :"), ("(%x,", "(%s,"))  # fmt: skip
    assert "s0x1_0000000000000p0" in str(module) and names(module) == ["flow.dispatch"]


def test_a_scale_that_f32_has_not_is_rounded_to_it():
    wide = "%factor = arith.constant 0.1 : f64"
    narrow = "%b = arith.truncf %factor : f64 to f32\n    %a = arith.mulf %in, %b : f32"
    module, _ = outlined(
        ("%factor = arith.constant 0.25 : f32", wide),
        ("%a = arith.mulf %in, %factor : f32", narrow),
    )
    assert "attention_2x3x16_s0x1_99999a" in str(module) and names(module) == ["flow.dispatch"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([("permutation = [1, 2, 0]", "permutation = [1, 2, 0] {a}"), ("mulf %in, %factor", "mulf %in, %in")],
         "its scores are used elsewhere"),
        ([("arith.mulf %in, %factor", "arith.divf %in, %factor")], "no product of queries and keys"),
        ([('lowc.matmul = "a:qk", ', "")], "no product of queries and keys"),
        ([('lowc.matmul = "a:qk"', 'lowc.matmul = "a:qk", lowc.product = "{}"')], "a form of their own"),
        ([("x16xf32>", "x24xf32>"), ("2x16x?", "2x24x?"), (", 2, 16]", ", 2, 24]")],
         "24 is no multiple"),
        ([("2x3x", "2x17x"), ("[2, 3, 1]", "[2, 17, 1]")],
         "a head has 17 queries"),
        ([("ins(%zero : f32) outs(%ey", "ins(%factor : f32) outs(%ey")], "do not start at zero"),
        ([("%a = arith.divf %in, %by", "%a = arith.divf %by, %in")], None),
    ],
)  # fmt: skip
def test_what_is_left_alone(changes, why):
    module, said = outlined(*changes)
    assert "flow.dispatch" not in names(module)
    assert [why in message for message in said] == [True] if why else said == []


def test_a_cache_that_is_not_read_from_its_beginning_is_cut_first():
    module, _ = outlined(("%keys[0, 0, 0]", "%keys[1, 0, 0]"))
    assert "flow.dispatch" in names(module)
    [call] = [op for op in annotations.operations(module) if op.name == "flow.dispatch"]
    assert [str(value.type) for value in list(call.operands)[5:7]] == [
        "tensor<?x2x16xf32>", "tensor<40x2x16xf32>",
    ]  # fmt: skip


@pytest.mark.parametrize("unit", ["none", "spirv", "ptx"])
def test_gpus_are_left_alone(unit):
    module, said = outlined(unit=unit)
    assert said == [] and "flow.dispatch" not in names(module)
