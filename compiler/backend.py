"""Drive ``iree-compile`` in a process of its own, with limits."""

from __future__ import annotations

import functools
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import iree.compiler

from ..errors import InternalError, LowcError, UserError
from ..passes.kernels.tiles import Unit
from . import subprocesses
from .target import Target

LIMITS = subprocesses.Limits(seconds=1800, memory=16 << 30)
REFUSED = "iree-compile cannot lower"
_MESSAGE_LENGTH = 400
# iree-compile verifies the IR again after each of its own passes, a quarter to a third of its time.
# What it gets was verified; the command that replays a failure leaves the verifier on.
_UNVERIFIED = "--verify=false"
_PROBE = """
func.func @probe(%x: tensor<64xf32>) -> tensor<64xf32> {
  %y = arith.addf %x, %x : tensor<64xf32>
  return %y : tensor<64xf32>
}
"""
_UNKNOWN_CHIP = re.compile(
    r"unknown (target|CPU)|unrecognized|not a recognized processor|on a subtarget"
)


@dataclass(frozen=True)
class Reproducer:
    """A fresh folder with the IR that failed, and the one line that replays it."""

    folder: Path
    command: str

    def __str__(self) -> str:
        return f"reproducer in {self.folder}; replay with:\n    {self.command}"


def iree_compile() -> Path:
    """Return the path of the ``iree-compile`` that belongs to the installed IREE."""
    return Path(iree.compiler.__file__).parent / "_mlir_libs" / "iree-compile"


def compile_module(
    source: Path, output: Path, target: Target, limits: subprocesses.Limits = LIMITS
) -> list[str]:
    """Compile the MLIR file `source` for `target` into the ``.vmfb`` file `output`.

    When that fails, the target's fallbacks are tried; the result says which one worked and why it
    was needed, and is empty when none was.

    Raises
    ------
    UserError
        IREE does not know the target's chip, or cannot lower an operation of the model.
    InternalError
        ``iree-compile`` crashed or ran into a limit.
    """
    first = _attempt(source, output, target, limits)
    if first is None:
        return []
    for flags in target.fallbacks if first.can_retry else ():
        if _attempt(source, output, target.with_flags(flags), limits) is None:
            reason = (first.error.detail or first.error.what).splitlines()[0]
            return [f"compiled with {' '.join(flags)}, because without: {reason}"]
    raise first.error


@dataclass(frozen=True)
class _Failure:
    """Why ``iree-compile`` failed, and whether other flags could help."""

    error: LowcError
    can_retry: bool


def _attempt(
    source: Path, output: Path, target: Target, limits: subprocesses.Limits
) -> _Failure | None:
    """Run ``iree-compile`` once; return how it failed, or None."""
    command: list[str | Path] = [iree_compile(), source, "-o", output, *target.flags, _UNVERIFIED]
    child = subprocesses.run(command, limits, environment={"LLVM_DISABLE_CRASH_REPORT": "1"})
    if child.ok and output.exists():
        return None
    output.unlink(missing_ok=True)
    error = _failure(child, target, limits)
    # A crash of the compiler's own, or what it refuses, may go away with other flags.  Who was
    # killed, or ran into a limit, must not be started again.
    crashed = child.signal in ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGBUS")
    return _Failure(error, can_retry=crashed or error.what.startswith(REFUSED))


# Vector unit → a chip that has it, as targets name it: what kernels for a unit are compiled for.
CHIPS: dict[str, str] = {
    "avx512vbmi": "cpu:icelake-server",
    "avx512vnni": "cpu:cascadelake",
    "avx512": "cpu:skylake-avx512",
    "avx2vnni": "cpu:alderlake",
    "avx2": "cpu:haswell",
    "portable": "cpu:x86-64",
}


@functools.cache
def vector_unit(target: Target) -> Unit:
    """Return the vector unit that IREE sees on the chip of `target`, or the code of a GPU.

    For a CPU, IREE is asked, by compiling a function of one addition down to its executable: it
    knows the chips by name.  If it cannot be asked the answer is ``portable``; a chip that it does
    not know fails later, with the words of :func:`compile_module`.
    """
    if target.backend != "cpu":
        return "spirv" if target.backend == "vulkan" else "ptx"
    text = _probed(iree_compile(), target.flags)
    found = re.search(r"native_vector_size = (\d+)", text)
    if found is None or "x86_64" not in text:
        return "portable"
    features = set(re.findall(r"\+([\w.-]+)", text))
    # Wide vectors of floats may come without those of integers: Sandy Bridge, Knights Landing.
    if found[1] == "64" and {"avx512bw", "avx512dq", "avx512vl"} <= features:
        if "avx512vnni" not in features:
            return "avx512"
        return "avx512vbmi" if "avx512vbmi" in features else "avx512vnni"
    # Kernels read scales in f16; every processor with AVX2 so far can.
    if {"avx2", "fma", "f16c"} <= features:
        return "avx2vnni" if "avxvnni" in features else "avx2"
    return "portable"


def processor(target: Target) -> tuple[str, str]:
    """Return the processor's name and features, as LLVM calls them, that `target` means here.

    Raises
    ------
    InternalError
        When IREE does not tell.
    """
    text = _probed(iree_compile(), target.flags)
    name = re.search(r'\bcpu = "([^"]*)"', text)
    features = re.search(r'\bcpu_features = "([^"]*)"', text)
    if name is None or features is None:
        raise InternalError("iree-compile does not tell which processor it generates code for")
    return name[1], features[1]


@functools.cache
def _probed(compiler: Path, flags: tuple[str, ...]) -> str:
    """Return the probe as it is ahead of code generation; nothing if that fails."""
    with tempfile.TemporaryDirectory(prefix="lowc-probe-") as folder:
        source = Path(folder) / "probe.mlir"
        source.write_text(_PROBE)
        command: list[str | Path] = [compiler, source, *flags, "--compile-to=executable-sources"]
        child = subprocesses.run(command, subprocesses.Limits(seconds=60, memory=4 << 30))
    return child.stdout


def write_reproducer(text: str, command: list[str], folder: Path | None = None) -> Reproducer:
    """Write `text` as ``input.mlir`` into a fresh folder; `command` names it as ``{input}``."""
    parent = None if folder is None else str(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="lowc-reproducer-", dir=parent))
    (fresh / "input.mlir").write_text(text)
    line = shlex.join(part.replace("{input}", str(fresh / "input.mlir")) for part in command)
    (fresh / "replay.sh").write_text(f"#!/bin/sh\nexec {line}\n")
    return Reproducer(fresh, line)


def _failure(
    child: subprocesses.Finished, target: Target, limits: subprocesses.Limits
) -> LowcError:
    where = f"target '{target}'"
    detail = short_errors(child.stderr)
    if child.timed_out:
        return InternalError(
            f"iree-compile took more than {limits.seconds:.0f} s and was stopped", where=where
        )
    if "out of memory" in child.stderr.lower() or "bad_alloc" in child.stderr:
        return InternalError(
            f"iree-compile needed more than its limit of {limits.memory >> 20} MiB", where=where
        )
    if child.signal:
        return InternalError(
            f"iree-compile was ended by {child.signal}", where=where, detail=detail,
            hint="this is a crash of the compiler, or somebody killed it",
        )  # fmt: skip
    if "No space left on device" in child.stderr:
        return UserError("the disk is full", where=where, detail=detail)
    if _UNKNOWN_CHIP.search(detail):
        return UserError("iree-compile does not know this chip", where=where, detail=detail)
    named = re.search(r"operation '([\w.]+)'|'([\w.]+)' op", detail)
    operation = (named[1] or named[2]) if named else ""
    what = f"{REFUSED} '{operation}'" if operation else f"{REFUSED} the module"
    return UserError(
        what, where=where, detail=detail,
        hint="the messages name the place in the model; another target or recipe may do",
    )  # fmt: skip


def short_errors(stderr: str) -> str:
    """Return the first two errors of a tool that prints whole modules, a line each."""
    found = [
        line.strip()
        for line in stderr.splitlines()
        if re.search(r"\berror: |Assertion|LLVM ERROR|terminate called", line)
    ]
    lines = found[:2] or [line for line in stderr.strip().splitlines()[-2:] if line.strip()]
    return "\n".join(line[:_MESSAGE_LENGTH] for line in lines)


def replay_command(target: Target) -> list[str]:
    """Return the command of :func:`write_reproducer` for a failed ``iree-compile``."""
    return [os.fspath(iree_compile()), "{input}", "-o", os.devnull, *target.flags]
