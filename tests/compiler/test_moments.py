"""What matmuls read during a calibration, and what ``method = "gptq"`` makes of it."""

import lowc
import numpy as np
import pytest
import torch
from lowc.compiler import feedback, moments
from lowc.compiler.accuracy import layer_errors, shadow
from lowc.compiler.api import Limited
from lowc.compiler.feedback import Feedback
from lowc.compiler.frontend import Model, model_of_module, parse_module
from lowc.compiler.program import Tensor
from lowc.compiler.recipe import Recipe
from lowc.passes.formats import integer
from lowc.passes.forms import Rule
from products.linear import Form, compile_linear, integer_product, tolerance

GPTQ = Form("dequant", "i3", 32, symmetric=False, method="gptq")
N, K = 24, 70
TWO = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<16x16xf32>
func.func @main(%x: tensor<?x16xf32>, %y: tensor<2x16xf32>) -> (tensor<?x16xf32>, tensor<2x16xf32>) {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %rows = tensor.dim %x, %c0 : tensor<?x16xf32>
  %w = util.global.load @w : tensor<16x16xf32>
  %e = tensor.empty(%rows) : tensor<?x16xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<?x16xf32>) -> tensor<?x16xf32>
  %a = linalg.matmul ins(%x, %w : tensor<?x16xf32>, tensor<16x16xf32>)
      outs(%f : tensor<?x16xf32>) -> tensor<?x16xf32>
  %g = tensor.empty() : tensor<2x16xf32>
  %h = linalg.fill ins(%zero : f32) outs(%g : tensor<2x16xf32>) -> tensor<2x16xf32>
  %b = linalg.matmul ins(%y, %w : tensor<2x16xf32>, tensor<16x16xf32>)
      outs(%h : tensor<2x16xf32>) -> tensor<2x16xf32>
  return %a, %b : tensor<?x16xf32>, tensor<2x16xf32>
}
"""


def correlated(rows, k=K, seed=0):
    fixed, generator = np.random.default_rng(0), np.random.default_rng(seed)
    causes = generator.standard_normal((rows, k // 5)) @ fixed.standard_normal((k // 5, k))
    return (causes + generator.standard_normal((rows, k))).astype(np.float32)


def weight(n=N, k=K):
    return np.random.default_rng(3).standard_normal((n, k)).astype(np.float32)


def expected(form, inputs, k=K):
    """The weight that the codes stand for, by the definition."""
    given = sum(x.astype(np.float64).T @ x for x in inputs)
    group = form.group or 128
    fmt = integer.GroupedInteger(form.bits, group, form.symmetric)
    return integer.dequantize(feedback.integers(weight(k=k), Feedback.of(given), fmt), k)


def model_with(folder, text, **arrays):
    source = folder / "weights.bin"
    source.write_bytes(b"".join(array.astype(np.float32).tobytes() for array in arrays.values()))
    imported, start, tensors = model_of_module(parse_module(text, "test")), 0, {}
    for name, array in arrays.items():
        tensors[name] = Tensor(
            name, "float32", array.shape, (array.shape[1], 1), 0, start, array.nbytes,
            is_parameter=True,
        )  # fmt: skip
        start += array.nbytes
    return Model(imported.module, imported.interface, tensors, source, [])


def test_uses_of_one_weight_are_added_up(tmp_path):
    model = model_with(tmp_path, TWO, w=weight(16, 16))
    calls = [(correlated(rows, 16, rows), correlated(2, 16, 90 + rows)) for rows in (1, 5)]
    form = Form("dequant", "i4", 16, method="gptq")
    found = moments.collect(
        model, Recipe("test", (Rule("*", form),)), Limited(iter(calls)), tmp_path
    )
    wanted = sum(x.T @ x for call in calls for x in call)
    assert set(found.of) == {"w", "w#1"} and not found.refused
    for matrix in found.of.values():
        assert matrix.dtype == np.float64 and np.allclose(matrix, wanted, rtol=1e-5, atol=1e-4)


def test_a_weight_and_its_transpose_are_kept_apart(tmp_path):
    turned = """  %t = tensor.empty() : tensor<16x16xf32>
  %u = linalg.transpose ins(%w : tensor<16x16xf32>) outs(%t : tensor<16x16xf32>) permutation = [1, 0]
  %b = linalg.matmul ins(%y, %u"""
    model = model_with(
        tmp_path, TWO.replace("  %b = linalg.matmul ins(%y, %w", turned), w=weight(16, 16)
    )
    x, y = correlated(7, 16, 1), correlated(2, 16, 2)
    form = Form("dequant", "i4", 16, method="gptq")
    found = moments.collect(model, Recipe("test", (Rule("*", form),)), Limited([(x, y)]), tmp_path)
    for name, inputs in (("w", x), ("w#1", y)):
        assert np.allclose(found.of[name], inputs.T @ inputs, rtol=1e-5, atol=1e-4)


SHARED = """
util.global private @q = #flow.parameter.named<"model"::"q"> : tensor<16x24xf32>
util.global private @k = #flow.parameter.named<"model"::"k"> : tensor<16x8xf32>
util.global private @v = #flow.parameter.named<"model"::"v"> : tensor<24x32xf32>
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<32x16xf32>
func.func @main(%x: tensor<4x16xf32>, %i: tensor<4x24xf32>, %j: tensor<4x8xf32>,
    %k: tensor<4x32xf32>) -> (tensor<4x16xf32>, tensor<4x8xf32>) {
  %0 = util.global.load @q : tensor<16x24xf32>
  %q = linalg.matmul ins(%x, %0 : tensor<4x16xf32>, tensor<16x24xf32>)
      outs(%i : tensor<4x24xf32>) -> tensor<4x24xf32>
  %1 = util.global.load @k : tensor<16x8xf32>
  %y = linalg.matmul ins(%x, %1 : tensor<4x16xf32>, tensor<16x8xf32>)
      outs(%j : tensor<4x8xf32>) -> tensor<4x8xf32>
  %2 = util.global.load @v : tensor<24x32xf32>
  %v = linalg.matmul ins(%q, %2 : tensor<4x24xf32>, tensor<24x32xf32>)
      outs(%k : tensor<4x32xf32>) -> tensor<4x32xf32>
  %3 = util.global.load @w : tensor<32x16xf32>
  %w = linalg.matmul ins(%v, %3 : tensor<4x32xf32>, tensor<32x16xf32>)
      outs(%x : tensor<4x16xf32>) -> tensor<4x16xf32>
  return %w, %y : tensor<4x16xf32>, tensor<4x8xf32>
}
"""
SUM = 4 + 8  # bytes of a number in the result of a call, and in the sum


def test_a_small_budget_makes_rounds_and_the_same_sums(tmp_path):
    weights = {"q": weight(16, 24), "k": weight(16, 8), "v": weight(24, 32), "w": weight(32, 16)}
    model = model_with(tmp_path, SHARED, **weights)
    recipe = Recipe("test", (Rule("*", Form("dequant", "i4", 16, method="gptq")),))
    zeros = [np.zeros((4, n), np.float32) for n in (24, 8, 32)]
    calls = [(correlated(4, 16, seed), *zeros) for seed in range(3)]
    totals, _ = moments.plan(model, recipe)
    # Queries and keys read the same rows: one matrix for both.
    assert [(total.names, total.size) for total in totals] == [
        (("q", "k"), 16), (("v",), 24), (("w",), 32),
    ]  # fmt: skip
    whole = moments.collect(model, recipe, Limited(calls), tmp_path)
    assert (whole.rounds, whole.calls) == (1, 3) and not list(tmp_path.glob("moments-*"))
    # The largest alone takes it all, the two others fit together.
    budget = SUM * 32**2
    assert all(moments.memory(part) <= budget for part in moments.cut(totals, budget))
    cut = moments.collect(model, recipe, Limited(iter(calls), budget), tmp_path)
    assert (cut.rounds, cut.calls) == (2, 3)
    assert all(isinstance(matrix, np.memmap) for matrix in cut.of.values())
    assert set(cut.of) == set(whole.of) == set("qkvw")
    for name, matrix in whole.of.items():
        assert np.array_equal(matrix, cut.of[name]) and matrix.any()
    with pytest.raises(lowc.UserError, match=r"the moments of 'w' \(32 x 32\) take 1 MiB, more"):
        moments.collect(model, recipe, Limited(calls, budget - 1), tmp_path)


def test_codes_are_those_of_one_round():
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 64)).eval()
    program = torch.export.export(model, (torch.zeros(4, 64),))
    recipe = Recipe("test", (Rule("*", GPTQ),))
    inputs, found = correlated(4, 64), []
    for memory, rounds in ((1 << 30, 1), (SUM * 96**2, 2)):
        artifact = lowc.compile(
            program, recipe, calibration=iter([(inputs,)]), calibration_memory=memory
        )
        found.append(lowc.load(artifact)(inputs))
        assert artifact.report["calibration"] == {"calls": 1, "rounds": rounds, "matmuls": 2}
    assert np.array_equal(*found) and found[0].any()


def test_the_report_says_which_codes_a_calibration_chose(tmp_path):
    form = Form("binary", planes=2, group=64, method="auto")
    artifact = compile_linear(tmp_path, weight(), form, None, calibration=[(correlated(9),)])
    assert [row["calibrated"] for row in artifact.report["matmuls"]] == [True]
    assert not any("--calibration" in note for note in artifact.report["notes"])
    artifact = compile_linear(tmp_path, weight(), form, None)
    assert [row["calibrated"] for row in artifact.report["matmuls"]] == [False]
    assert any("the codes of 1 matmuls" in note for note in artifact.report["notes"])
    artifact = compile_linear(tmp_path, weight(), Form("dequant", "i4", 32), None)
    assert [row["calibrated"] for row in artifact.report["matmuls"]] == [None]


@pytest.mark.parametrize(
    "form",
    [GPTQ, Form("dequant", "i4", 32, method="gptq"), Form("dequant", "i8", 0, method="gptq")],
    ids=["3 bits, zero point", "4 bits", "8 bits, one group"],
)
@pytest.mark.parametrize("kernels", [True, False])
def test_a_product_with_the_codes_of_gptq(form, kernels, tmp_path):
    inputs = [correlated(9, seed=seed) for seed in range(20)]
    artifact = compile_linear(
        tmp_path, weight(), form, None, calibration=[(x,) for x in inputs], kernels=kernels
    )
    value = expected(form, inputs)
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "dequant" and artifact.report["notes"] == []
    module = lowc.load(artifact)
    for rows in (1, 9):
        x = correlated(rows, seed=99)
        exact = x.astype(np.float64) @ value.astype(np.float64).T
        near = np.abs(module(x) - exact) <= tolerance(x, value) * 2
        # Moments come in f32 from the module, so a code at a tie may be another one.
        assert near.mean() > 0.95


def test_integer_products_have_the_same_codes(tmp_path):
    form = Form(
        "dequant", "i4", 32, activations="i8", activation_scale="group", method="gptq"
    )  # fmt: skip
    inputs = [correlated(50)]
    artifact = compile_linear(tmp_path, weight(), form, None, calibration=[(inputs[0],)])
    found = lowc.load(artifact)(inputs[0])
    exact = inputs[0] @ weight().T
    nearest, _ = integer_product(inputs[0], weight(), form)
    assert (row := artifact.report["matmuls"][0])["form"] == "dequant" and "i8" in row["lowering"]
    assert ((found - exact) ** 2).sum() < 0.5 * ((nearest - exact) ** 2).sum()


def test_inputs_from_a_file(tmp_path):
    inputs = correlated(30)
    np.savez(tmp_path / "inputs.npz", arg0=inputs)
    outputs = []
    for calibration in (tmp_path / "inputs.npz", [(inputs[i : i + 1],) for i in range(30)]):
        artifact = compile_linear(tmp_path, weight(), GPTQ, 1, calibration=calibration)
        outputs.append(lowc.load(artifact)(inputs[:1]))
    assert (outputs[0] == outputs[1]).all()
    assert "calibration" in artifact.report["seconds"]


def test_the_damage_of_a_layer_is_that_of_its_codes(tmp_path):
    x = correlated(200)
    errors = []
    for method in ("rtn", "gptq"):
        form = Form("dequant", "i3", 32, symmetric=False, method=method)
        options = {"calibration": [(x,)]} if method == "gptq" else {}
        artifact = compile_linear(tmp_path, weight(), form, 200, compiler=shadow, **options)
        (layer,) = layer_errors(lowc.load(artifact), [[x]])
        errors.append(layer.relative_rms)
    exact = x @ weight().T.astype(np.float64)
    wanted = np.linalg.norm(x @ expected(GPTQ, [x]).T - exact) / np.linalg.norm(exact)
    assert errors[1] == pytest.approx(wanted, rel=0.01)
    assert errors[1] < 0.7 * errors[0]


def test_a_matmul_that_cannot_be_measured_is_rounded_and_named(tmp_path):
    branch = """
    util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<64x64xf32>
    func.func @main(%x: tensor<2x64xf32>, %i: tensor<2x64xf32>, %n: tensor<i1>) -> tensor<2x64xf32> {
      %c = tensor.extract %n[] : tensor<i1>
      %w = util.global.load @w : tensor<64x64xf32>
      %y = scf.if %c -> tensor<2x64xf32> {
        %0 = linalg.matmul ins(%x, %w : tensor<2x64xf32>, tensor<64x64xf32>)
            outs(%i : tensor<2x64xf32>) -> tensor<2x64xf32>
        scf.yield %0 : tensor<2x64xf32>
      } else {
        scf.yield %i : tensor<2x64xf32>
      }
      return %y : tensor<2x64xf32>
    }
    """
    square = weight(64, 64)
    model = model_with(tmp_path, branch, w=square)
    x, zero = correlated(2, 64), np.zeros((2, 64), np.float32)
    recipe = Recipe("test", (Rule("*", Form("dequant", "i4", 32, method="gptq")),))
    artifact = lowc.compile(model, recipe, calibration=[(x, zero, np.array(True))])
    assert artifact.report["notes"] == [
        "w: rounded without the calibration; inputs not measured: it is inside scf.if"
    ]
    value = integer.dequantize(integer.quantize(square.T, integer.GroupedInteger(4, 32, True)), 64)
    found = lowc.load(artifact)(x, zero, np.array(True))
    assert np.allclose(found, x @ value.T, atol=1e-4)


@pytest.mark.parametrize(
    ("calibration", "what"),
    [
        (None, "the recipe 'test' has a method that needs inputs of a calibration"),
        ([], "the calibration has no inputs"),
        ([np.zeros((1, K))], "calibration, sample 1: a ndarray is no tuple of inputs"),
        ("none.npz", "none.npz: the file does not exist"),
        ([(np.full((1, K), np.nan, np.float32),)], "hold NaN or infinity"),
    ],
)
def test_calibrations_that_do_not_fit(calibration, what, tmp_path):
    with pytest.raises(lowc.UserError) as caught:
        compile_linear(tmp_path, weight(), GPTQ, 1, calibration=calibration)
    assert what in str(caught.value)
    assert not list(tmp_path.glob("*.vmfb"))


RULES = """
[[rules]]
match = "*"
form = "dequant"
weights = "i3"
group = 32
symmetric = false
method = "{method}"
"""


@pytest.mark.slow
def test_a_model_from_the_command_line(tmp_path, capsys):
    from lowc.tools.cli import main

    torch.manual_seed(3)
    first, second = torch.nn.Linear(K, 96), torch.nn.Linear(96, 32)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second).eval()
    torch.export.save(
        torch.export.export(
            model, (torch.zeros(4, K),), dynamic_shapes=({0: torch.export.Dim("rows")},)
        ),
        tmp_path / "two.pt2",
    )
    inputs, unseen = correlated(200), correlated(50, seed=1)
    np.savez(tmp_path / "inputs.npz", input=inputs[:, None])  # one row for each call
    errors = []
    for method in ("rtn", "gptq"):
        recipe, output = tmp_path / f"{method}.toml", tmp_path / f"{method}.vmfb"
        recipe.write_text(RULES.format(method=method))
        options = ["--calibration", str(tmp_path / "inputs.npz")] if method == "gptq" else []
        arguments = ["compile", str(tmp_path / "two.pt2"), "--recipe", str(recipe), *options]
        assert main([*arguments, "-o", str(output)]) == 0, capsys.readouterr().err
        exact = model(torch.from_numpy(unseen)).detach().numpy()
        errors.append(np.linalg.norm(lowc.load(output)(unseen) - exact))
    assert "running the calibration" in capsys.readouterr().err
    assert errors[1] < 0.8 * errors[0]
    report = ["report", "accuracy", str(tmp_path / "two.pt2"), "--against", "f32"]
    assert main([*report, "--recipe", str(tmp_path / "gptq.toml")]) == 2
    assert "needs inputs of a calibration" in capsys.readouterr().err
