"""Weights that several products share: stored once, in panels that do not depend on their order."""

import json

import lowc
import numpy as np
import pytest
from lowc.compiler.frontend import parse_module
from lowc.errors import UserError
from lowc.passes import annotations
from lowc.passes.assign_forms import AssignForms
from lowc.passes.forms import Form, Rule, rules_to_text
from lowc.passes.kernels import float_tiles
from lowc.passes.kernels.tiles import ISAS
from lowc.passes.lower_lut import LowerLut
from lowc.passes.name_matmuls import NameMatmuls
from lowc.passes.outline_kernels import OutlineKernels
from lowc.passes.quantize_weights import QuantizeWeights
from lowc.passes.runner import PassFailure, Runner
from lowc.passes.select_tiles import SelectTiles, products
from lowc.passes.tiling import space
from lowc.passes.tiling.tilings import parse
from products.linear import compile_text, stored_weight, tolerance
from products.signs import ternary_form

N, K = 256, 512
UNIT = "avx512vnni"
FORMS = {"f32": Form("exact"), "w4a16": Form("dequant", weights="i4", group=32)}
TERNARY = ternary_form("i7")
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

PRODUCT = """
  %e{0} = tensor.empty() : tensor<{0}x256xf32>
  %f{0} = linalg.fill ins(%zero : f32) outs(%e{0} : tensor<{0}x256xf32>) -> tensor<{0}x256xf32>
  %y{0} = linalg.generic {{
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>,
                     affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%x{0}, %w : tensor<{0}x512xf32>, tensor<256x512xf32>)
    outs(%f{0} : tensor<{0}x256xf32>) {{
  ^bb0(%a: f32, %b: f32, %acc: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  }} -> tensor<{0}x256xf32> loc("rows{0}")
"""


def text_of(*rows):
    """Products of one weight, each called by its rows."""
    results = ", ".join(f"tensor<{m}x256xf32>" for m in rows)
    return f"""
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<256x512xf32>
func.func @main({", ".join(f"%x{m}: tensor<{m}x512xf32>" for m in rows)}) -> ({results}) {{
  %zero = arith.constant 0.0 : f32
  %w = util.global.load @w : tensor<256x512xf32>
  {"".join(PRODUCT.format(m) for m in rows)}
  return {", ".join(f"%y{m}" for m in rows)} : {results}
}}"""


def prepared(form, *rows):
    module = parse_module(text_of(*rows), "test")
    forms = AssignForms(rules=rules_to_text((Rule("*", form),)))
    Runner([NameMatmuls(), forms, QuantizeWeights()]).run(module)
    return module


def run(module, *passes):
    """Run passes; return tiles and lowerings by rows, and the columns of all panels."""
    Runner([*passes]).run(module)
    found = {}
    for op in annotations.matmuls(module):
        rows = int(annotations.text(op, annotations.SHAPE).split("x")[-3])
        found[rows] = (
            parse(annotations.text(op, annotations.TILE)).tile,
            annotations.text(op, annotations.LOWERING),
        )
    derived = [
        annotations.from_attribute(op.attributes[annotations.DERIVATION])
        for op in module.body.operations
        if annotations.DERIVATION in op.attributes
    ]
    return found, {facts["columns"] for facts in derived if "columns" in facts}


def problems(form, *rows):
    module = prepared(form, *rows)
    with module.context:
        return {one.m: one for _, one in products(module, UNIT)}


@FORM
def test_the_product_with_the_most_rows_decides_in_any_order(form):
    (alone, _), _ = run(prepared(form, 128), OutlineKernels(unit=UNIT))[0][128], None
    found = [run(prepared(form, *rows), OutlineKernels(unit=UNIT)) for rows in ((1, 128), (128, 1))]
    assert {rows: tile for rows, (tile, _) in found[0][0].items()} == {
        rows: tile for rows, (tile, _) in found[1][0].items()
    }
    for of_rows, columns in found:
        assert columns == {alone.columns}
        assert of_rows[128][0] == alone
        assert "panels of" not in of_rows[128][1]
        said = f"panels of {alone.columns} columns, which 'rows128' has of this weight"
        assert of_rows[1][1].endswith(said)


@FORM
@pytest.mark.parametrize("rows", [(1, 128), (128, 1)])
def test_a_chosen_tile_leaves_one_copy_of_the_weight(form, rows):
    several = problems(form, *rows)
    usual = space.default(several[128])
    other = next(one for one in space.candidates(several[128]) if one.tile.columns not in (16, 32))
    apart = next(one for one in space.candidates(several[1]) if one.tile.columns == 16)
    known = {
        several[128].key: {usual.text: 2e-3, other.text: 1e-3},
        # What is fastest for the row has panels that the weight is not stored in.
        several[1].key: {space.default(several[1]).text: 2e-4, apart.text: 1e-4},
    }
    chosen = SelectTiles(unit=UNIT, measured=json.dumps(known))
    found, columns = run(prepared(form, *rows), chosen, OutlineKernels(unit=UNIT))
    assert found[128][0] == other.tile
    assert columns == {other.tile.columns} == {found[1][0].columns}


@FORM
def test_a_cost_model_leaves_one_copy_of_the_weight(form):
    chosen = SelectTiles(unit=UNIT, cost_model="roofline")
    found = [
        run(prepared(form, *rows), chosen, OutlineKernels(unit=UNIT))
        for rows in ((1, 128), (128, 1), (5, 70))
    ]
    assert all(len(columns) == 1 for _, columns in found)
    assert {m: tile for m, (tile, _) in found[0][0].items()} == {
        m: tile for m, (tile, _) in found[1][0].items()
    }


def write(module, tiles):
    with module.context:
        for op in annotations.matmuls(module):
            rows = int(annotations.text(op, annotations.SHAPE).split("x")[-3])
            if rows in tiles:
                annotations.set_text(op, annotations.TILE, tiles[rows].text)


def with_columns(problem, columns):
    return next(one for one in space.candidates(problem) if one.tile.columns == columns)


@FORM
def test_a_tile_that_was_asked_for_decides(form):
    asked = with_columns(problems(form, 1, 128)[1], 16)
    module = prepared(form, 1, 128)
    write(module, {1: asked})
    found, columns = run(module, OutlineKernels(unit=UNIT))
    assert columns == {16} and found[1][0] == asked.tile
    # With fewer vectors there is room for more rows.
    assert found[128][0].vectors == 1 and found[128][0].rows > 8


@FORM
def test_tiles_that_differ_are_refused(form):
    several = problems(form, 1, 128)
    module = prepared(form, 1, 128)
    write(module, {1: with_columns(several[1], 16), 128: with_columns(several[128], 32)})
    with pytest.raises((UserError, PassFailure)) as caught:
        run(module, OutlineKernels(unit=UNIT))
    said = str(caught.value)
    assert "it has 16 columns, and there are panels of 32 columns, which 'rows128' has" in said
    assert "leave the attribute 'lowc.tile' out to get the default tile" in said


@pytest.mark.parametrize("unit", ISAS)
@pytest.mark.parametrize("stored", [1, 2, 3, 4])
def test_tiles_for_given_panels_are_legal(unit, stored):
    module = prepared(FORMS["w4a16"], 1, 128)
    with module.context:
        (one,) = [one for _, one in products(module, unit) if one.m == 128]
    isa = ISAS[unit]
    tile = float_tiles.choose_dequant(isa, 1, 128, N, K, 32, stored * isa.lanes)
    copies = float_tiles.copies(isa, tile, 128, K)
    assert tile.vectors == stored
    asked = parse(tile.name + "s" * copies)
    assert space.illegal(one, asked) == ""


def lowered(module, *passes):
    """Run the passes that a ternary product goes through; return lowerings, and kinds of panels."""
    Runner([LowerLut(), "cse", *passes, OutlineKernels(unit="avx512vbmi"), "symbol-dce"]).run(
        module
    )
    found = [annotations.text(op, annotations.LOWERING) for op in annotations.matmuls(module)]
    derived = [
        annotations.from_attribute(op.attributes[annotations.DERIVATION])
        for op in module.body.operations
        if annotations.DERIVATION in op.attributes
    ]
    return found, {facts["kind"] for facts in derived if "columns" in facts}


def test_one_row_alone_has_ternary_weights_in_quads():
    (found,), kinds = lowered(prepared(TERNARY, 1))
    assert "vpermi2b, four at once" in found and "which" not in found
    assert kinds == {"trit-quad-panels"}


@pytest.mark.parametrize("rows", [(1, 5), (5, 1)])
@pytest.mark.parametrize("is_chosen", [False, True])
def test_one_row_reads_the_planes_that_more_rows_need(rows, is_chosen):
    chosen = [SelectTiles(unit="avx512vbmi", cost_model="roofline")] if is_chosen else []
    found, kinds = lowered(prepared(TERNARY, *rows), *chosen)
    by_rows = dict(zip(rows, found, strict=True))
    said = "two planes of signs in panels of 64 columns, which 'rows5' has of this weight"
    assert by_rows[1].endswith(said) and "which" not in by_rows[5]
    assert not any("four at once" in one for one in found)
    assert kinds == {"binary-panels"}


def test_entries_share_planes_too():
    text = text_of(1)
    other = text_of(5).replace("@main", "@other")
    both = text + "\n" + other[other.index("func.func") :]
    module = parse_module(both, "test")
    forms = AssignForms(rules=rules_to_text((Rule("*", TERNARY),)))
    Runner([NameMatmuls(), forms, QuantizeWeights()]).run(module)
    found, kinds = lowered(module)
    assert len(found) == 2 and kinds == {"binary-panels"}
    assert sum("which 'rows5' has of this weight" in one for one in found) == 1


@pytest.mark.slow
def test_a_ternary_weight_is_stored_once_and_gives_the_same_bits(tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((N, K)).astype(np.float32)
    x = generator.standard_normal((5, K)).astype(np.float32)
    sizes, results = [], []
    for rows in ((5,), (1, 5)):
        folder = tmp_path / str(len(rows))
        folder.mkdir()
        artifact = compile_text(folder, text_of(*rows), weight, TERNARY)
        sizes.append([path.stat().st_size for path in artifact.files if path.suffix == ".irpa"])
        results.append(lowc.load(artifact)(*(x[:m] for m in rows)))
    assert sizes[0] == sizes[1] != []
    few, many = results[1]
    assert np.array_equal(few, many[:1]) and np.array_equal(many, results[0])


@pytest.mark.slow
@FORM
def test_results_are_right_in_any_order(form, tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((N, K)).astype(np.float32)
    inputs = {m: generator.standard_normal((m, K)).astype(np.float32) for m in (1, 21)}
    stored = weight if form.form == "exact" else stored_weight(weight, form)
    for rows in ((1, 21), (21, 1)):
        folder = tmp_path / str(rows)
        folder.mkdir()
        artifact = compile_text(folder, text_of(*rows), weight, form)
        assert sum("panels of" in row["lowering"] for row in artifact.report["matmuls"]) == 1
        found = lowc.load(artifact)(*(inputs[m] for m in rows))
        for m, result in zip(rows, found, strict=True):
            wanted = inputs[m].astype(np.float64) @ stored.T
            assert (np.abs(result - wanted) <= tolerance(inputs[m], stored)).all()
