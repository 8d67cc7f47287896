"""Products with binary-coded weights: signed sums and tables, against their definition to the bit."""

import functools
import re

import lowc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.compiler.frontend import parse_module
from lowc.errors import InternalError
from lowc.passes import annotations, build, table_products
from lowc.passes.base import Refusal
from lowc.passes.forms import Form
from lowc.passes.runner import PassFailure, Runner, parse_pipeline
from lowc.passes.verify_no_multiplication import verify_no_multiplication
from products.linear import compile_linear, compile_text
from products.signs import agrees, form_of, lut_form, product, rows_of, same, ternary_form

CASES = {
    # name: (n, k, form, m at compile time, rows at run time, element)
    "row-wise": (24, 256, form_of(2), None, [1, 4, 9], "f32"),
    "one row": (33, 1000, form_of(3), 1, [1], "f32"),
    "many rows": (16, 96, form_of(3, 32), 33, [33], "f32"),
    "column-wise": (7, 71, form_of(2, 1, 0), None, [1, 9], "f32"),
    "block-wise": (24, 90, form_of(3, 8, 3), None, [1, 9], "f32"),
    "blocks that do not fit": (7, 71, form_of(1, 16, 5, 2), 3, [3], "f32"),
    "one group": (5, 33, form_of(4, 0, 1, 1), None, [3], "f32"),
    "lut": (24, 256, lut_form("i4"), None, [1, 9], "f32"),
    "lut, zero points": (7, 171, lut_form("i3", 32, False, span=32), 3, [3], "f32"),
    "lut, short groups": (7, 71, lut_form("i2", 16, False, "i7"), None, [1, 9], "f32"),
    "shift": (24, 90, Form("shift"), None, [1, 9], "f32"),
    "shift, bf16": (7, 71, Form("shift"), 3, [3], "bf16"),
    "ternary": (24, 90, ternary_form(), None, [1, 9], "f32"),
    "bf16": (16, 70, form_of(2, 64), None, [1, 9], "bf16"),
    "tables": (24, 256, form_of(2, tables="i8"), None, [1, 4, 9], "f32"),
    "tables, one row": (33, 1000, form_of(3, tables="i8"), 1, [1], "f32"),
    "tables of 6 bits, short spans": (16, 96, form_of(3, tables="i6", span=16), 33, [33], "f32"),
    "tables, block-wise": (24, 90, form_of(2, 8, 3, tables="i8"), None, [1, 9], "f32"),
    "tables of 7 bits, odd sizes": (7, 71, form_of(1, 128, 1, 2, "i7", 32), 3, [3], "f32"),
    "tables, one group": (5, 200, form_of(4, 0, 0, 1, "i8", 128), None, [3], "f32"),
    "ternary tables": (7, 171, ternary_form("i8"), None, [1, 9], "f32"),
    "five trits in a byte": (7, 171, ternary_form("i7", packing="trits"), None, [1, 9], "f32"),
    "tables, bf16": (16, 70, form_of(2, 64, tables="i8"), None, [1, 9], "bf16"),
}  # fmt: skip
ON_VULKAN = [
    "shift",
    "lut, zero points",
    "ternary tables",
    "row-wise",
    "block-wise",
    "tables",
    "tables of 7 bits, odd sizes",
]
stock = functools.partial(lowc.compile, kernels=False)


def check(case, target, folder):
    n, k, form, m, rows, element = case
    generator = np.random.default_rng(n * k)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    weight[0] = 0
    artifact = compile_linear(folder, weight, form, m, target, element, stock)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == form.form and re.search(
        "of signs|power of two|in groups of|five in a byte", row["lowering"]
    ), row
    module = lowc.load(artifact)
    given = weight.astype(ml_dtypes.bfloat16).astype("f") if element == "bf16" else weight
    for count in rows:
        x = rows_of(generator, count, k)
        if element == "bf16":
            x = np.clip(x, -(2.0**100), 2.0**100).astype(ml_dtypes.bfloat16)
        assert agrees(module(x), x.astype(np.float32), given, form)


@pytest.mark.parametrize("name", CASES)
def test_cpu(name, tmp_path):
    check(CASES[name], "cpu", tmp_path)


def test_five_trits_in_a_byte_are_refused_where_bytes_are_looked_up_wrongly(tmp_path):
    weight = np.random.default_rng(0).standard_normal((24, 90)).astype(np.float32)
    form = ternary_form("i7", packing="trits")
    (row,) = compile_linear(tmp_path, weight, form, 3, "vulkan").report["matmuls"]
    assert "exact (this target looks up wrong bytes" in row["lowering"]


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ON_VULKAN)
def test_vulkan(name, tmp_path):
    check(CASES[name], "vulkan", tmp_path)


@given(
    planes=st.integers(1, 4), group=st.sampled_from([0, 1, 4, 8, 16, 32, 64, 128]),
    outputs=st.integers(0, 9), terms=st.integers(1, 3), span=st.sampled_from([16, 32, 64, 128]),
    tables=st.sampled_from(["none", "i6", "i7", "i8"]), n=st.integers(1, 20),
    k=st.integers(20, 300), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_form_and_shape(
    tmp_path_factory, planes, group, outputs, terms, span, tables, n, k, seed
):
    tables = "none" if group == 1 else tables
    form = form_of(
        planes, group, outputs, terms, tables, min(span, group or span) if group > 8 else span
    )
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.integers(-4, 9, (n, 1))
    weight = (generator.standard_normal((n, k)) * scale).astype("f")
    folder = tmp_path_factory.mktemp("linear")
    artifact = compile_linear(folder, weight, form, None, compiler=stock)
    (row,) = artifact.report["matmuls"]
    x = rows_of(generator, 9, k)
    found = lowc.load(artifact)(x)
    if row["form"] == "exact":
        assert "too small" in row["lowering"]
        return
    assert same(found, product(x, weight, form))


LEFT = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<3x8x40xf32>
func.func @main(%x: tensor<3x40x2xf32>, %init: tensor<3x8x2xf32>) -> tensor<3x8x2xf32> {
  %w = util.global.load @w : tensor<3x8x40xf32>
  %y = linalg.batch_matmul ins(%w, %x : tensor<3x8x40xf32>, tensor<3x40x2xf32>)
      outs(%init : tensor<3x8x2xf32>) -> tensor<3x8x2xf32>
  return %y : tensor<3x8x2xf32>
}
"""


@pytest.mark.parametrize("form", [form_of(2, 32, 3), form_of(2, 64, 0, tables="i8")])
def test_a_batch_of_weights_on_the_left(form, tmp_path):
    generator = np.random.default_rng(0)
    weight, x, init = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in ((3, 8, 40), (3, 40, 2), (3, 8, 2))
    )
    artifact = compile_text(tmp_path, LEFT, weight, form, compiler=stock)
    found = lowc.load(artifact)(x, init)
    each = [product(x[i].T, weight[i], form).T for i in range(3)]
    assert same(found, init + np.stack(each))


@pytest.mark.parametrize("tables", ["none", "i8"])
def test_the_archive_has_the_bits_that_the_report_says(tables, tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, form_of(3, tables=tables), 1, compiler=stock)
    (row,) = artifact.report["matmuls"]
    # A scale takes a word, whatever its terms are.
    assert row["bits_per_weight"] == 3 * (1 + 32 / 128)
    stored = artifact.parameters_path.stat().st_size - row["bits_per_weight"] * weight.size / 8
    assert 0 <= stored < 8192


def test_energy_counts_look_ups_and_additions(tmp_path):
    weight = np.ones((8, 256), np.float32)
    artifact = compile_linear(tmp_path, weight, form_of(2, tables="i8"), 3, compiler=stock)
    (row,) = artifact.report["matmuls"]
    operations = row["operations"]
    assert operations["lookup.i8"] == 3 * 8 * 2 * 256 // 4
    # A span is shifted once, a group once for each term.
    assert operations["minui.i32"] == 3 * 8 * 2 * (4 + 2 * 3)
    assert operations["addf.f32"] == 3 * 8 * 2 * (4 + 2 * 3)
    assert not any(kind.startswith(("mul", "div")) for kind in operations)
    assert row["energy_picojoules"] < 0.15 * row["energy_exact_picojoules"]
    # A table is read once from memory, not at each look-up.
    assert row["bits_moved"] < 3 * 8 * 2 * 256 // 4 * 32


def test_energy_counts_signed_additions(tmp_path):
    weight = np.ones((8, 256), np.float32)
    artifact = compile_linear(tmp_path, weight, form_of(2), 3, compiler=stock)
    (row,) = artifact.report["matmuls"]
    # Each input, each word of a group, each term of a scale.
    assert row["operations"]["addf.f32"] == 3 * 8 * 2 * (256 + 8 + 2 * 3)
    assert not any(kind.startswith(("mul", "div")) for kind in row["operations"])


@pytest.mark.parametrize("tables", ["none", "i6"])
def test_nothing_is_multiplied_in_what_iree_compiles(tables, tmp_path):
    weight = np.random.default_rng(0).standard_normal((24, 256)).astype(np.float32)
    form = form_of(2, tables=tables)
    folder = tmp_path / "temps"
    artifact = compile_linear(tmp_path, weight, form, None, compiler=stock, save_temps=folder)
    last = max(folder.rglob("*.mlir"), key=lambda path: path.stat().st_mtime_ns)
    text = last.read_text()
    assert "linalg.generic" in text and "arith.addf" in text
    assert not re.search(r"arith\.(mulf|divf)|math\.", text)
    # Indices may be multiplied.
    assert all(line.endswith(": index") for line in text.splitlines() if "arith.muli" in line)
    assert artifact.report["matmuls"][0]["form"] == "binary"


# -- what a kernel is told, and what is checked ----------------------------------------------------

RULE = (
    '{{"match":"*","form":"binary","planes":3,"group":{group},"outputs":{outputs},"tables":"i7",'
    '"span":32}}'
)
MODULE = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<3x40x8xf32>
func.func @main(%x: tensor<3x?x40xf32>, %init: tensor<3x?x8xf32>) -> tensor<3x?x8xf32> {
  %w = util.global.load @w : tensor<3x40x8xf32>
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x?x40xf32>, tensor<3x40x8xf32>)
      outs(%init : tensor<3x?x8xf32>) -> tensor<3x?x8xf32>
  return %y : tensor<3x?x8xf32>
}
"""


def lowered(group=64, outputs=1):
    model = parse_module(MODULE, "test")
    rules = f"[{RULE.format(group=group, outputs=outputs)}]"
    text = f"lowc-name-matmuls,lowc-assign-forms{{rules='{rules}'}},lowc-lower-lut,cse"
    Runner(parse_pipeline(f"builtin.module({text})")).run(model)
    return model


@pytest.mark.parametrize(("group", "outputs"), [(64, 1), (32, 2), (8, 0)])
def test_a_product_by_look_up_is_recognised(group, outputs):
    model = lowered(group, outputs)
    (op,) = annotations.matmuls(model)
    with model.context:
        found = table_products.match(op)
        assert str(found.activation.type) == "tensor<3x?x40xf32>"  # not filled up to words
        assert build.shape_of(found.signs) == [3, 8, 3, 2]
        assert (found.entry_bits, found.span) == (7, min(32, group))
        assert (found.planes, found.group, found.terms) == (3, group, 3)
        assert found.outputs == (outputs or 8)
        sizes = (found.matrices.batch, found.matrices.m, found.matrices.n, found.matrices.k)
        assert sizes == (3, None, 8, 40)


def test_other_products_are_not():
    model = parse_module(MODULE, "test")
    Runner(parse_pipeline("builtin.module(lowc-name-matmuls)")).run(model)
    (op,) = annotations.matmuls(model)
    with model.context:
        assert isinstance(table_products.match(op), Refusal)


def test_the_verifier_sees_parts_and_tables():
    model = lowered()
    # Tables, maxima, exponents, entries; look-ups, scaled sums, sums of groups, the product.
    assert verify_no_multiplication(model) == 8


@pytest.mark.parametrize(
    ("mark", "where"),
    [('lowc.part = "w"', "w"), ('lowc.prepared = "tables"', "the tables of an activation")],
)
def test_the_verifier_finds_a_multiplication(mark, where):
    text = lowered().operation.get_asm()
    head, found, tail = text.partition(f"attrs =  {{{mark}")
    assert found, text
    at = tail.index("linalg.yield")
    value = re.search(r"linalg.yield (%\w+) : (\w+)", tail)
    kind = "f" if value[2].startswith("f") else "i"
    extra = f"%bad = arith.mul{kind} {value[1]}, {value[1]} : {value[2]}\n"
    model = parse_module(head + found + tail[:at] + extra + tail[at:], "test")
    with pytest.raises(InternalError, match=f"{where}: the linalg.generic of a shift-add product"):
        verify_no_multiplication(model)
    with pytest.raises(PassFailure, match=r"multiplies: arith\.mul"):
        Runner(parse_pipeline("builtin.module(lowc-verify-no-multiplication)")).run(model)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("%bad = math.rsqrt %x : f32", "math.rsqrt"),
        ("%bad = math.tanh %x : f32", "math.tanh"),
        ("%bad = math.fma %x, %x, %x : f32", "math.fma"),
        ("%i = arith.bitcast %x : f32 to i32\n%bad = math.ipowi %i, %i : i32", "math.ipowi"),
        ("%i = arith.bitcast %x : f32 to i32\n%bad = arith.divui %i, %i : i32", "arith.divui"),
        ("%bad = llvm.fmul %x, %x : f32", "llvm.fmul"),
        ("%bad = llvm.intr.fmuladd(%x, %x, %x) : (f32, f32, f32) -> f32", "llvm.intr.fmuladd"),
        (
            "%v = vector.broadcast %x : f32 to vector<4xf32>\n"
            "%bad = vector.reduction <mul>, %v : vector<4xf32> into f32",
            "vector.reduction",
        ),
    ],
)
def test_the_verifier_takes_what_it_does_not_know_for_a_multiplication(extra, name):
    text = lowered().operation.get_asm()
    at = next(found.start() for found in re.finditer(r"linalg.yield %\w+ : f32", text))
    value = re.match(r"linalg.yield (%\w+)", text[at:])[1]
    head, tail = text[:at], text[at:]
    model = parse_module(head + extra.replace("%x", value) + "\n" + tail, "test")
    with pytest.raises(InternalError, match=f"multiplies: {re.escape(name)}"):
        verify_no_multiplication(model)


def test_the_verifier_lets_sums_of_vectors_and_places_pass():
    text = lowered().operation.get_asm()
    at = next(found.start() for found in re.finditer(r"linalg.yield %\w+ : f32", text))
    value = re.match(r"linalg.yield (%\w+)", text[at:])[1]
    extra = (
        f"%v = vector.broadcast {value} : f32 to vector<4xf32>\n"
        "%s = vector.reduction <add>, %v : vector<4xf32> into f32\n"
        "%i = linalg.index 0 : index\n%j = arith.muli %i, %i : index\n"
    )
    model = parse_module(text[:at] + extra + text[at:], "test")
    assert verify_no_multiplication(model) == 8
