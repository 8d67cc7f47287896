"""How many vector registers the values of a text would take at each of its operations.

A value lives from its definition to its last use; one that is used in a loop and was defined before
it lives to the loop's end.  Constants are not counted, nor is what LLVM will move or never make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# What the name of a vector unit begins with → bits of a register.
REGISTER_BITS = {"avx512": 512, "avx2": 256}
OTHER_BITS = 128
_VECTOR = re.compile(r"vector<((?:\d+x)+)[a-z]+(\d+)>")
_NAME = re.compile(r"%[\w$.-]+")


def registers_of(types: str, unit: str) -> int:
    """Return the registers of all vector types in a text; scalars take none."""
    known = [bits for name, bits in REGISTER_BITS.items() if unit.startswith(name)]
    bits = known[0] if known else OTHER_BITS
    total = 0
    for sizes, width in _VECTOR.findall(types):
        lanes = 1
        for size in sizes.split("x")[:-1]:
            lanes *= int(size)
        total += max(1, -(-lanes * int(width) // bits))
    return total


def result_types(line: str) -> str:
    """Return the part of an operation's text that has the types of its results."""
    arrow = line.rfind("-> ")
    if arrow >= 0:
        return line[arrow:]
    found = list(_VECTOR.finditer(line))
    return found[-1][0] if found and line.rstrip(" {").endswith(">") else ""


@dataclass
class Liveness:
    """What is defined and used where, collected operation by operation."""

    unit: str
    count: int = 0
    weights: dict[str, int] = field(default_factory=dict)  # value → registers
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    path: list[int] = field(default_factory=list)  # loops that are open, by their first operation
    home: dict[str, tuple[int, ...]] = field(default_factory=dict)  # value → loops it is defined in
    waiting: dict[int, set[str]] = field(default_factory=dict)  # loop → values from outside of it
    given: list[tuple[list[str], int]] = field(default_factory=list)  # results of open loops

    def operation(self, body: str, results: list[str], carried: list[str]) -> None:
        """Take an operation without its results' names; `carried` are those of a loop's sums."""
        here = self.count
        self.count += 1
        for name in _NAME.findall(body):
            if name in self.first and name not in carried:
                self._use(name, here)
        share = registers_of(result_types(body), self.unit) if results else 0
        if "scf.for " in body:
            self.given.append((results, share))
            for name in carried if share else ():
                self._define(name, here, -(-share // len(carried)), [*self.path, here])
        elif share:
            for name in results:
                self._define(name, here, share, self.path)

    def _define(self, name: str, here: int, registers: int, path: list[int]) -> None:
        self.weights[name], self.first[name] = registers, here
        self.last[name], self.home[name] = here, tuple(path)

    def _use(self, name: str, here: int) -> None:
        self.last[name] = here
        outside = len(self.home[name])
        if len(self.path) > outside:
            self.waiting.setdefault(self.path[outside], set()).add(name)

    def enter(self) -> None:
        """Begin the loop of the last operation."""
        self.path.append(self.count - 1)

    def leave(self) -> None:
        """End the innermost loop."""
        loop = self.path.pop()
        for name in self.waiting.pop(loop, ()):
            self.last[name] = max(self.last[name], self.count - 1)
        results, share = self.given.pop()
        for name in results if share else ():
            self._define(name, self.count - 1, share, self.path)

    def registers(self) -> list[int]:
        """Return the registers of all values that live before and behind each operation."""
        change = [0] * (self.count + 1)
        for name, registers in self.weights.items():
            if self.last[name] > self.first[name]:
                change[self.first[name] + 1] += registers
                change[self.last[name]] -= registers
        found, alive = [], 0
        for more in change[: self.count]:
            alive += more
            found.append(alive)
        return found
