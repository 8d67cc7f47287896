"""Energy: the table and its mistakes, prices, and what a compilation reports."""

from __future__ import annotations

import json
from pathlib import Path

import lowc
import numpy as np
import pytest
from lowc.compiler import energy
from lowc.compiler.analysis import analyse
from lowc.compiler.energy_table import built_in_tables, parse_table
from lowc.compiler.recipe import Recipe
from lowc.errors import UserError
from lowc.passes.forms import Form, Rule
from products.linear import compile_linear, linear_text

TABLE = """
description = "a table"
source = "nobody"

[memory]
picojoules-per-bit = 2
source = "a guess"

[[prices]]
kinds = ["mulf.f32", "*.i8"]
picojoules = 10
part = "core"
source = "a guess"

[[prices]]
kinds = ["select.*", "mulf.*"]
picojoules = 0.5
part = "guard"
source = "another"

[[unpriced]]
kinds = ["math.*"]
reason = "too hard"
"""


def test_the_first_entry_with_a_glob_for_a_kind_decides() -> None:
    table = parse_table(TABLE, "mine", "mine.toml")
    found = energy.price(
        {"mulf.f32": 3, "mulf.f16": 4, "select.i1": 2, "math.exp.f32": 5, "divf.f32": 1},
        table,
        bits=7,
    )
    assert (found.arithmetic_pj, found.guard_pj, found.memory_pj) == (30, 3, 14)
    assert found.compute_pj == 33
    assert found.unpriced == {"math.exp.f32": 5, "divf.f32": 1}
    assert table.why_unpriced("math.exp.f32") == "too hard"
    assert table.why_unpriced("divf.f32") == "the table does not list it"


# Operations with prices of the ISSCC table, and which part of the sum they are in.
PRICES = {
    "addf.f32": (0.9, "core"), "mulf.f32": (3.7, "core"), "addf.f16": (0.4, "core"),
    "mulf.f16": (1.1, "core"), "addi.i32": (0.1, "core"), "subi.i32": (0.1, "core"),
    "addi.i16": (0.05, "core"), "addi.i8": (0.03, "core"), "muli.i8": (0.2, "core"),
    "muli.i32": (3.1, "core"), "cmp.i32": (0.1, "guard"), "cmp.f32": (0.1, "guard"),
    "maxsi.i32": (0.1, "guard"), "minui.i32": (0.1, "guard"), "maximumf.f32": (0.1, "guard"),
    "cmp.bf16": (0.05, "guard"), "select.i32": (0, "guard"), "andi.i32": (0, "guard"),
    "ori.i1": (0, "guard"), "xori.i32": (0, "guard"), "shli.i32": (0.1, "guard"),
    "shrui.i32": (0.1, "guard"), "lookup.i8": (0.37, "core"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PRICES)
def test_the_default_table(kind: str) -> None:
    found = energy.load_table().price_of(kind)
    assert found is not None
    assert (found.picojoules, found.part) == PRICES[kind]
    assert found.source


@pytest.mark.parametrize(
    "kind",
    [
        "extf.bf16",
        "sitofp.i32",
        "math.exp.f32",
        "divf.f32",
        "addi.i64",
        "mulf.f64",
        "x.y",
        "lookup.i32",
    ],
)
def test_what_has_no_published_price_has_none(kind: str) -> None:
    table = energy.load_table()
    assert table.price_of(kind) is None
    assert table.why_unpriced(kind)


def test_memory_of_the_default_table() -> None:
    found = energy.price({}, energy.load_table(), bits=16)
    assert (found.memory_pj, found.compute_pj) == (200, 0)


def test_every_reason_of_the_default_table_is_reachable() -> None:
    table = energy.load_table()
    kinds = ["extf.f16", "math.exp.f32", "addi.i64", "lookup.i32"]
    assert {table.why_unpriced(kind) for kind in kinds} == {reason for _, reason in table.reasons}


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "hint"),
    [
        ("part = \"core\"", "part = \"cor\"", 12, "part = 'cor' is unknown", "did you mean 'core'?"),
        ("picojoules = 0.5", "picojoules = -0.5", 17, "picojoules = -0.5 is no energy", ""),
        ("picojoules = 0.5", "picojoules = nan", 17, "picojoules = nan is no energy", ""),
        ("picojoules = 10", "picojoules = '10'", 11, "picojoules = '10' is no number", ""),
        ("picojoules = 10", "picojoules = true", 11, "picojoules = True is no number", ""),
        ("picojoules-per-bit = 2", "picojoules-per-bit = []", 6, "picojoules-per-bit = [] is no", ""),
        ("picojoules = 0.5", "picojoule = 0.5", 17, "the key 'picojoule' is unknown",
         "did you mean 'picojoules'?"),
        ("source = \"another\"", "", 15, "the entry has no 'source'", ""),
        ("source = \"another\"", "source = 3", 19, "source is no text", "where the number is from"),
        ("kinds = [\"math.*\"]", "kinds = \"math.*\"", 22, "kinds is no list", ""),
        ("kinds = [\"math.*\"]", "kinds = []", 22, "kinds is no list", ""),
        ("[memory]", "[[memory]]", 5, "'memory' is no list of tables", "[memory]"),
        ("[memory]", "[memori]", 5, "the key 'memori' is unknown", "did you mean 'memory'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_table_is_named_with_its_line(
    old: str, new: str, line: int, what: str, hint: str, tmp_path: Path
) -> None:
    assert old in TABLE
    path = tmp_path / "mine.toml"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(UserError) as caught:
        energy.load_table(path)
    assert caught.value.what.startswith(what)
    assert caught.value.where == f"{path}:{line}"
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = [", "the energy table is not valid TOML"),
        ("", "the energy table has no [[prices]]"),
        ("prices = 3", "'prices' is no list of tables"),
        ("prices = [3]", "'prices' is no list of tables"),
        ("[[prices]]\nkinds=['a']\npicojoules=1\npart='core'\nsource='x'", "has no [memory]"),
    ],
)
def test_a_table_that_is_none(text: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_table(text, "mine", "mine.toml")
    assert what in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no energy table 'horowitz'") as caught:
        energy.load_table("horowitz")
    assert caught.value.hint.endswith(".toml; did you mean 'horowitz-45nm'?")
    with pytest.raises(UserError) as caught:
        energy.load_table("x")
    assert caught.value.hint == "a path to a table ends in .toml; known: horowitz-45nm"
    with pytest.raises(UserError, match="the energy table does not exist"):
        energy.load_table(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read"):
        (tmp_path / "folder.toml").mkdir()
        energy.load_table(tmp_path / "folder.toml")
    assert energy.DEFAULT in built_in_tables()


@pytest.mark.parametrize(
    ("picojoules", "text"),
    [(0, "0 pJ"), (0.05, "0.05 pJ"), (999, "999 pJ"), (4600, "4.6 nJ"), (6.63e9, "6.63 mJ"),
     (2e15, "2e+03 J")],
)  # fmt: skip
def test_energies_in_words(picojoules: float, text: str) -> None:
    assert energy.joules_text(picojoules) == text


@pytest.mark.parametrize(
    ("saved", "text"), [(0.73, "-73.0 %"), (-0.006, "+0.6 %"), (-1e-9, "0.0 %"), (None, "")]
)
def test_savings_in_words(saved: float | None, text: str) -> None:
    assert energy.change_text(saved) == text


def test_a_compilation_reports_energy(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, Form("dequant", weights="i4", group=32), m=5)
    (row,) = artifact.report["matmuls"]
    # 5 x 8 x 64 products; the 512 weights are made floats ahead of them.
    assert row["operations"] == {"addf.f32": 2560, "mulf.f32": 2560}
    assert row["operations_exact"] == {"addf.f32": 2560, "mulf.f32": 2560}
    assert row["energy_picojoules"] == pytest.approx(2560 * 4.6)
    assert row["energy_exact_picojoules"] == pytest.approx(2560 * 4.6)
    assert row["bits_moved"] == 32 * (5 * 64 + 8 * 64 + 5 * 8)
    found = artifact.report["energy"]
    assert found["operations"] == {"addf.f32": 2560, "mulf.f32": 3072, "sitofp.i4": 512}
    assert found["exported"]["operations"] == {"addf.f32": 2560, "mulf.f32": 2560}
    assert found["unpriced"] == {"sitofp.i4": 512}
    assert found["weight_bits"] == 4 * 512 + 32 * 16
    assert found["exported"]["weight_bits"] == 32 * 512
    assert found["saving"] == pytest.approx(-512 * 3.7 / (2560 * 4.6))
    assert found["table"] == energy.DEFAULT
    # The module itself says so too.
    assert lowc.load(artifact.path).manifest.report["energy"] == json.loads(json.dumps(found))


def test_what_scales_a_ternary_product_counts_for_it(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    artifact = compile_linear(tmp_path, weight, Form("ternary", tables="none"), m=5)
    (row,) = artifact.report["matmuls"]
    assert row["operations"]["mulf.f32"] == 5 * 8
    assert row["operations"]["addf.f32"] >= 2 * 5 * 8 * 64


def test_an_elementwise_row_is_compared_with_all_that_it_was(tmp_path: Path) -> None:
    """Sums that stay sums, and a second multiplication, are on both sides."""
    (tmp_path / "m.mlir").write_text("""
#same = affine_map<(i, j) -> (i, j)>
func.func @main(%x: tensor<3x5xf32>, %y: tensor<3x5xf32>) -> tensor<3x5xf32> {
  %e = tensor.empty() : tensor<3x5xf32>
  %z = linalg.generic {indexing_maps = [#same, #same, #same], iterator_types = ["parallel", "parallel"]}
      ins(%x, %y : tensor<3x5xf32>, tensor<3x5xf32>) outs(%e : tensor<3x5xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %p = arith.mulf %a, %b : f32
    %q = arith.addf %p, %a : f32
    %r = arith.mulf %q, %b : f32
    linalg.yield %r : f32
  } -> tensor<3x5xf32>
  return %z : tensor<3x5xf32>
}
""")
    chosen = Recipe("test", (Rule("*", Form("pam", of="elementwise")),))
    found = analyse(tmp_path / "m.mlir", chosen)
    (row,) = found["matmuls"]
    assert row["operations_exact"] == {"addf.f32": 15, "mulf.f32": 30}
    assert row["energy_exact_picojoules"] == pytest.approx(15 * 0.9 + 30 * 3.7)
    assert row["operations"]["addf.f32"] == 15 and "mulf.f32" not in row["operations"]
    # It is all that the model does: the row and the whole agree.
    assert row["operations_exact"] == found["energy"]["exported"]["operations"]


def test_analysis_reports_what_compilation_does(tmp_path: Path) -> None:
    source = tmp_path / "m.mlir"
    source.write_text(
        "func.func @main(%a: tensor<?x4xf32>, %b: tensor<4x8xf32>, %o: tensor<?x8xf32>) -> tensor<?x8xf32> {\n"
        "%y = linalg.matmul ins(%a, %b : tensor<?x4xf32>, tensor<4x8xf32>) "
        "outs(%o : tensor<?x8xf32>) -> tensor<?x8xf32>\nreturn %y : tensor<?x8xf32>\n}\n"
    )
    found = analyse(source)
    compiled = lowc.compile(source).report
    for key in ("matmuls", "energy"):
        assert found[key] == compiled[key]
    assert found["energy"]["dynamic"]
    assert found["energy"]["operations"] == {"addf.f32": 32, "mulf.f32": 32}
    assert found["matmuls"][0]["energy_exact_picojoules"] == pytest.approx(32 * 4.6)
    assert (found["recipe"], found["target"]) == ("f32", "cpu")


def test_ways_to_dequantise_count_alike(tmp_path: Path) -> None:
    (tmp_path / "m.mlir").write_text(linear_text(None, 8, 64))
    (row,) = analyse(tmp_path / "m.mlir", "w8a16")["matmuls"]
    assert "up to 4 rows, else" in row["lowering"]
    # The product alone: how often a code is made a float is left to what is chosen later.
    assert row["operations"] == {"addf.f32": 512, "mulf.f32": 512}


def test_analysis_names_what_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "m.mlir").write_text(linear_text(2, 8, 16))
    with pytest.raises(UserError, match="there is no recipe 'w4a61'"):
        analyse(tmp_path / "m.mlir", "w4a61")
