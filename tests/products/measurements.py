"""Records of measurements that nobody made."""

from lowc.passes.tiling import space
from lowc.passes.tiling.record import Machine, Record

from .problems import problem

MACHINE = Machine("cpu of tests", "avx512vnni", ("avx2",), 2, (32768, 1 << 20, 0), 2e10, 5e10)
VERSIONS = {"lowc": "0.1.0"}


def records(round_="r1", seconds=1e-3, form="f32"):
    one = problem(form, "avx512vnni", 1, 64, 64, 64)
    found = [
        Record(one, tiling.text, MACHINE, "ok", seconds * (1 + i), 1e-3, 2e-3, 0.01, 5, 50, round_,
               "2026-11-27T05:00:00+00:00", VERSIONS)
        for i, tiling in enumerate(space.candidates(one)[:3])
    ]  # fmt: skip
    return [*found, Record(one, "t1x1v16k64g1c1", MACHINE, "crash", round=round_, note="SIGSEGV")]
