"""The vector units that kernels are compiled for, and which of them run on this machine."""

import functools

import pytest
from lowc.compiler.backend import CHIPS, vector_unit
from lowc.compiler.target import load_target

# Those whose kernels differ: VBMI is about look-ups, VNNI about integers.
INTEGER_UNITS = ("avx512vnni", "avx512", "avx2vnni", "avx2", "portable")
FLOAT_UNITS = ("avx512", "avx2", "portable")
_HAVE = {
    "avx512vbmi": ("avx512vbmi", "avx512vnni", "avx512", "avx2", "portable"),
    "avx512vnni": ("avx512vnni", "avx512", "avx2", "portable"),
    "avx512": ("avx512", "avx2", "portable"),
    "avx2vnni": ("avx2vnni", "avx2", "portable"),
    "avx2": ("avx2", "portable"),
}


@functools.cache
def here() -> str:
    """The best unit of this machine."""
    return vector_unit(load_target("cpu"))


def target(unit: str) -> str:
    """What to compile for to try `unit` on this machine; where it cannot run, the test is skipped."""
    if unit not in _HAVE.get(here(), ("portable",)):
        pytest.skip(f"this machine has {here()}, not {unit}")
    # Vectors of no unit are 128 bits wide everywhere; the names are those of x86 chips.
    return CHIPS[unit] if here() in _HAVE else "cpu"
