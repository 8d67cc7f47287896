"""What a compiled kernel is like, without running it: instructions, code size, registers, spills.

Instructions and vector registers are counted in the assembly that LLVM writes, the size of the code
is that of its symbol in the object file, and spills are what LLVM's register allocator remarks
(``--pass-remarks-missed=regalloc``) about the innermost loops: a loop of the MLIR text that has no
other in it.  Outside of them a spill costs nothing worth choosing a tile by.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from ...compiler import backend, subprocesses
from ...compiler.target import Target
from ...errors import InternalError

_LABEL = re.compile(r"[A-Za-z_][\w$.]*:")
_VECTOR = re.compile(r"%[xyz]mm(\d+)")
_REMARK = re.compile(r"remark: [^:\n]*:(\d+):\d+: (.*) generated in loop")
_SPILLS = re.compile(r"(\d+) (?:folded )?(?:spills|reloads)(?! cost)")
_LIMITS = subprocesses.Limits(seconds=1800, memory=12 << 30)


@dataclass(frozen=True)
class Facts:
    """What the compiler made of one function.

    Attributes
    ----------
    instructions, code_bytes : int
        Of the whole function.
    vector_registers : int
        Different ones that it names.
    spills : int or None
        What its innermost loops write to the stack and read from it because registers are short;
        None where loops of the text are not those of the code.
    """

    instructions: int
    code_bytes: int
    vector_registers: int
    spills: int | None


def compile_facts(text: str, target: Target, folder: Path) -> dict[str, Facts]:
    """Compile `text`, the kernels of one module as text, below `folder`; return facts by symbol.

    Raises
    ------
    InternalError
        ``iree-compile`` failed.
    """
    source, dump = folder / "kernels.mlir", folder / "objects"
    source.write_text(text)
    command: list[str | Path] = [
        backend.iree_compile(), source, "-o", folder / "kernels.vmfb", *target.flags,
        "--pass-remarks-missed=regalloc", f"--iree-hal-dump-executable-intermediates-to={dump}",
    ]  # fmt: skip
    child = subprocesses.run(command, _LIMITS, environment={"LLVM_DISABLE_CRASH_REPORT": "1"})
    if not child.ok:
        lines = [line for line in child.stderr.splitlines() if "error:" in line]
        raise InternalError("iree-compile failed", detail=(lines or [child.stderr])[0][:400])
    found: dict[str, Facts] = {}
    inner = innermost_loops(text)
    for assembly in sorted(dump.glob("*.s")):
        sizes = symbol_sizes(assembly.with_suffix(".o").read_bytes())
        functions = split_functions(assembly.read_text())
        counts = spills_of(child.stderr, inner)
        for name, lines in functions.items():
            if name in sizes:
                spills = counts.get(name, 0) if inner else None
                found[name] = _facts(lines, sizes[name], spills)
    return found


def _facts(lines: list[str], size: int, spills: int | None) -> Facts:
    registers = {number for line in lines for number in _VECTOR.findall(line)}
    return Facts(len(lines), size, len(registers), spills)


def split_functions(assembly: str) -> dict[str, list[str]]:
    """Return the instructions of each function of assembly in AT&T's syntax."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in assembly.splitlines():
        line = raw.partition("#")[0].strip()
        if _LABEL.fullmatch(line):
            lines = found[line[:-1]] = []
        elif line and not line.startswith(".") and not line.endswith(":"):
            lines.append(line)
    return found


def innermost_loops(text: str) -> list[tuple[int, int, str]]:
    """Return first and last line, from 1 on, of each ``scf.for`` without another in it.

    With the symbol of the executable that it is in.
    """
    found: list[tuple[int, int, str]] = []
    opened: list[list[int]] = []  # line, depth of braces, whether a loop is within
    depth, name = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if symbol := re.search(r"hal\.executable\.source [^@]*@([\w$.]+)", line):
            name = symbol[1]
        depth += line.count("{") - line.count("}")
        if " scf.for " in f" {line.lstrip()}":
            if opened:
                opened[-1][2] = 1
            opened.append([number, depth, 0])
        elif opened and depth < opened[-1][1]:
            start, _, has_inner = opened.pop()
            if not has_inner:
                found.append((start, number, name))
    return found


def spills_of(remarks: str, inner: list[tuple[int, int, str]]) -> dict[str, int]:
    """Add up what remarks say of spills and reloads in innermost loops, by symbol."""
    found: dict[str, int] = {}
    for remark in _REMARK.finditer(remarks):
        line = int(remark[1])
        count = sum(map(int, _SPILLS.findall(remark[2])))
        for start, stop, name in inner:
            if start <= line <= stop:
                found[name] = found.get(name, 0) + count
    return found


def symbol_sizes(data: bytes) -> dict[str, int]:
    """Return the sizes of the functions of a 64-bit little-endian ELF file.

    Raises
    ------
    InternalError
        When it is none.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise InternalError("the object file is no 64-bit ELF file")
    try:
        return dict(_functions(data))
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise InternalError("the object file is damaged", detail=str(error)) from error


def _functions(data: bytes) -> list[tuple[str, int]]:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + size * i) for i in range(count)]
    found = []
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        names = sections[section[6]]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, _, _, _, length = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 == 2:  # STT_FUNC
                start = names[4] + name
                found.append((data[start : data.index(b"\0", start)].decode(), length))
    return found
