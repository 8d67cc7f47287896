"""Small kernels that reach one limit of the processor each: products, additions, dots, reading.

Each is one dispatch, handed to IREE as a finished kernel, that runs on the threads of the runtime
like any other.  The arithmetic ones touch registers only, with more independent chains than the
units are deep.  Their operands come from a buffer and their sums go into one, so that nothing can
be folded away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

# Workgroups per thread: a thread that begins late leaves its part to others.
GROUPS_PER_THREAD = 8
_READ_STREAMS = 8

_TEMPLATE = """
#layout = #hal.pipeline.layout<bindings = [
  #hal.pipeline.binding<storage_buffer, ReadOnly>, #hal.pipeline.binding<storage_buffer>]>
hal.executable.source private @probe {{
  hal.executable.export public @run ordinal(0) layout(#layout)
      count(%device: !hal.device) -> (index, index, index) {{
    %groups = arith.constant {groups} : index
    %one = arith.constant 1 : index
    hal.return %groups, %one, %one : index, index, index
  }}
  builtin.module {{
    func.func @run() attributes {{translation_info =
        #iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<Default>>}} {{
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %width = arith.constant {width} : index
      %times = arith.constant {times} : index
      %in = hal.interface.binding.subspan layout(#layout) binding(0) alignment(64) offset(%c0)
          flags(ReadOnly) : memref<{size}xf32>
      %out = hal.interface.binding.subspan layout(#layout) binding(1) alignment(64) offset(%c0)
          : memref<{results}xf32>
      %group = hal.interface.workgroup.id[0] : index
      %place = arith.muli %group, %width : index
      {body}
      vector.store {total}, %out[%place] : memref<{results}xf32>, {vector}
      return
    }}
  }}
}}
func.func @main(%in: tensor<{size}xf32>) -> tensor<{results}xf32> {{
  %out = flow.dispatch @probe::@run(%in) : (tensor<{size}xf32>) -> tensor<{results}xf32>
  return %out : tensor<{results}xf32>
}}
"""


@dataclass(frozen=True)
class Vectors:
    """The vector registers of a processor: f32 lanes of each, and how many there are."""

    lanes: int
    registers: int

    @property
    def text(self) -> str:
        """The type of a register in MLIR."""
        return f"vector<{self.lanes}xf32>"

    @property
    def integers(self) -> str:
        """The type of a register of 32-bit integers in MLIR."""
        return self.of(32)

    def of(self, width: int) -> str:
        """Return the type in MLIR of a register of integers of `width` bits."""
        return f"vector<{self.lanes * 32 // width}xi{width}>"


@dataclass(frozen=True)
class Probe:
    """A kernel as MLIR text, its input, and what one call does.

    ``work`` counts products or bytes; ``values`` is the f32 input; each of ``groups`` workgroups
    leaves one vector of sums.
    """

    text: str
    values: NDArray[np.float32]
    work: int
    groups: int


def fma_probe(vectors: Vectors, threads: int, times: int = 20_000) -> Probe:
    """Fused multiply-adds: ``acc_j += a * b``, one product per lane."""
    chains = vectors.registers - 4
    kind = vectors.text
    body = _loads(chains + 2, vectors, (chains + 2) * vectors.lanes)
    body += _loop(
        [(f"%acc{j}", f"%v{j + 2}", kind) for j in range(chains)],
        [f"%new{j} = vector.fma %v0, %v1, %acc{j} : {kind}" for j in range(chains)],
        [f"%new{j}" for j in range(chains)],
    )
    values = np.ones((chains + 2) * vectors.lanes, np.float32)
    values[: vectors.lanes] = 2.0**-10
    return _probe(body, chains, vectors, threads, times, values, chains * times)


def addition_probe(vectors: Vectors, threads: int, times: int = 20_000) -> Probe:
    """One integer and one float addition per product: ``acc_ij += float(x_i + y_j)``.

    The next ``x_i`` is ``x_i + y_0``, a sum that is there anyway: it ties each round to the one
    before.
    """
    side = 4 if vectors.registers >= 32 else 3
    chains, inputs = side * side, side * side + 2 * side
    kind, integer = vectors.text, vectors.integers
    body = _loads(inputs, vectors, inputs * vectors.lanes)
    body += [f"%i{j} = vector.bitcast %v{j} : {kind} to {integer}" for j in range(2 * side)]
    steps = []
    for j in range(chains):
        x, y = divmod(j, side)
        steps += [
            f"%sum{j} = arith.addi %x{x}, %i{side + y} : {integer}",
            f"%float{j} = vector.bitcast %sum{j} : {integer} to {kind}",
            f"%new{j} = arith.addf %acc{j}, %float{j} : {kind}",
        ]
    carried = [(f"%acc{j}", f"%v{j + 2 * side}", kind) for j in range(chains)]
    carried += [(f"%x{j}", f"%i{j}", integer) for j in range(side)]
    results = [f"%new{j}" for j in range(chains)] + [f"%sum{x * side}" for x in range(side)]
    body += _loop(carried, steps, results)
    values = np.zeros(inputs * vectors.lanes, np.float32)
    values[: side * vectors.lanes] = 1.0  # the bits of y are 0: the sums stay what x is
    return _probe(body, chains, vectors, threads, times, values, chains * times)


# How x86 sums products of 8-bit integers: instructions of the inner loop → bits of the sums, and
# products per 32 bits.  16-bit sums hold products of 4-bit codes for a while, two products of 7 by
# 8 bits fit in 16 bits, and 8 by 8 bits need 16-bit operands.
DOTS = {
    "vpdpbusd": (32, 4),
    "vpmaddubsw+vpaddw": (16, 4),
    "vpmaddubsw+vpmaddwd": (32, 4),
    "vpmaddwd": (32, 2),
}
# Instruction → LLVM's intrinsics for 256 and 512 bits, bits of its operands and of its result.
_INTRINSICS = {
    "vpdpbusd": ("llvm.x86.avx512.vpdpbusd.256", "llvm.x86.avx512.vpdpbusd.512", 8, 32),
    "vpmaddubsw": ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx512.pmaddubs.w.512", 8, 16),
    "vpmaddwd": ("llvm.x86.avx2.pmadd.wd", "llvm.x86.avx512.pmaddw.d.512", 16, 32),
}


def dot_probe(vectors: Vectors, threads: int, name: str, times: int = 20_000) -> Probe:
    """Sum products of 8-bit integers, ``acc_ij += dot(x_i, y_j)``, as :data:`DOTS` calls `name`.

    The next ``x_i`` are the bits of a partial sum that is there anyway: it ties each round to the
    one before.  Operands of 16-bit ones keep all of them what they are, or 2 and 0.
    """
    side = 4 if vectors.registers >= 32 else 3
    chains, inputs = side * side, 2 * side + 1
    first = name.partition("+")[0]
    operand = vectors.of(_INTRINSICS[first][2])
    width, per_lane = DOTS[name]
    sums = vectors.of(width)
    body = _loads(inputs, vectors, inputs * vectors.lanes)
    body += [f"%o{j} = vector.bitcast %v{j} : {vectors.text} to {operand}" for j in range(2 * side)]
    body += [
        f"%ones = vector.bitcast %v0 : {vectors.text} to {vectors.of(16)}",
        f"%nothing = vector.bitcast %v{2 * side} : {vectors.text} to {sums}",
    ]
    steps = [line for j in range(chains) for line in _dot_round(name, j, side, vectors)]
    next_x = [f"%x{i}" for i in range(side)]
    if first != "vpdpbusd":  # its sum is an operand: the rounds are tied already
        partial = vectors.of(_INTRINSICS[first][3])
        next_x = [f"%next{i}" for i in range(side)]
        steps += [
            f"{next_x[i]} = vector.bitcast %d{i * side} : {partial} to {operand}"
            for i in range(side)
        ]
    carried = [(f"%acc{j}", "%nothing", sums) for j in range(chains)]
    carried += [(f"%x{i}", f"%o{i}", operand) for i in range(side)]
    results = [f"%new{j}" for j in range(chains)] + next_x
    body += _loop(carried, steps, results, "%i:{count} = scf.for %t = %c0 to %times step %c1")
    for j in range(chains):
        body += [
            f"%w{j} = vector.bitcast %i#{j} : {sums} to {vectors.integers}",
            f"%r{j} = arith.sitofp %w{j} : {vectors.integers} to {vectors.text}",
        ]
    values = np.full(inputs * vectors.lanes, 0x00010001, np.int32)
    values[2 * side * vectors.lanes :] = 0
    work = chains * times * per_lane
    return _probe(body, chains, vectors, threads, times, values.view(np.float32), work, "%r{}")


def _dot_round(name: str, j: int, side: int, vectors: Vectors) -> list[str]:
    """Return lines that make ``%new{j}`` of ``%acc{j}``; ``%d{j}`` is what the first adds to it."""
    x, y = f"%x{j // side}", f"%o{side + j % side}"
    if name == "vpdpbusd":
        return [_intrinsic(f"%new{j}", name, vectors, f"%acc{j}", x, y)]
    first, _, second = name.partition("+")
    lines, added = [_intrinsic(f"%d{j}", first, vectors, x, y)], f"%d{j}"
    if second == "vpmaddwd":
        added = f"%e{j}"
        lines.append(_intrinsic(added, second, vectors, f"%d{j}", "%ones"))
    return [*lines, f"%new{j} = arith.addi %acc{j}, {added} : {vectors.of(DOTS[name][0])}"]


def _intrinsic(result: str, name: str, vectors: Vectors, *arguments: str) -> str:
    *names, width, sum_width = _INTRINSICS[name]
    types = [vectors.of(width)] * 2
    if len(arguments) == 3:
        types.insert(0, vectors.of(sum_width))
    called = names[vectors.lanes == 16]
    return (
        f'{result} = llvm.call_intrinsic "{called}"({", ".join(arguments)})'
        f" : ({', '.join(types)}) -> {vectors.of(sum_width)}"
    )


def read_probe(vectors: Vectors, threads: int, size: int, least: int = 1 << 24) -> Probe:
    """Read a buffer of about `size` bytes, over and over until `least` bytes were read."""
    groups = GROUPS_PER_THREAD * threads
    step = _READ_STREAMS * vectors.lanes
    chunk = max(1, size // 4 // groups // step) * step
    times = max(1, least // (chunk * groups * 4))
    kind, streams = vectors.text, range(_READ_STREAMS)
    memory = f"memref<{chunk * groups}xf32>"
    reads = []
    for j in streams:
        reads += [
            f"%offset{j} = arith.constant {j * vectors.lanes} : index",
            f"%at{j} = arith.addi %i, %offset{j} : index",
            f"%v{j} = vector.load %in[%at{j}] : {memory}, {kind}",
            f"%new{j} = arith.addf %acc{j}, %v{j} : {kind}",
        ]
    inner = _loop(
        [(f"%acc{j}", f"%before{j}", kind) for j in streams],
        reads,
        [f"%new{j}" for j in streams],
        "%pass:{count} = scf.for %i = %begin to %end step %step",
    )
    body = [
        f"%chunk = arith.constant {chunk} : index",
        f"%step = arith.constant {step} : index",
        f"%zero = arith.constant dense<0.0> : {kind}",
        "%begin = arith.muli %group, %chunk : index",
        "%end = arith.addi %begin, %chunk : index",
        *_loop(
            [(f"%before{j}", "%zero", kind) for j in streams],
            inner,
            [f"%pass#{j}" for j in streams],
            "%r:{count} = scf.for %t = %c0 to %times step %c1",
        ),
    ]
    values = np.ones(chunk * groups, np.float32)
    bytes_per_lane = chunk * 4 * times // vectors.lanes
    return _probe(body, _READ_STREAMS, vectors, threads, times, values, bytes_per_lane)


def load_probe(probe: Probe, threads: int, folder: Path, name: str) -> Callable[[], Any]:
    """Compile the kernel for this machine and return a function that runs it once."""
    from ...compiler.api import compile as compile_model
    from ...compiler.frontend import model_of_module, parse_module
    from ...runtime.devices import CPU
    from ...runtime.module import load

    model = model_of_module(parse_module(probe.text, name), name)
    module = load(compile_model(model, output=folder / f"{name}.vmfb"), CPU, threads=threads)
    values = module.to_device(probe.values)
    return lambda: module(values)


def _probe(
    body: list[str], chains: int, vectors: Vectors, threads: int, times: int,
    values: NDArray[np.float32], work_per_lane: int, sums: str = "%r#{}",
) -> Probe:  # fmt: skip
    groups = GROUPS_PER_THREAD * threads
    total = sums.format(0)
    for j in range(1, chains):
        body.append(f"%total{j} = arith.addf {total}, {sums.format(j)} : {vectors.text}")
        total = f"%total{j}"
    text = _TEMPLATE.format(
        groups=groups, width=vectors.lanes, times=times, size=values.size,
        results=groups * vectors.lanes, body="\n      ".join(body), total=total,
        vector=vectors.text,
    )  # fmt: skip
    return Probe(text, values, work_per_lane * vectors.lanes * groups, groups)


def _loads(count: int, vectors: Vectors, size: int) -> list[str]:
    """Return lines that load ``%v0`` … from the start of the input."""
    lines = []
    for j in range(count):
        lines += [
            f"%p{j} = arith.constant {j * vectors.lanes} : index",
            f"%v{j} = vector.load %in[%p{j}] : memref<{size}xf32>, {vectors.text}",
        ]
    return lines


def _loop(
    carried: list[tuple[str, str, str]], body: Iterable[str], results: list[str],
    head: str = "%r:{count} = scf.for %t = %c0 to %times step %c1",
) -> list[str]:  # fmt: skip
    """Return a loop that carries (name, start, type) and yields `results`."""
    types = ", ".join(kind for _, _, kind in carried)
    starts = ", ".join(f"{name} = {start}" for name, start, _ in carried)
    return [
        f"{head.format(count=len(carried))} iter_args({starts}) -> ({types}) {{",
        *(f"  {line}" for line in body),
        f"  scf.yield {', '.join(results)} : {types}",
        "}",
    ]
