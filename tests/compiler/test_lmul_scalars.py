"""One added product on the CPU and on software Vulkan: all bytes, specials, any bits"""

from __future__ import annotations

import functools

import lowc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import lmul
from lowc.passes.formats.floats import FORMATS, bits_of
from lowc.passes.forms import Form
from products.additive import TARGETS, rules

pytestmark = pytest.mark.slow
PAIRS = 1 << 16  # every pair of two bytes


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
