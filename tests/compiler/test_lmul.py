"""Sums of added products on the CPU and on software Vulkan, against their definition"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import lowc
import numpy as np
import pytest
from lowc.compiler.frontend import Model, model_of_module, parse_module
from lowc.compiler.program import Tensor
from lowc.compiler.recipe import load_recipe
from lowc.passes.formats import lmul
from lowc.passes.formats.floats import F32, bits_of, value_of
from lowc.passes.formats.stored import STORED, decode, encode
from lowc.passes.forms import Form
from products.additive import DTYPES, TARGETS, check_sum, lm, rules

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Product:
    """``x[batch, m, k] . w[n, k]^T``, or with `batch` ``x[batch, m, k] . y[batch, k, n]``."""

    m: int | None
    n: int
    k: int
    form: Form
    batch: int = 0
    element: str = "f32"
    rows: int = 0
    extremes: tuple[float, ...] = field(default=())

    @property
    def left(self):
        return [*([self.batch] if self.batch else []), self.m or self.rows, self.k]

    @property
    def right(self):
        return [self.batch, self.k, self.n] if self.batch else [self.n, self.k]


def pam(**options):
    return Form("pam", **options)


FULL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e30, -1e30)
FP8 = (1000.0, -1000.0, np.inf, -np.inf, 0.0, 1e-9, 460.0, 470.0)
PRODUCTS = {
    "plain": Product(5, 50, 33, lm()),
    "row": Product(1, 37, 100, lm(mantissa_bits=4)),
    "k4": Product(17, 37, 70, lm(mantissa_bits=4)),
    "k3": Product(6, 9, 31, lm(mantissa_bits=3)),
    "k1": Product(3, 5, 8, lm(mantissa_bits=1)),
    "long": Product(2, 20, 700, lm()),
    "pam": Product(7, 13, 31, pam()),
    "pam4": Product(4, 33, 12, pam(mantissa_bits=4)),
    "dynamic": Product(None, 19, 21, lm(mantissa_bits=4), rows=11),
    "bmm": Product(7, 11, 9, lm(mantissa_bits=4), batch=3),
    "bmm_pam": Product(2, 40, 17, pam(), batch=2),
    "huge": Product(3, 7, 10, lm(), extremes=(0.0, -0.0, 1e-40, -1e-30, 3e38, -1e25, 2.0**63)),
    "gain": Product(4, 8, 16, lm(gain=True)),
    "gain4": Product(4, 8, 16, lm(gain=True, mantissa_bits=4), batch=1),
    "gain_pam": Product(4, 8, 16, pam(gain=True)),
    "full": Product(9, 6, 11, lm(specials="full"), extremes=FULL),
    "full4": Product(5, 6, 7, lm(specials="full", mantissa_bits=4), batch=2, extremes=FULL),
    "full_pam": Product(9, 6, 11, pam(specials="full"), extremes=FULL),
    "as_bf16": Product(4, 6, 15, lm(carrier="bf16")),
    "as_bf16_k3": Product(4, 6, 15, lm(carrier="bf16", mantissa_bits=3), batch=1),
    "as_f16": Product(4, 6, 15, lm(carrier="f16", specials="full"), extremes=FULL),
    "as_e5m2": Product(4, 6, 15, lm(carrier="f8E5M2", specials="full"), extremes=FULL),
    "as_e4m3": Product(4, 6, 15, lm(carrier="f8E4M3FN", specials="full")),
    "as_e4m3_far": Product(9, 6, 15, lm(carrier="f8E4M3FN", specials="full"), extremes=FP8),
    "in_f16": Product(4, 6, 15, lm(accumulate="f16")),
    "in_bf16": Product(4, 6, 15, pam(accumulate="bf16"), batch=2),
    "in_e5m2": Product(4, 6, 15, lm(accumulate="f8E5M2")),
    "in_e4m3": Product(4, 6, 15, lm(accumulate="f8E4M3FN")),
    "w_bf16": Product(3, 70, 40, lm(weights="bf16")),
    "w_bf16_row": Product(1, 16, 40, lm(weights="bf16", mantissa_bits=3)),
    "w_e4m3": Product(3, 70, 40, lm(weights="f8E4M3FN")),
    "w_e5m2": Product(1, 16, 40, pam(weights="f8E5M2", mantissa_bits=2)),
    "bf16": Product(4, 8, 24, lm(), element="bf16"),
    "bf16_bmm": Product(4, 8, 24, lm(mantissa_bits=4), batch=2, element="bf16"),
    "f16": Product(4, 8, 24, lm(), element="f16"),
}
ON_VULKAN = [
    "plain", "row", "k4", "pam", "dynamic", "bmm", "huge", "gain", "full", "full4", "as_bf16",
    "w_bf16", "w_e4m3", "bf16",
]  # fmt: skip
ON_CUDA = ["plain", "bmm", "dynamic", "full", "w_bf16", "w_e4m3", "bf16", "f16", "gain"]
LINEAR = """
  %{c}_w = util.global.load @{c}.weight : tensor<{n}x{k}x{e}>
  %{c}_te = tensor.empty() : tensor<{k}x{n}x{e}>
  %{c}_t = linalg.transpose ins(%{c}_w : tensor<{n}x{k}x{e}>)
      outs(%{c}_te : tensor<{k}x{n}x{e}>) permutation = [1, 0]
  {rows}
  %{c}_e = tensor.empty({dynamic}) : {out}
  %{c}_f = linalg.fill ins(%zero_{e} : {e}) outs(%{c}_e : {out}) -> {out}
  %{c} = linalg.matmul ins(%{c}_x, %{c}_t : {x}, tensor<{k}x{n}x{e}>)
      outs(%{c}_f : {out}) -> {out} loc("{c}")"""
BMM = """
  %{c}_e = tensor.empty() : {out}
  %{c}_f = linalg.fill ins(%zero_{e} : {e}) outs(%{c}_e : {out}) -> {out}
  %{c} = linalg.batch_matmul ins(%{c}_x, %{c}_y : {x}, {y})
      outs(%{c}_f : {out}) -> {out} loc("{c}")"""


def products_text(cases):
    heads, arguments, bodies, types = [], [], [], []
    for c, case in cases.items():
        n, k, e = case.n, case.k, case.element
        m = "?" if case.m is None else case.m
        batch = f"{case.batch}x" if case.batch else ""
        x, out = f"tensor<{batch}{m}x{k}x{e}>", f"tensor<{batch}{m}x{n}x{e}>"
        y = f"tensor<{batch}{k}x{n}x{e}>"
        arguments.append(f"%{c}_x: {x}")
        if case.batch:
            arguments.append(f"%{c}_y: {y}")
        else:
            heads.append(f'util.global private @{c}.weight = #flow.parameter.named<"model"::'
                         f'"{c}.weight"> : tensor<{n}x{k}x{e}>')  # fmt: skip
        dynamic = f"%{c}_rows" if m == "?" else ""
        rows = f"{dynamic} = tensor.dim %{c}_x, %c0 : {x}" if dynamic else ""
        template = BMM if case.batch else LINEAR
        bodies.append(template.format(c=c, n=n, k=k, e=e, x=x, y=y, out=out, rows=rows,
                                      dynamic=dynamic))  # fmt: skip
        types.append(out)
    zeros = "".join(f"\n  %zero_{e} = arith.constant 0.0 : {e}" for e in DTYPES)
    results = ", ".join(f"%{c}" for c in cases)
    return (
        "\n".join(heads)
        + f"\nfunc.func @main({', '.join(arguments)}) -> ({', '.join(types)}) {{"
        + f"\n  %c0 = arith.constant 0 : index{zeros}{''.join(bodies)}"
        + f"\n  return {results} : {', '.join(types)}\n}}\n"
    )


def values(shape, extremes, element, seed):
    """Values of many magnitudes, some of them special; of the element's type."""
    generator = np.random.default_rng(seed)
    found = generator.standard_normal(shape).astype(np.float32)
    found *= np.exp2(generator.integers(-3, 4, shape)).astype(np.float32)
    flat = found.reshape(-1)
    if extremes:
        places = generator.choice(flat.size // 3, len(extremes), replace=False) * 3
        flat[places] = extremes
    with np.errstate(over="ignore"):
        return found.astype(DTYPES[element])


def seed_of(name):
    return sum(map(ord, name))


def weight_of(name):
    """The model's weight; those in fp8 have a channel of zeros, and zeros in the others."""
    case = PRODUCTS[name]
    weight = values(case.right, case.extremes, case.element, seed_of(name))
    if case.form.weights.startswith("f8"):
        weight[2] = 0
        weight[:, 3] = 0
        weight[5] *= 2.0**-40
    return weight


def compile_products(names, target, folder):
    """Compile all those products as one model, with their weights."""
    cases = {name: PRODUCTS[name] for name in names}
    imported = model_of_module(parse_module(products_text(cases), "test"))
    source, tensors, data = folder / "weights.bin", {}, b""
    kinds = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    for name, case in cases.items():
        if case.batch:
            continue
        raw = weight_of(name).tobytes()
        key = f"{name}.weight"
        tensors[key] = Tensor(key, kinds[case.element], (case.n, case.k), (case.k, 1), 0,
                              len(data), len(raw), is_parameter=True)  # fmt: skip
        data += raw + bytes(-len(raw) % 64)
    source.write_bytes(data)
    model = Model(imported.module, imported.interface, tensors, source, [])
    recipe = rules({name: case.form for name, case in cases.items()})
    return lowc.compile(model, recipe, target, output=folder / "products.vmfb")


def inputs_of(name, shift=0):
    """The arguments of a product: x, and y where it is one of two activations."""
    case = PRODUCTS[name]
    found = [values(case.left, case.extremes, case.element, seed_of(name) + 1 + shift)]
    if case.batch:
        found.append(values(case.right, case.extremes, case.element, seed_of(name) + 2 + shift))
    return found


def expected_of(name, arguments):
    """The definition: the weight as it is stored, the sum, the scales, the gain, one rounding."""
    case, form = PRODUCTS[name], PRODUCTS[name].form
    options = {
        "mantissa_bits": form.mantissa_bits, "specials": form.specials,
        "offset": form.form == "lmul", "carrier": form.carrier, "accumulate": form.accumulate,
    }  # fmt: skip
    x = arguments[0].astype(np.float32)
    scales = None
    if case.batch:
        right = arguments[1].astype(np.float32)
    else:
        right = np.ascontiguousarray(weight_of(name).astype(np.float32).T)
        if form.weights:
            stored = STORED[form.weights]
            codes, scales = encode(right, stored, form.mantissa_bits or 23)
            right = decode(codes, None, stored)
    total = lmul.matmul(x, right, **options)
    if form.weights.startswith("f8"):
        total = without_zeros(x, right, form)
    if scales is not None:
        total = total * scales
    if form.gain:
        total *= np.float32(1 / lmul.slope(form.mantissa_bits, offset=form.form == "lmul"))
    with np.errstate(over="ignore"):
        return total.astype(DTYPES[case.element])


def without_zeros(x, right, form):
    """Sums in the order of k in which a stored zero gives 0, not the clamp's 2^-63."""
    offset = form.form == "lmul"
    total = np.zeros((x.shape[0], right.shape[1]), np.float32)
    for k in range(x.shape[1]):
        terms = lmul.multiply_bits(
            bits_of(x[:, k, None], F32), bits_of(right[None, k], F32), F32, form.mantissa_bits,
            "finite", offset=offset,
        )  # fmt: skip
        total += np.where(right[None, k] == 0, np.float32(0), value_of(terms, F32))
    return total


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    """Target → function of the arguments of each product: all results, by name."""

    @functools.cache
    def of(target):
        names = list(PRODUCTS) if target == "cpu" else ON_VULKAN
        artifact = compile_products(names, target, tmp_path_factory.mktemp("products"))
        rows = {row["name"].partition(":")[0]: row for row in artifact.report["matmuls"]}
        assert {name: row["form"] for name, row in rows.items()} == {
            name: PRODUCTS[name].form.form for name in names
        }
        module = lowc.load(artifact)

        def run(arguments):
            found = module(*(x for name in names for x in arguments[name]))
            return {name: np.asarray(y) for name, y in zip(names, found, strict=True)}

        run.names, run.rows = names, rows
        return run

    return of


@pytest.fixture(scope="session")
def usual(sums):
    """Target → results for :func:`inputs_of`."""
    return functools.cache(
        lambda target: sums(target)({name: inputs_of(name) for name in PRODUCTS})
    )


@pytest.mark.parametrize("name", PRODUCTS)
def test_sums(name, usual):
    check_sum(usual("cpu")[name], expected_of(name, inputs_of(name)))


@pytest.mark.vulkan
@pytest.mark.parametrize("name", ON_VULKAN)
def test_sums_on_vulkan(name, usual):
    check_sum(usual("vulkan")[name], expected_of(name, inputs_of(name)))


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_other_sizes_of_a_dynamic_batch(rows, sums):
    arguments = {name: inputs_of(name) for name in PRODUCTS}
    x = values([rows, PRODUCTS["dynamic"].k], (), "f32", rows)
    arguments["dynamic"] = [x]
    check_sum(sums("cpu")(arguments)["dynamic"], expected_of("dynamic", [x]))


def test_report_says_how(sums):
    said = {name: row["lowering"] for name, row in sums("cpu").rows.items()}
    bits = {name: row["bits_per_weight"] for name, row in sums("cpu").rows.items()}
    assert said["plain"].startswith("f32 patterns added, 23 mantissa bits, finite specials")
    assert "4 mantissa bits" in said["k4"] and "gain corrected" in said["gain"]
    assert "full specials" in said["full"] and "sum rounded to f8E5M2" in said["in_e5m2"]
    assert "f16 patterns" in said["as_f16"]
    # Eight bits, and a scale of 32 for each column of 40.
    assert (bits["plain"], bits["w_bf16"], bits["w_e4m3"]) == (32, 16, 8 + 32 / 40)


def bound(x, weight, form):
    """What sums of products with one exact zero each stay below (``formats/lmul.py``)."""
    offset = form.form == "lmul"
    gain = 1 + 2.0 ** -lmul.offset_exponent(form.mantissa_bits or 23) if offset else 1
    other = np.maximum(np.abs(weight.astype(np.float64)), 2.0**-63)
    return gain * 2.0**-63 * other.sum(axis=-2) * (1 + 2.0**-20)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["plain", "row", "k4", "pam", "bmm", "dynamic"])
def test_zero_activations_give_next_to_nothing(target, name, sums):
    run = sums(target)
    arguments = {other: inputs_of(other) for other in PRODUCTS}
    x, *rest = arguments[name]
    x[..., 0, :] = 0
    arguments[name] = [x, *rest]
    found = run(arguments)[name]
    check_sum(found, expected_of(name, arguments[name]))
    weight = rest[0] if rest else weight_of(name).T
    limit = bound(x, weight, PRODUCTS[name].form)
    assert (np.abs(found[..., 0, :]) <= limit).all() and found[..., 0, :].any()
    assert limit.max() < 1e-15
    if x.shape[-2] > 1:
        assert (np.abs(found[..., 1, :]) > 1e-6).any()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("cpu", "w_e4m3"),
        ("cpu", "w_e5m2"),
        pytest.param("vulkan", "w_e4m3", marks=pytest.mark.vulkan),
    ],
)
def test_zero_weights_in_fp8_give_nothing(target, name, sums):
    """Exactly 0, whatever they meet."""
    arguments = {other: inputs_of(other) for other in PRODUCTS}
    (x,) = arguments[name]
    x[0, :6] = [np.inf, -np.inf, np.nan, 3e38, 0, -1e-40]
    found = sums(target)(arguments)[name]
    assert not weight_of(name)[2].any()
    assert (found[:, 2] == 0).all() and (found[:, 4] != 0).all()
    check_sum(found, expected_of(name, [x]))


@pytest.mark.parametrize("recipe", ["lmul", "lmul-k4", "lmul-k3", "pam"])
def test_recipes(recipe, tmp_path):
    """A built-in recipe is what its rule says, on a product of two activations."""
    path = tmp_path / "bmm.mlir"
    case = Product(9, 6, 35, Form(), batch=2)
    path.write_text(products_text({"bmm": case}))
    form = load_recipe(recipe).rules[0].form
    assert (form.form, form.mantissa_bits, form.specials) == {
        "lmul": ("lmul", 0, "finite"), "lmul-k4": ("lmul", 4, "finite"),
        "lmul-k3": ("lmul", 3, "finite"), "pam": ("pam", 0, "finite"),
    }[recipe]  # fmt: skip
    x, y = values(case.left, (), "f32", 1), values(case.right, (), "f32", 2)
    expected = lmul.matmul(x, y, form.mantissa_bits, "finite", offset=form.form == "lmul")
    if form.gain:
        expected *= np.float32(1 / lmul.slope(form.mantissa_bits, offset=form.form == "lmul"))
    check_sum(np.asarray(lowc.load(lowc.compile(path, recipe))(x, y)), expected)


def test_cuda_compiles(tmp_path):
    artifact = compile_products(ON_CUDA, "cuda", tmp_path)
    assert {row["form"] for row in artifact.report["matmuls"]} == {"lmul"}
