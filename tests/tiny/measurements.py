"""Records with times by a formula of this file's own: what models of times can learn in seconds."""

import numpy as np
from lowc.passes.tiling import space
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine, Record

HERE = Machine("Test CPU", "avx512", (), 2, (32 << 10, 1 << 20, 32 << 20), 20e9, 60e9)
SHAPES = [
    (m, n, k) for m in (5, 64, 128) for n, k in ((64, 96), (384, 384), (1000, 200), (250, 768))
]


def problem(m, n, k, form="f32"):
    return Problem(form, "kernel", HERE.unit, 1, m, n, k)


def seconds(problem, tiling):
    """A time that depends on the register tile, and on how many workgroups there are."""
    tile = tiling.tile
    work = problem.products / 30e9 * (1 + 3 / (tile.rows * tile.vectors))
    groups = -(-(problem.n // tile.columns + 1) // tile.panels) * -(-problem.m // tile.row_chunk)
    return 1e-5 + work * (1.5 if groups < 2 else 1.0) + 3e-7 * groups


def records(count=12, shapes=SHAPES, forms=("f32", "lmul"), machine=HERE):
    rng = np.random.default_rng(0)
    for shape in shapes:
        for form in forms:
            one = problem(*shape, form)
            tilings = space.candidates(one)
            chosen = [
                tilings[0],
                *(tilings[i] for i in rng.permutation(len(tilings) - 1)[: count - 1] + 1),
            ]
            for tiling in chosen:
                time = seconds(one, tiling) * float(np.exp(rng.normal() * 0.003))
                yield Record(one, tiling.text, machine, "ok", time, time, time, 0.003, 5, 50, "r1")
