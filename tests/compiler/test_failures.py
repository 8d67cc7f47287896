"""What is left, and what is said, when a compilation fails or is interrupted."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import lowc
import numpy as np
import pytest
from lowc.compiler import backend, subprocesses
from lowc.compiler.target import load_target
from products.linear import Form, compile_linear

GOOD = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }"
# Valid MLIR that makes no sense outside of a kernel.
NOT_LOWERABLE = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  gpu.barrier
  return %x : tensor<4xf32>
}
"""
WEIGHT = np.ones((256, 512), np.float32)
LOWC = [sys.executable, "-c", "import sys; from lowc.tools.cli import main; sys.exit(main())"]


def write(folder, text, name="model.mlir"):
    path = folder / name
    path.write_text(text)
    return path


def left_behind(folder):
    """Everything that no input or finished output explains."""
    return sorted(
        path.name for path in folder.iterdir()
        if path.suffix != ".mlir" and not path.name.startswith("lowc-reproducer")
    )  # fmt: skip


@pytest.fixture
def reproducers(monkeypatch, tmp_path):
    """Have reproducers written where the test can look."""
    folder = tmp_path / "reproducers"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_failed_compile_leaves_a_reproducer_that_replays(tmp_path, reproducers):
    model = write(tmp_path, NOT_LOWERABLE)
    with pytest.raises(lowc.UserError) as caught:
        lowc.compile(model, output=tmp_path / "out.vmfb")
    message = str(caught.value)
    assert "iree-compile cannot lower 'gpu.barrier'" in message
    (folder,) = reproducers.glob("lowc-reproducer-*")
    line = next(line.strip() for line in message.splitlines() if " -o /dev/null" in line)
    again = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "gpu.barrier" in again.stderr
    replayed = subprocess.run(["sh", folder / "replay.sh"], capture_output=True, check=False)
    assert replayed.returncode == again.returncode
    assert left_behind(tmp_path) == ["reproducers"]


def test_failing_pass_leaves_a_reproducer_for_opt(tmp_path, reproducers, monkeypatch):
    def broken(self, module, remark):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("lowc.passes.name_matmuls.NameMatmuls.run", broken)
    with pytest.raises(lowc.InternalError) as caught:
        lowc.compile(write(tmp_path, GOOD), output=tmp_path / "out.vmfb")
    message = str(caught.value)
    assert "the pass 'lowc-name-matmuls' raised ZeroDivisionError: on purpose" in message
    (folder,) = reproducers.glob("lowc-reproducer-*")
    assert f"lowc opt {folder}/input.mlir" in message
    arguments = [
        "opt",
        str(folder / "input.mlir"),
        "--pass-pipeline=builtin.module(lowc-name-matmuls)",
    ]
    assert all(part in message for part in arguments)
    # Without the broken pass the same line succeeds: the IR in it is whole.
    replay = subprocess.run([*LOWC, *arguments], capture_output=True, text=True, check=False)
    assert replay.returncode == 0, replay.stderr
    assert "@main" in replay.stdout


@pytest.mark.parametrize(("signal_name", "runs"), [("KILL", 1), ("TERM", 1), ("SEGV", 4)])
def test_iree_compile_ended_by_a_signal(tmp_path, monkeypatch, signal_name, runs):
    """Who is killed is not started again; a crash of the compiler's may go away with other flags."""
    log = tmp_path / "runs.mlir"
    stand_in = write(
        tmp_path, f"#!/bin/sh\necho run >> {log}\nkill -{signal_name} $$\n", "compiler.mlir"
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr(backend, "iree_compile", lambda: stand_in)
    with pytest.raises(lowc.InternalError, match=f"iree-compile was ended by SIG{signal_name}"):
        lowc.compile(write(tmp_path, GOOD), output=tmp_path / "out.vmfb")
    assert log.read_text().count("run") == runs
    assert left_behind(tmp_path) == []


def test_iree_compile_stopped_at_its_time_limit(tmp_path):
    big = write(tmp_path, GOOD)
    with pytest.raises(lowc.InternalError, match=r"took more than 0 s and was stopped"):
        backend.compile_module(
            big, tmp_path / "out.vmfb", load_target("cpu"), subprocesses.Limits(seconds=0.05)
        )
    assert not (tmp_path / "out.vmfb").exists()


def test_iree_compile_stopped_at_its_memory_limit(tmp_path):
    with pytest.raises(
        lowc.InternalError,
        match=r"iree-compile (needed more than|was ended by SIG(ABRT|SEGV)|cannot lower)",
    ):
        backend.compile_module(
            write(tmp_path, GOOD), tmp_path / "out.vmfb", load_target("cpu"),
            subprocesses.Limits(seconds=60, memory=24 << 20),
        )  # fmt: skip


def test_children_die_with_a_time_limit(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"
    done = subprocesses.run(["sh", "-c", script], subprocesses.Limits(seconds=1))
    assert done.timed_out and done.signal == "SIGKILL"
    assert_dead(int(pid_file.read_text()))


def assert_dead(pid):
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still running")


def heed_interrupts():
    """Undo what a background shell does: it has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("signal_name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupt_leaves_nothing(tmp_path, signal_name, code):
    model = write(tmp_path, GOOD)
    # A compiler that never ends, in place of iree-compile, and says who it is.
    slow = write(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/pid.mlir\nsleep 600\n", "slow.mlir")
    slow.chmod(0o755)
    program = (
        "import sys, pathlib; from lowc.compiler import backend; from lowc.tools.cli import main; "
        f"backend.iree_compile = lambda: pathlib.Path({str(slow)!r}); sys.exit(main())"
    )
    output = tmp_path / "out.vmfb"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "compile", str(model), "-o", str(output)],
        stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts,  # noqa: PLW1509
    )  # fmt: skip
    pid_file = tmp_path / "pid.mlir"
    for _ in range(300):
        if pid_file.exists() and pid_file.read_text().strip():
            break
        time.sleep(0.1)
    child.send_signal(signal.Signals[signal_name])
    try:
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == code, errors
    assert "Traceback" not in errors and ("interrupted" in errors or signal_name in errors)
    assert_dead(int(pid_file.read_text()))
    assert left_behind(tmp_path) == []


def test_full_disk_by_file_size_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        return lowc.compile(*arguments, **options)

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(lowc.UserError, match="the disk is full"):
            compile_linear(tmp_path, WEIGHT, Form("dequant", "i8", 16), 1, compiler=limited)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert left_behind(tmp_path) == ["weights.bin"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("form", [Form("dequant", "i8", 16), Form()])
def test_full_disk(tmp_path, form):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")

    def onto_disk(*arguments, output):
        return lowc.compile(*arguments, output=disk / output.name)

    try:
        with pytest.raises(lowc.UserError, match=f"{disk}.*the disk is full"):
            compile_linear(tmp_path, WEIGHT, form, 1, compiler=onto_disk)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"recipe": "f23"}, "ends in .toml; did you mean 'f32'?"),
        ({"target": "cpuu"}, "there is no target 'cpuu'\n  hint: did you mean 'cpu'?"),
        ({"target": "cpu:../x"}, "'../x' is no chip name"),
        ({"target": "cpu:no-such-chip"}, "does not know this chip"),
        ({"output": "model.bin"}, "the output must be called something.vmfb"),
        ({"output": "/nowhere/model.vmfb"}, "/nowhere: cannot write here"),
        ({"calibration": "x.npz"}, "has no method that uses calibration data"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, what):
    model = write(tmp_path, GOOD)
    given = {"output": tmp_path / "out.vmfb", **arguments}
    with pytest.raises(lowc.UserError, match=re.escape(what)):
        lowc.compile(model, **given)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("func.func @main(", "this is not valid MLIR"),
        ("", "public functions"),
        (
            'func.func @main() { "nonsense.op"() : () -> () return }',
            "the operation 'nonsense.op' is of no dialect that IREE knows",
        ),
        (GOOD.replace("@main", "@a") + GOOD.replace("@main", "@b"), "2 public functions"),
        (
            "func.func @main(%x: f32) -> f32 { return %x : f32 }",
            "entry functions take and return tensors",
        ),
    ],
)
def test_wrong_mlir(tmp_path, text, what):
    with pytest.raises(lowc.UserError, match=what):
        lowc.compile(write(tmp_path, text), output=tmp_path / "out.vmfb")


def test_what_is_no_model(tmp_path):
    with pytest.raises(lowc.UserError, match="cannot compile a builtins.int"):
        lowc.compile(3, output=tmp_path / "out.vmfb")
    with pytest.raises(lowc.UserError, match=r"nothing\.pt2: the file does not exist"):
        lowc.compile(tmp_path / "nothing.pt2", output=tmp_path / "out.vmfb")
    with pytest.raises(lowc.UserError, match=r"nothing\.mlir: the file does not exist"):
        lowc.compile(tmp_path / "nothing.mlir", output=tmp_path / "out.vmfb")
