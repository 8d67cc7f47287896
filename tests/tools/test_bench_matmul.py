"""``lowc bench matmul`` on tiny products: contenders, limits, checked results, refusals."""

import dataclasses
import json
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from lowc.compiler import machine
from lowc.errors import InternalError, UserError
from lowc.passes.forms import Form, Rule
from lowc.tools.bench import check, limits, onnx_product, peers, probes
from lowc.tools.bench.contender import Contender, Setup
from lowc.tools.bench.measure import find_errors
from lowc.tools.bench.products import Product, Shape
from lowc.tools.bench.record import keep
from lowc.tools.cli import main

SHAPE = ["--m", "6", "--n", "40", "--k", "64"]


def bench(capsys, *arguments):
    """Run the command with little timing; return its JSON."""
    assert main(["bench", "matmul", *arguments, "--blocks", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_planes_of_signs_stand_beside_integers_of_as_many_bits(capsys):
    record = bench(
        capsys, "--form", "shiftadd-2", "--tables", "i6", "--shape", "1x64x256",
        "--against", "onnxruntime,openvino,w4a8,f32",
    )  # fmt: skip
    assert (record["form"]["planes"], record["form"]["tables"]) == (2, "i6")
    (product,) = record["products"]
    rows = {row["name"]: row for row in product["rows"]}
    assert {"lowc:binary-2-i6", "onnxruntime:level4", "lowc:w4a8", "lowc:f32"} <= set(rows)
    assert rows["lowc:binary-2-i6"]["definition_error"] < 1e-5
    # Two bits by either way, and they are not the same weights.
    assert 0.1 < rows["lowc:binary-2-i6"]["error"] < rows["onnxruntime:level4"]["error"] < 1
    assert rows["lowc:w4a8"]["error"] < 0.15
    assert rows["lowc:f32"]["error"] < 1e-5
    assert product["best_peer"] is None


@pytest.mark.slow
@pytest.mark.parametrize("form", [["bipolar", "--planes", "2", "--no-weight"], ["shift"]])
def test_signs_and_shifts_stand_beside_f32_and_stock_code(capsys, form):
    record = bench(
        capsys, "--form", *form, "--shape", "6x40x64", "--against", "torch,iree-form",
    )  # fmt: skip
    (product,) = record["products"]
    rows = {row["name"]: row for row in product["rows"]}
    ours, stock = rows[f"lowc:{form[0]}"], rows[f"iree:{form[0]}"]
    assert "kernel of vectors" in ours["lowering"] and "kernels are off" in stock["lowering"]
    # Both are the definition's, to the bit.
    assert ours["definition_error"] == stock["definition_error"] == 0
    assert 0.01 < ours["error"] == stock["error"] < 1
    assert rows["torch"]["error"] < 1e-5


@pytest.mark.slow
def test_scales_of_a_recipe_are_those_of_the_recipe_unless_others_are_asked_for(capsys, tmp_path):
    shape, kept = (
        ["--m", "1", "--n", "64", "--k", "64", "--against", "w4a8"],
        ["--keep", str(tmp_path)],
    )
    for options, scales in (([], "f16"), (["--scales", "f32"], "f32")):
        record = bench(capsys, "--form", "w4a8", *options, *shape, *kept)
        assert record["form"].get("scales", "f32") == scales
        ours, recipes = record["products"][0]["rows"]
        assert ("f16" in ours["lowering"]) == (scales == "f16")
        assert "f16" in recipes["lowering"] and recipes["alike"] == (scales == "f16")
        assert ours["definition_error"] < 1e-5
    names = sorted(path.name for path in tmp_path.iterdir())
    assert ["g32-f16-1x1" in names[1], "g32-1x1" in names[0]] == [True, True]


@pytest.mark.slow
def test_a_weight_in_few_bits_beside_its_peers(capsys, tmp_path):
    plot = tmp_path / "bars.svg"
    record = bench(
        capsys, "--form", "dequant", "--weights", "i4", "--group", "32", "--zero-points", *SHAPE,
        "--against", "torch,torch-bf16,onnxruntime,openvino,iree", "--keep", str(tmp_path),
        "--plot", str(plot),
    )  # fmt: skip
    (product,) = record["products"]
    rows = {row["name"]: row for row in product["rows"]}
    assert list(rows) == [
        "lowc:dequant-i4", "torch", "torch-bf16", "onnxruntime:level1", "openvino",
        "iree:dequant-i4",
    ]  # fmt: skip
    assert product["skipped"] == {
        "torch:int4": "it takes N in multiples of 16 and K in multiples of 32"
    }
    same = {name for name, row in rows.items() if row["alike"]}
    assert same == {"lowc:dequant-i4", "onnxruntime:level1", "openvino", "iree:dequant-i4"}
    assert product["best_peer"] in same - {"lowc:dequant-i4"}
    ours = rows["lowc:dequant-i4"]
    assert ours["ratio"] == 1 and "dequant" in ours["lowering"]
    assert ours["definition_error"] < 1e-5 and 0.01 < ours["error"] < 0.2
    assert rows["torch"]["error"] < 1e-5 and rows["torch"]["definition_error"] < 1e-5
    assert 1e-4 < rows["torch-bf16"]["error"] < 1e-2
    for name in same:
        assert rows[name]["definition_error"] < 1e-5
        assert rows[name]["error"] == pytest.approx(ours["error"], rel=1e-3)
    assert rows["iree:dequant-i4"]["lowering"].startswith("flags ")
    assert rows["torch"]["limited_by"] in ("fma", "memory")
    assert rows["torch-bf16"]["limited_by"] == "memory"
    assert all(row["limit_ms"] > 0 for row in rows.values())
    for row in rows.values():
        assert row["over_limit"] == pytest.approx(row["median_ms"] / row["limit_ms"])
        assert row["reached"] == pytest.approx(row["limit_ms"] / row["median_ms"])
        assert row["gflops"] == pytest.approx(2 * 6 * 40 * 64 / row["median_ms"] / 1e6)
    assert record["form"]["symmetric"] is False and record["machine"]["cpu"]
    (kept,) = tmp_path.glob("matmul-dequant-i4-g32-1x6x40x64-*.json")
    assert json.loads(kept.read_text()) == record
    assert "1x6x40x64" in plot.read_text() and "openvino" in plot.read_text()


@pytest.mark.slow
def test_products_of_activations_and_several_shapes_as_text(capsys):
    arguments = [
        "--shape",
        "2x6x10x16",
        "--shape",
        "1x16x24",
        "--against",
        "torch",
        "--blocks",
        "1",
    ]
    assert main(["bench", "matmul", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "2x6x10x16 (BxMxNxK, two activations) for cpu" in shown
    assert "1x1x16x24 (BxMxNxK, one weight) for cpu" in shown
    assert shown.count("limits: fma") == 2 and shown.count("over limit   reached   by") == 2
    assert re.search(r"lowc:exact .* [0-9.]+×\s+\d+%\s+(fma|memory)", shown)
    assert shown.count("GFLOP/s") == 1 and shown.count(" GB/s   limit") == 1
    assert "lowc:exact: exact (rule '*')" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--form", "lmul", "--mantissa-bits", "4", "--gain", *SHAPE],
        ["--form", "lmul", "--weights", "f8E4M3FN", "--mantissa-bits", "3", *SHAPE],
        ["--form", "pam", "--specials", "full", "--shape", "2x6x10x16"],
        ["--form", "lmul", "--weights", "f8E4M3FN", "--gain", "--shape", "2x16x32x64"],
    ],
    ids=["gain", "stored", "pam", "nothing to store"],
)
def test_added_products_match_their_definition(capsys, options):
    (product,) = bench(capsys, *options, "--against", "iree-form")["products"]
    assert [row["name"].partition(":")[0] for row in product["rows"]] == ["lowc", "iree"]
    for row in product["rows"]:
        assert row["definition_error"] < 1e-5 and 0.01 < row["error"] < 0.2
        assert row["limited_by"] in ("additions", "memory")
    assert "kernel of" not in product["rows"][1]["lowering"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "error"),
    [("shiftadd-2", 0.5), ("ternary", 0.7), ("lut-4", 0.2), ("shift", 0.3)],
)
def test_products_of_signs_match_their_definition(capsys, form, error):
    options = ["--form", form, "--shape", "3x70x192", "--against", "torch", "--blocks", "1"]
    (product,) = bench(capsys, *options)["products"]
    (row,) = (row for row in product["rows"] if row["name"].startswith("lowc"))
    assert row["definition_error"] < 1e-5 and error / 8 < row["error"] < error


@pytest.mark.slow
def test_rotated_weights_come_from_files_of_their_own(capsys, monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 1 << 14)
    record = bench(capsys, *SHAPE, "--rotate", "--against", "torch,onnxruntime,openvino")
    assert record["rotated"] is True and len(record["products"][0]["rows"]) == 4
    # 10 KB of weights turn through more than 4 x 16 KiB.
    assert list(record["products"][0]["rates"]) == ["fma", "read-65536"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([*SHAPE, "--form", "lmull"], "form = 'lmull' is unknown\n  hint: did you mean 'lmul'?"),
        ([*SHAPE, "--form", "dequant", "--weights", "i9"], "weights = 'i9' is unknown"),
        ([*SHAPE, "--weights", "i4"], "form 'exact' takes no 'weights'"),
        ([*SHAPE, "--zero-points"], "form 'exact' takes no zero points"),
        ([*SHAPE, "--form", "lmul", "--specials", "fine"], "did you mean 'finite'?"),
        ([*SHAPE, "--form", "lmul", "--mantissa-bits", "24"], "mantissa-bits = 24 is not 0 to 23"),
        (
            [*SHAPE, "--against", "irre"],
            "there is no opponent 'irre'\n  hint: did you mean 'iree'?",
        ),
        ([*SHAPE, "--plot", "bars.gif"], "a plot cannot be written as '.gif'"),
        ([*SHAPE, "--plot", "no/such/bars.svg"], "there is no folder 'no/such'"),
        ([*SHAPE, "--keep", "/proc/kept"], "the folder '/proc' cannot be written to: "),
        ([*SHAPE, "--keep", f"{__file__}/kept"], "test_bench_matmul.py' is no folder"),
        # What is misspelt comes before what is missing.
        (["--form", "lmull"], "form = 'lmull' is unknown"),
        (["--against", "irre"], "there is no opponent 'irre'"),
        (["--target", "cpuu"], "did you mean 'cpu'?"),
        ([*SHAPE, "--blocks", "0"], "0 is not in the range"),
        (["--m", "4"], "a shape needs --m, --n and --k"),
        ([], "there is no shape"),
        (["--shape", "4x4"], "'4x4' is no shape BxMxNxK or MxNxK"),
        (["--shape", "4x0x4"], "'4x0x4' has a size of 0"),
        ([*SHAPE, "--form", "w4a16", "--activations", "i9"], "activations = 'i9' is unknown"),
        ([*SHAPE, "--form", "lmul", "--symmetric"], "form 'lmul' takes no zero points"),
        (["--shape", "9000000x9000000x9"], "of memory"),
        ([*SHAPE, "--targt", "cpu"], "did you mean '--target'?"),
    ],
)
def test_wrong_arguments(capsys, arguments, what):
    assert main(["bench", "matmul", *arguments]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.slow
def test_a_form_that_is_refused_is_not_measured(capsys):
    arguments = ["--form", "dequant", "--weights", "i4", "--shape", "2x4x32x32"]
    assert main(["bench", "matmul", *arguments]) == 2
    assert "did not get the form 'dequant': exact (" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [probes.Vectors(16, 32), probes.Vectors(8, 16)], ids=str)
def test_probes_do_what_they_count(tmp_path, vectors):
    groups = probes.GROUPS_PER_THREAD
    lanes = groups * vectors.lanes
    fma = probes.fma_probe(vectors, 1, times=512)
    result = probes.load_probe(fma, 1, tmp_path, "fma")()
    chains = fma.work // 512 // lanes
    # Each chain begins at 1 and grows by 2^-10 * 1 in each round.
    assert result.shape == (lanes,) and (result == chains * 1.5).all()
    added = probes.addition_probe(vectors, 1, times=100)
    result = probes.load_probe(added, 1, tmp_path, "additions")()
    assert (result == added.work // lanes).all()  # each product adds the pattern of 1
    read = probes.read_probe(vectors, 1, 1 << 16, least=1 << 18)
    result = probes.load_probe(read, 1, tmp_path, "read")()
    assert read.work == 1 << 18 and result.sum() * 4 == read.work


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [probes.Vectors(16, 32), probes.Vectors(8, 16)], ids=str)
@pytest.mark.parametrize("name", ["vpmaddubsw+vpaddw", "vpmaddubsw+vpmaddwd", "vpmaddwd"])
def test_dot_probes_do_what_they_count(tmp_path, vectors, name):
    need = {16: "avx512f", 8: "avx2"}[vectors.lanes]
    text = machine.read_text(Path("/proc/cpuinfo"))
    if not machine.cpu_features(text, platform.machine()).get(need):
        pytest.skip(f"the processor has no {need}")
    probe = probes.dot_probe(vectors, 1, name, times=64)
    result = probes.load_probe(probe, 1, tmp_path, "dot")()
    lanes = probes.GROUPS_PER_THREAD * vectors.lanes
    # Every second byte is 1, the others 0, and all shorts are 1; sums in shorts come in pairs.
    each = {"vpmaddubsw+vpaddw": (1 + (1 << 16)) / 4, "vpmaddubsw+vpmaddwd": 2 / 4, "vpmaddwd": 1}
    assert result.shape == (lanes,) and (result == probe.work // lanes * each[name]).all()


def test_the_limit_is_the_slower_of_two():
    demand = limits.Demand(products=1000, arithmetic=limits.FMA, moved=4000, touched=40_000)
    rates = {"fma": 1e6, "read-32768": 1e6}
    assert limits.limit_of(demand, rates) == limits.Limit(4.0, "memory")
    assert limits.limit_of(demand, rates | {"fma": 1e5}) == limits.Limit(10.0, "fma")
    assert limits.buffer_size(40_000) == 32768 and limits.buffer_size(8) == limits.LEAST_BUFFER
    assert limits.buffer_size(1e15) <= limits.CACHES_TO_FILL * limits.cache_bytes()


def test_the_last_level_cache(tmp_path):
    for index, size in enumerate(("32K", "32K", "1024K", "33M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert machine.last_level_cache_bytes(tmp_path) == 33 << 20
    assert machine.last_level_cache_bytes(tmp_path / "absent") is None


def setup(rotate):
    """A setup of a product of 1 KB of weights that nothing is compiled for."""
    product = Product(Shape(1, 4, 16, 16), has_weight=True)
    return Setup(product, Rule("*", Form()), None, "cpu", 1, None, rotate)


def test_copies_fill_the_caches_or_are_refused(monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 1 << 20)
    assert setup(rotate=False).copies(1024) == 1
    assert setup(rotate=True).copies(1 << 20) == 5
    with pytest.raises(UserError, match="4097 copies"):
        setup(rotate=True).copies(1024)


def test_a_wrong_result_is_no_measurement():
    product = Product(Shape(1, 40, 48, 64), has_weight=True)
    sample = check.Sample.of(product)
    x, w = product.operands
    right = x @ w.T
    form = Form("dequant", weights="i4")
    exact, bound = check.exact(sample), check.rounding(Form(), sample)
    assert sample.take(right).shape == (16, 48)
    assert check.relative_error(sample.take(right), exact) < 1e-6
    check.check("right", sample.take(right), check.definition(Form(), sample), bound)
    with pytest.raises(InternalError, match="'wrong' is not what its form defines"):
        check.check("wrong", sample.take(right), check.definition(form, sample), bound)
    with pytest.raises(InternalError):
        check.check("nan", np.full((16, 48), np.nan), exact, bound)


def test_activations_are_not_stored():
    """Of two activations, `weights` of the form changes neither the definition nor its bound."""
    sample = check.Sample.of(Product(Shape(2, 16, 32, 64), has_weight=False))
    stored, plain = (Form("lmul", weights=name, gain=True) for name in ("f8E4M3FN", ""))
    assert (check.definition(stored, sample) == check.definition(plain, sample)).all()
    assert check.rounding(stored, sample) == check.rounding(plain, sample)
    weight = check.Sample.of(Product(Shape(1, 16, 32, 64), has_weight=True))
    assert (check.definition(stored, weight) != check.definition(plain, weight)).any()


def test_a_sample_of_a_batch_is_its_last_matrix():
    product = Product(Shape(3, 5, 7, 11), has_weight=False)
    x, y = product.operands
    sample = check.Sample.of(product)
    expected = x[2].astype(np.float64) @ y[2].astype(np.float64)
    np.testing.assert_allclose(check.exact(sample), expected)
    assert (sample.take(np.stack([expected * 0, expected * 0, expected])) == expected).all()


LIBRARIES = ("torch", "onnxruntime", "openvino")
FEW_BITS = [
    Form("dequant", weights="i4", group=32),
    Form("dequant", weights="i4", group=48, symmetric=False),
    Form("dequant", weights="i8", group=0),
    Form("dequant", weights="i4", group=32, activations="i8"),
    Form("dequant", weights="i4", group=32, activations="i8", scales="f16"),
    Form("dequant", weights="i4", group=0, symmetric=False, activations="i8"),
    Form("dequant", weights="i8", group=0, activations="i8"),
    Form("dequant", weights="i8", group=512, activations="i8"),
    Form("dequant", weights="i2", group=64, activations="i8"),
    Form("dequant", weights="i3", group=32, activations="i8"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(48, 384), (33, 100)], ids=str)
@pytest.mark.parametrize(
    "form", FEW_BITS, ids=lambda f: f"{f.weights}-{f.group}-{f.activations}-{f.scales}"
)
def test_peers_multiply_by_the_weights_of_the_form(form, n, k):
    product = Product(Shape(1, 3, n, k), has_weight=True)
    setup = Setup(product, Rule("*", form), None, "cpu", 1, None, False)
    sample = check.Sample.of(product)
    expected = check.product(form, sample)
    offered = [offer for name in LIBRARIES for offer in peers.contenders(setup, name)]
    refused = dict(offer for offer in offered if isinstance(offer, tuple))
    found = {offer.name: offer for offer in offered if isinstance(offer, Contender)}
    for contender in found.values():
        if contender.weights != form:
            continue
        result = sample.take(contender.array(contender.calls[0]()))
        assert check.relative_error(result, expected) < contender.tolerance
        stored = contender.demand.streamed * 8 / (n * k)
        assert form.bits <= stored <= form.bits + 40 / 16
    if form.weights == "i3":
        assert set(refused) == {"onnxruntime", "openvino"} and list(found) == ["torch"]
        return
    level = 4 if form.activations == "i8" else 1
    assert {"torch", f"onnxruntime:level{level}", "openvino"} <= set(found)
    assert ("onnxruntime:table" in found) == (form.weights == "i2")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [Shape(1, 3, 5, 7), Shape(2, 3, 5, 7)], ids=str)
def test_peers_in_floats(shape):
    product = Product(shape, has_weight=shape.batch == 1)
    setup = Setup(product, Rule("*", Form()), None, "cpu", 1, None, False)
    sample = check.Sample.of(product)
    for name in LIBRARIES:
        (contender,) = peers.contenders(setup, name)
        found = sample.take(contender.array(contender.calls[0]()))
        assert contender.name == name
        assert check.relative_error(found, check.exact(sample)) < 1e-6


@pytest.mark.slow
def test_libraries_that_are_not_there_are_skipped(monkeypatch):
    setup_ = dataclasses.replace(setup(rotate=False), rule=Rule("*", FEW_BITS[0]))
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert list(peers.contenders(setup_, "openvino")) == [("openvino", "openvino is not installed")]
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert list(peers.contenders(setup_, "onnxruntime")) == [
        ("onnxruntime", "onnx is not installed")
    ]


def test_bytes_of_codes_lie_lowest_bits_first():
    codes = np.array([[1, 2, 3, 0, 2], [3, 3, 0, 0, 1]], np.uint8)
    assert onnx_product.pack(codes, 2).tolist() == [[0b00111001, 2], [0b00001111, 1]]
    assert onnx_product.pack(codes, 4).tolist() == [[0x21, 0x03, 0x02], [0x33, 0x00, 0x01]]
    assert onnx_product.pack(codes, 8).tolist() == codes.tolist()


def test_a_kept_record_is_not_written_over(tmp_path):
    paths = [
        keep({"date": "2026-01-02T03:04", "turn": turn}, tmp_path / "new", "a") for turn in (1, 2)
    ]
    assert [path.name for path in paths] == ["a-2026-01-02.json", "a-2026-01-02-2.json"]
    assert [json.loads(path.read_text())["turn"] for path in paths] == [1, 2]


def test_a_peer_whose_result_is_wrong_is_left_out():
    product = Product(Shape(1, 4, 48, 64), has_weight=True)
    x, w = product.operands
    demand = setup(rotate=False).demand(32, limits.FMA)

    def contender(name, second):
        calls = (lambda: x @ w.T, lambda: x @ w.T * second)
        return Contender(name, calls, np.asarray, demand, tolerance=1e-4)

    named = [contender("right", np.float32(1)), contender("wrong", np.float32(1.001))]
    errors, left_out = find_errors(named, product)
    assert list(errors) == ["right"] and max(errors["right"]) < 1e-6
    assert left_out == {
        "wrong": "its result is wrong: it differs from the product by 0.001, "
        "its rounding explains 0.0001"
    }
