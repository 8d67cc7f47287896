"""The assembly that LLVM makes of kernels: functions and their inner loops (AT&T's syntax)."""

import re


def functions(text):
    """Split assembly at the labels of functions; directives and comments go, and how to encode."""
    found, lines = {}, []
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip().removeprefix("{vex}").strip()
        if re.fullmatch(r"[A-Za-z_][\w$.]*:", line):
            lines = found[line[:-1]] = []
        elif re.match(r"\.L\w+:", line) or (line and not line.startswith(".")):
            lines.append(line)
    return found


def inner_loops(lines, instruction):
    """Return the bodies of the loops that have no other label in them and use `instruction`."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"j\w+\s+(\.L\w+)", line)
        start = labels.get(jump[1], i) if jump else i
        body = lines[start + 1 : i + 1]
        if start < i and not any(other.endswith(":") for other in body):
            loops.append([tuple(part.split(None, 1)) for part in body])
    return [loop for loop in loops if any(part[0] == instruction for part in loop)]


def compile_assembly(compile_kernels, kernels, target, folder):
    """Return the functions that LLVM makes of `kernels`; ``compile_kernels`` is a family's own."""
    flag = f"--iree-hal-dump-executable-intermediates-to={folder}"
    compile_kernels(kernels, target, folder, [flag])
    (text,) = (path.read_text() for path in folder.glob("*.s"))
    return functions(text)
