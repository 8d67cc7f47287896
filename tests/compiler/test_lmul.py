"""Added products on the CPU and on software Vulkan, against their definition bit for bit."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import lowc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.compiler.frontend import Model, model_of_module, parse_module
from lowc.compiler.program import Tensor
from lowc.compiler.recipe import Recipe, load_recipe
from lowc.passes.formats import lmul
from lowc.passes.formats.floats import F32, FORMATS, bits_of, value_of
from lowc.passes.formats.stored import STORED, decode, encode
from lowc.passes.forms import Form, Rule

pytestmark = pytest.mark.slow
TARGETS = ["cpu", pytest.param("vulkan", marks=pytest.mark.vulkan)]
PAIRS = 1 << 16  # every pair of two bytes
DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16),
          "bf16": np.dtype(ml_dtypes.bfloat16)}  # fmt: skip


def rules(forms):
    """One rule for the matmuls of each name, and one for the multiplications below it."""
    found = []
    for name, form in forms.items():
        found += [Rule(pattern, form) for pattern in (name, f"{name}:*")]
    return Recipe("test", tuple(found))


# -- one product: element-wise multiplications -----------------------------------------------------

ELEMENTWISE = {
    f"{form}_{name}_{bits}_{specials}": (
        FORMATS[name],
        Form(form, mantissa_bits=bits, specials=specials, of="elementwise"),
    )
    for form in ("lmul", "pam")
    for name, bits, specials in [
        ("f8E4M3FN", 0, "full"), ("f8E4M3FN", 2, "full"), ("f8E5M2", 0, "full"),
        ("f8E5M2", 1, "full"), ("f32", 0, "full"), ("f32", 4, "full"), ("bf16", 0, "full"),
        ("bf16", 3, "full"), ("f16", 0, "full"), ("f16", 5, "full"), ("f32", 0, "finite"),
        ("f32", 4, "finite"), ("bf16", 0, "finite"), ("bf16", 3, "finite"),
    ]
}  # fmt: skip
BODY = """
  %{name} = linalg.generic {{indexing_maps = [#id, #id, #id], iterator_types = ["parallel"]}}
      ins(%a, %b : {type}, {type}) outs(%empty : {type}) {{
  ^bb0(%x: i32, %y: i32, %out: i32):
    {narrow}
    %p = arith.bitcast {x} : {int} to {float}
    %q = arith.bitcast {y} : {int} to {float}
    %m = arith.mulf %p, %q : {float}
    %r = arith.bitcast %m : {float} to {int}
    {widen}
    linalg.yield {z} : i32
  }} -> {type} loc("{name}")"""


def elementwise_text():
    """Every case on the lowest bits of the same words.

    Words, since IREE 3.13 loses three of four bytes that a Vulkan kernel truncates to.
    """
    type_ = f"tensor<{PAIRS}xi32>"
    bodies = []
    for name, (fmt, _) in ELEMENTWISE.items():
        whole = fmt.width == 32
        int_ = f"i{fmt.width}"
        narrow = [f"%{v}n = arith.trunci %{v} : i32 to {int_}" for v in "xy"]
        bodies.append(BODY.format(
            name=name, type=type_, float=fmt.name, int=int_,
            narrow="" if whole else "\n    ".join(narrow),
            widen="" if whole else f"%w = arith.extui %r : {int_} to i32",
            x="%x" if whole else "%xn", y="%y" if whole else "%yn", z="%r" if whole else "%w",
        ))  # fmt: skip
    results = ", ".join(f"%{name}" for name in ELEMENTWISE)
    types = ", ".join([type_] * len(ELEMENTWISE))
    return (
        "#id = affine_map<(i) -> (i)>\n"
        f"func.func @main(%a: {type_}, %b: {type_}) -> ({types}) {{\n"
        f"  %empty = tensor.empty() : {type_}{''.join(bodies)}\n  return {results} : {types}\n}}\n"
    )


@pytest.fixture(scope="session")
def multiply(tmp_path_factory):
    """Target → function of two arrays of words: all cases' products, by name."""

    @functools.cache
    def of(target):
        path = tmp_path_factory.mktemp("elementwise") / "all.mlir"
        path.write_text(elementwise_text())
        recipe = rules({name: form for name, (_, form) in ELEMENTWISE.items()})
        artifact = lowc.compile(path, recipe, target)
        rows = {row["name"]: row for row in artifact.report["matmuls"]}
        assert set(rows) == {f"{name}:mul" for name in ELEMENTWISE}
        for row in rows.values():
            assert not [kind for kind in row["operations"] if kind.startswith("mulf")]
        module = lowc.load(artifact)

        def products(a, b):
            found = module(a.astype(np.uint32).view(np.int32), b.astype(np.uint32).view(np.int32))
            return dict(zip(ELEMENTWISE, (np.asarray(y).view(np.uint32) for y in found),
                            strict=True))  # fmt: skip

        return products

    return of


def check_products(found, a, b, names=ELEMENTWISE):
    for name in names:
        fmt, form = ELEMENTWISE[name]
        first, second = (v.astype(fmt.bits_dtype) for v in (a, b))
        expected = lmul.multiply_bits(
            first, second, fmt, form.mantissa_bits, form.specials, offset=form.form == "lmul"
        )
        wrong = np.flatnonzero(found[name] != expected)
        assert not wrong.size, (
            f"{name}: {wrong.size} wrong, first {int(first[wrong[0]]):#x} x "
            f"{int(second[wrong[0]]):#x} = {int(found[name][wrong[0]]):#x}, "
            f"not {int(expected[wrong[0]]):#x}"
        )


@pytest.mark.parametrize("target", TARGETS)
def test_all_pairs_of_bytes(target, multiply):
    a, b = (side.ravel() for side in np.meshgrid(np.arange(256), np.arange(256), indexing="ij"))
    names = [name for name, (fmt, _) in ELEMENTWISE.items() if fmt.width == 8]
    assert len(names) == 8
    check_products(multiply(target)(a, b), a, b, names)


def special_patterns(fmt):
    """Both sides of every boundary in the rules, with both signs; at most 256."""
    low, high = 2.0**-63, 2.0**63
    magnitudes = {0, 1, fmt.smallest_normal, fmt.one, fmt.largest, fmt.ceiling, fmt.nan_pattern}
    magnitudes |= {fmt.magnitude_mask, fmt.infinity_pattern, fmt.one // 2, fmt.one + fmt.one // 2}
    magnitudes |= {fmt.one // 2 * 3 // 2, fmt.one | (fmt.smallest_normal >> 1)}
    if fmt.exponent_bits == 8:
        magnitudes |= {int(bits_of(np.float32(v), fmt)) for v in (low, high, low / 2, high * 2)}
    spread = {m + d for m in magnitudes for d in (-1, 0, 1, 2)}
    sizes = sorted(m for m in spread if 0 <= m <= fmt.magnitude_mask)
    return np.array([m | sign for m in sizes for sign in (0, fmt.sign_mask)])[:256]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
def test_special_values_by_each_other(target, name, multiply):
    side = np.resize(special_patterns(FORMATS[name]), 256)
    a, b = np.repeat(side, 256), np.tile(side, 256)
    names = [case for case, (fmt, _) in ELEMENTWISE.items() if fmt.name == name]
    check_products(multiply(target)(a, b), a, b, names)


PATTERNS = st.binary(min_size=4 * 64, max_size=4 * 64).map(lambda b: np.frombuffer(b, np.uint32))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(some=PATTERNS, seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("target", TARGETS)
def test_any_patterns(target, multiply, some, seed):
    """Patterns that are searched for, times random ones near and far."""
    generator = np.random.default_rng(seed)
    a = np.resize(some, PAIRS)
    b = generator.integers(0, 1 << 32, PAIRS, dtype=np.uint32)
    near = np.arange(PAIRS) % 3 == 0  # products in range: |b| about 1 / |a| in f32
    b[near] = (0x7F000000 - (a[near] & 0x7FFFFFFF)) ^ (b[near] & 0x80FFFFFF)
    check_products(multiply(target)(a, b), a, b)


# -- sums of products: many matmuls in one module --------------------------------------------------


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


def lm(**options):
    return Form("lmul", **options)


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


def check_sum(found, expected):
    """Equal bit for bit; a NaN may be any."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    bits = np.dtype(f"u{found.dtype.itemsize}")
    nan = np.isnan(expected.astype(np.float32))
    assert (np.isnan(found.astype(np.float32)) == nan).all()
    wrong = (found.view(bits) != expected.view(bits)) & ~nan
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size}: {found[wrong][:4]} {expected[wrong][:4]}"
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


# -- models of PyTorch -----------------------------------------------------------------------------


def windows(x, size, stride, padding, dilation=1):
    """Image ``[B, C, H, W]`` → ``[B, C, kh * kw, L]``, zeros around it; and the output's size."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    reach = dilation * (size - 1)
    rows = range(0, x.shape[2] - reach, stride)
    columns = range(0, x.shape[3] - reach, stride)
    parts = [
        [x[:, :, r + dilation * i, c + dilation * j] for i in range(size) for j in range(size)]
        for r in rows
        for c in columns
    ]
    return np.array(parts).transpose(2, 3, 1, 0), (len(rows), len(columns))


CONVOLUTIONS = {
    "plain": {"in_channels": 4, "out_channels": 5, "kernel_size": 3},
    "strided": {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2, "padding": 1},
    "dilated": {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "dilation": 2},
    "groups": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 4,
                  "stride": 2},
    "pointwise": {"in_channels": 4, "out_channels": 7, "kernel_size": 1},
}  # fmt: skip


@pytest.fixture(scope="session")
def convolutions():
    """Name → (weight, bias, result), all in one model; and its input."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleDict(
                {n: torch.nn.Conv2d(bias=n != "plain", **o) for n, o in CONVOLUTIONS.items()}
            )

        def forward(self, x):
            return tuple(layer(x) for layer in self.layers.values())

    torch.manual_seed(5)
    model = Model().eval()
    x = torch.randn(2, 4, 9, 8)
    artifact = lowc.compile(torch.export.export(model, (x,)), Recipe("test", (Rule("*", lm()),)))
    assert [row["form"] for row in artifact.report["matmuls"]] == ["lmul"] * len(CONVOLUTIONS)
    found = lowc.load(artifact)(x.numpy())
    layers = {
        name: (
            layer.weight.detach().numpy(),
            None if layer.bias is None else layer.bias.detach().numpy(),
        )
        for name, layer in model.layers.items()
    }
    return x.numpy(), layers, dict(zip(CONVOLUTIONS, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, convolutions):
    """Against the product with a matrix of windows, in the order channel, row, column."""
    x, layers, results = convolutions
    options = CONVOLUTIONS[name]
    weight, bias = layers[name]
    groups = options.get("groups", 1)
    image, size = windows(
        x, options["kernel_size"], options.get("stride", 1), options.get("padding", 0),
        options.get("dilation", 1),
    )  # fmt: skip
    images = np.split(image, groups, axis=1)
    filters = np.split(weight, groups, axis=0)
    parts = [
        lmul.matmul(f.reshape(len(f), -1), i.reshape(len(i), -1, math.prod(size)))
        for f, i in zip(filters, images, strict=True)
    ]
    expected = np.concatenate(parts, axis=1).reshape(len(x), len(weight), *size)
    if bias is not None:
        expected = expected + bias[:, None, None]
    check_sum(results[name], expected)


@pytest.fixture(scope="session")
def attention():
    """A layer, attention of two heads with a mask, a layer; and its report."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.before = torch.nn.Linear(16, 16, bias=False)
            self.after = torch.nn.Linear(16, 8, bias=False)

        def forward(self, q, k, v, mask):
            q = self.before(q)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return found, self.after(found)

    torch.manual_seed(6)
    model = Model().eval()
    q, k, v = (torch.randn(2, 12, 16) for _ in range(3))
    mask = torch.ones(12, 12, dtype=torch.bool)
    artifact = lowc.compile(torch.export.export(model, (q, k, v, mask)), "lmul-attention")
    weights = [layer.weight.detach().numpy() for layer in (model.before, model.after)]
    return lowc.load(artifact), artifact.report["matmuls"], weights, [t.numpy() for t in (q, k, v)]


def test_attention_alone_changes(attention):
    module, rows, (before, after), (q, k, v) = attention
    forms = {row["name"]: row["form"] for row in rows}
    assert sorted(forms.values()) == ["exact", "exact", "lmul", "lmul"]
    assert [name.rpartition(":")[2] for name, form in forms.items() if form == "lmul"] == [
        "qk", "pv",
    ]  # fmt: skip
    mask = np.tril(np.ones((12, 12), bool))
    found, last = map(np.asarray, module(q, k, v, mask))

    def attend(product):
        # The scale 1/4 is a power of two: where it is applied does not matter.
        scores = product((q @ before.T) * np.float32(0.25), k.transpose(0, 2, 1))
        scores = np.where(mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return product((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32), v)

    expected = attend(lambda a, b: lmul.matmul(a.astype(np.float32), b, 4))
    # An operand at the edge of a step of 4 bits may fall on its other side: rounding before it.
    error = np.abs(found - expected)
    assert np.quantile(error, 0.9) < 1e-5 and error.max() < 0.1
    assert np.quantile(np.abs(found - attend(np.matmul)), 0.5) > 1e-3
    assert np.allclose(last, found @ after.T, atol=1e-5)


def test_masked_keys_do_not_matter(attention):
    """Their weights are exact zeros, and their values stay below the bound."""
    module, _, _, (q, k, v) = attention
    mask = np.ones((12, 12), bool)
    mask[:, 7:] = False
    other = v.copy()
    other[:, 7:] = 1000
    first, second = (np.asarray(module(q, k, values_, mask)[0]) for values_ in (v, other))
    assert np.abs(first - second).max() <= 5 * 1.125 * 2.0**-63 * 2000
    assert np.abs(first).max() > 0.1
    assert not np.array_equal(first, np.asarray(module(q, k, other, ~mask)[0]))
