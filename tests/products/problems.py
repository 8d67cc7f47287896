"""Problems of every form, as models have them, and small ones to measure."""

from lowc.passes.tiling.problem import Problem

# What each form adds to its sizes.
FACTS = {
    "f32": {},
    "lmul": {},
    "pam": {"weight": "bf16"},
    "w4a8": {"own_batch": True, "weight": "i4", "group": 32},
    "w8a8": {"own_batch": True, "weight": "i8", "group": 64, "per_group": False},
    "w4a16": {"weight": "i4", "group": 16, "symmetric": False},
    "shift-add": {
        "own_batch": True, "weight": "signs", "group": 64, "planes": 3, "table_bits": 7, "span": 64,
    },
    "lut": {
        "own_batch": True, "weight": "signs", "group": 64, "planes": 4, "table_bits": 8, "span": 64,
        "symmetric": False,
    },
    "ternary": {
        "own_batch": True, "weight": "signs", "group": 64, "planes": 2, "table_bits": 7, "span": 64,
    },
}  # fmt: skip
UNITS = ("avx512vbmi", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable")


def problem(form, unit, batch, m, n, k, **facts):
    """A product with a weight of `form`, or what `facts` make of it."""
    return Problem(form, "kernel", unit, batch, m, n, k, **{**FACTS[form], **facts})


def of_two_activations(form, unit, batch, m, n, k):
    """A product whose right operand is packed by the kernel."""
    return Problem(form, "kernel", unit, batch, m, n, k, own_batch=True, packs=True)


def linalg(form, unit, batch, m, n, k):
    """A product that stays with IREE's code generation."""
    return Problem(form, "linalg", unit, batch, m, n, k)


def every(unit, sizes):
    """All forms that have kernels on `unit`, for sizes whose K is a multiple of 64."""
    found = [problem(form, unit, *sizes) for form in FACTS]
    if unit == "portable":
        found = [one for one in found if one.weight != "signs"]
    found += [of_two_activations(form, unit, *sizes) for form in ("f32", "lmul")]
    return [*found, problem("w4a16", unit, *sizes, weight="nf4", symmetric=True),
            problem("lmul", unit, *sizes, weight="f8E4M3FN")]  # fmt: skip
