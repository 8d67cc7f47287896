"""MLIR text as tokens: one short list for each operation, in the order of the text.

What two texts of the same meaning may differ in is left out or made canonical:

* comments, locations, layouts of bindings and the names of symbols go;
* a value is called by its age: how many operations ago it was defined, as a power of two (``%3``);
* a constant has no operation of its own, its value stands where it is used;
* shapes are split into numbers, and a number is the half octave it lies in (``n18`` is 512), so
  that no shape is unknown;
* every operation is told how deep it lies in loops, and how often all of them run it (``r:20``), as
  far as that follows from constants, for the first workgroup; and how many vector registers are
  taken by values that live there (``v:24``, :mod:`.liveness`).

After "ML-driven Hardware Cost Model for MLIR" (arXiv 2302.11405), which takes a whole shape as one
token and numbers SSA values; see there for what that costs with shapes that were not seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from .liveness import Liveness

MOST_ALIVE = 48  # registers that are told apart; more are by eights
MOST_OPERATIONS = 20_000  # of a text; what comes behind them is not read
MOST_VALUE = 1 << 63  # a larger integer is no index: it counts as unknown
MOST_LOOPS = 64  # in each other; every value knows those that it is in
MOST_ROUNDS = 1e30  # of all loops around an operation
_LEX = re.compile(
    r'%[\w$.-]+|"[^"]*"|-?0x[0-9A-Fa-f]+|-?\d+\.\d+(?:[eE][+-]?\d+)?|-?\d+|[#!]?[A-Za-z_][\w.$]*|[?@]'
)
_DROPPED = re.compile(r"//.*|loc\([^()]*\)|layout\(<[^<>]*>\)|(?<=@)[\w$.]+")
_BETWEEN_SIZES = re.compile(r"(?<=[\d?\]])x(?=[\d?\[a-z])")
_CONSTANT = re.compile(
    r"(%[\w$.-]+) = arith\.constant (?:dense<)?(-?[\d.]+(?:[eE][+-]?\d+)?|true|false)"
)
_RESULTS = re.compile(r"(%[\w$.-]+)(?::\d+)?(?:, %[\w$.-]+)* = ")
_LOOP = re.compile(r"scf\.for (%[\w$.-]+) = (%[\w$.-]+) to (%[\w$.-]+) step (%[\w$.-]+)")
_CARRIED = re.compile(r"(%[\w$.-]+) = (%[\w$.#-]+)")
_BINARY = re.compile(r"(%[\w$.-]+) = arith\.(\w+) (%[\w$.-]+), (%[\w$.-]+)")
_FOLDS: dict[str, Callable[[int, int], int]] = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "divui": lambda a, b: a // max(b, 1),
    "remui": lambda a, b: a % max(b, 1),
    "ceildivui": lambda a, b: -(-a // max(b, 1)),
    "minui": min,
    "maxui": max,
    "minsi": min,
    "maxsi": max,
}


@dataclass(frozen=True)
class Tokens:
    """A function's text.

    Attributes
    ----------
    operations : list of list of str
        The tokens of each operation.
    rounds : list of float
        How often a workgroup runs it, 1 where that is not known.
    workgroups : int or None
        How many there are, if that is known.
    """

    operations: list[list[str]]
    rounds: list[float]
    workgroups: int | None


def tokenize(text: str, unit: str, workgroups: int | None = None) -> Tokens:
    """Return the tokens of every operation of a function's text.

    Parameters
    ----------
    text : str
        One function as MLIR prints it.
    unit : str
        The vector unit that it is compiled for; a token of every operation.
    workgroups : int or None
        How many run it, if that is known.

    Raises
    ------
    ValueError, OverflowError
        When a number in it is none or larger than any double, or loops are nested too deep.
    """
    reader = _Reader(unit)
    reader.read(text)
    for words, alive in zip(reader.found, reader.alive.registers(), strict=True):
        words.append(f"v:{alive if alive < MOST_ALIVE else MOST_ALIVE + alive // 8}")
    return Tokens(reader.found, reader.rounds, workgroups)


def number(value: float) -> str:
    """Return the token of a number."""
    if value == 0:
        return "n-"
    sign = "-" if value < 0 else ""
    return f"n{sign}{round(2 * math.log2(abs(value)))}"


class _Reader:
    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.defined: dict[str, int] = {}  # value → number of the operation
        self.constants: dict[str, str] = {}  # value → token
        self.values: dict[str, int] = {}  # integers that are known
        self.runs: list[
            tuple[int, float]
        ] = []  # depth of braces of each loop, and its rounds in all
        self.found: list[list[str]] = []
        self.rounds: list[float] = []
        self.alive = Liveness(unit)

    def read(self, text: str) -> None:
        depth = 0
        for raw in text.splitlines():
            line = _DROPPED.sub("", raw).strip()
            closed = len(line) - len(line.lstrip("}"))
            while self.runs and depth - closed < self.runs[-1][0]:
                self.runs.pop()
                self.alive.leave()
            depth += line.count("{") - line.count("}")
            if line and not self._is_constant(line) and line.strip("} ") != "":
                if len(self.found) >= MOST_OPERATIONS:
                    break
                self._operation(line, depth)

    def _is_constant(self, line: str) -> bool:
        constant = _CONSTANT.match(line)
        if constant is None:
            return False
        text = {"true": "1", "false": "0"}.get(constant[2], constant[2])
        self.constants[constant[1]] = number(float(text))
        if re.fullmatch(r"-?\d{1,19}", text) and "dense" not in line:
            self.values[constant[1]] = int(text)
        return True

    def _operation(self, line: str, depth: int) -> None:
        results = _RESULTS.match(line)
        body = line[results.end() :] if results else line
        words = [self._word(word) for word in _LEX.findall(_BETWEEN_SIZES.sub(" ", body))]
        rounds = self._rounds()
        head = [f"u:{self.unit}", f"d:{len(self.runs)}", f"r:{round(2 * math.log2(rounds))}"]
        here = len(self.found)
        self.found.append(head + words)
        self.rounds.append(rounds)
        if results:
            self.defined[results[1]] = here
        self._fold(line)
        loop = _LOOP.search(line)
        carried = _CARRIED.findall(line.partition("iter_args")[2]) if loop else []
        names = [name for name, _ in carried]
        self.alive.operation(body, [results[1]] if results else [], names)
        if loop:
            self._enter(loop, names, depth, here)

    def _rounds(self) -> float:
        return self.runs[-1][1] if self.runs else 1.0

    def _word(self, word: str) -> str:
        if word.startswith("%"):
            name = word.partition("#")[0]
            if name in self.constants:
                return self.constants[name]
            age = len(self.found) - self.defined.get(name, len(self.found))
            return f"%{age.bit_length()}"
        if word.startswith("@"):
            return "@"
        if word.startswith('"'):
            return word.strip('"')[:64]
        if re.fullmatch(r"-?0x[0-9A-Fa-f]+", word):
            return "hex"
        return number(float(word)) if re.match(r"-?\d", word) else word

    def _fold(self, line: str) -> None:
        """Follow integers as far as they are known, for the workgroup number 0."""
        if "hal.interface.workgroup.id" in line:
            self.values[line.partition(" =")[0]] = 0
            return
        found = _BINARY.match(line)
        if found is None or found[2] not in _FOLDS:
            return
        a, b = self.values.get(found[3]), self.values.get(found[4])
        # Integers of Python's have no end: squared again and again they would take all there is.
        value = None if a is None or b is None else _FOLDS[found[2]](a, b)
        if value is None or abs(value) > MOST_VALUE:
            self.values.pop(found[1], None)
        else:
            self.values[found[1]] = value

    def _enter(self, loop: re.Match[str], carried: list[str], depth: int, here: int) -> None:
        if len(self.runs) >= MOST_LOOPS:
            raise ValueError(f"more than {MOST_LOOPS} loops are nested")
        self.alive.enter()
        start, stop, step = (self.values.get(name) for name in loop.groups()[1:])
        known = start is not None and stop is not None and step
        rounds = max(1.0, float(-(-(stop - start) // step))) if known else 1.0  # type: ignore[operator]
        self.runs.append((depth, min(rounds * self._rounds(), MOST_ROUNDS)))
        self.defined[loop[1]] = here
        if start is not None:
            self.values[loop[1]] = start
        self.defined |= dict.fromkeys(carried, here)
