"""The command line as a whole: exit codes, help, nearest words, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from lowc.tools import cli, docstring
from lowc.tools.cli import COMMANDS, main

LOWC = [sys.executable, "-c", "import sys; from lowc.tools.cli import main; sys.exit(main())"]


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOWC, *map(str, arguments)], text=True, timeout=120, check=False,
        **{"capture_output": True, **options},
    )  # fmt: skip


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_everywhere(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "-h"):
        assert main([*command, word]) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith(f"Usage: {' '.join(['lowc', *command])}")
        assert shown.err == ""


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert name in shown
        assert summary in shown


def test_help_loads_neither_mlir_nor_numpy() -> None:
    script = (
        "import sys; from lowc.tools.cli import main; main(['--help']); "
        "sys.exit(sum(name in sys.modules for name in ('iree.compiler', 'numpy', 'torch')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lowc {metadata.version('lowc')}\n"


def test_no_subcommand_shows_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Usage: lowc")


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["complie"], "there is no subcommand 'complie'", "did you mean 'compile'?"),
        (["xyzzy"], "there is no subcommand 'xyzzy'", "known: bench, compile"),
        (["--versoin"], "lowc: there is no option '--versoin'", "did you mean '--version'?"),
        (["compile", "m.pt2", "--recpie", "f32"], "lowc compile: there is no option '--recpie'",
         "did you mean '--recipe'?"),
        (["run", "m.vmfb", "--inputs", "a.npy"], "lowc run: there is no option '--inputs'",
         "did you mean '--input'?"),
        (["opt", "--pass-pipelin", "cse"], "lowc opt: there is no option '--pass-pipelin'",
         "did you mean '--pass-pipeline'?"),
        (["opt", "--pass-pipeline", "lowc-nam-matmuls"], "there is no pass 'lowc-nam-matmuls'",
         "did you mean 'lowc-name-matmuls'?"),
        (["passes", "lowc-assign-form"], "there is no pass 'lowc-assign-form'",
         "did you mean 'lowc-assign-forms'?"),
        (["doctor", "--jsn"], "there is no option '--jsn'", "did you mean '--json'?"),
        (["compile"], "lowc compile: Missing argument 'MODEL", "'lowc compile --help' shows"),
        (["run", "a.vmfb", "b"], "lowc run: Got unexpected extra argument (b)", "--help' shows"),
        (["compile", "none.mlir"], "none.mlir: the file does not exist", ""),
        (["opt", "none.mlir"], "none.mlir: the file does not exist", ""),
        (["run", "none.vmfb"], "none.vmfb: the file does not exist", ""),
        (["passes", "--json", "--markdown"], "--markdown prints the whole page", ""),
    ],
)  # fmt: skip
def test_the_users_errors(
    arguments: list[str], what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"lowc: error: {what}"[:60] in shown.err or what in shown.err
    assert hint in shown.err
    assert "Traceback" not in shown.err


def test_an_unexpected_exception_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a fault\nover two lines")

    monkeypatch.setattr(docstring, "describe_all", fail)
    assert main(["passes"]) == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "lowc: internal error: RuntimeError: a fault over two lines "
        "(a fault of lowc; LOWC_DEBUG=1 shows where)"
    ]
    monkeypatch.setenv("LOWC_DEBUG", "1")
    assert main(["passes"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(docstring, "describe_all", interrupt)
    assert main(["passes"]) == 130
    assert capsys.readouterr().err.strip() == "lowc: interrupted"


def test_the_installed_command_exits_with_what_main_returns() -> None:
    installed = Path(sys.executable).with_name("lowc")
    for arguments, code in ((["--version"], 0), (["opt", "none.mlir"], 2)):
        ran = subprocess.run(
            [installed, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == code
        assert "Traceback" not in ran.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = run("passes", "--json", stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writer)
    assert ran.returncode == 141
    assert ran.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_the_users() -> None:
    with Path("/dev/full").open("w") as full:
        ran = run("passes", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert ran.returncode == 2
    assert ran.stderr == "lowc: error: standard output: No space left on device\n"


# Many matmuls of different shapes, so that iree-compile has work for some seconds.
SLOW = "\n".join(
    [
        "func.func @main(%x: tensor<16x16xf32>) -> tensor<16x16xf32> {",
        *(
            f"""
  %e{i} = tensor.empty() : tensor<16x{i}xf32>
  %w{i} = arith.constant dense<0.5> : tensor<16x{i}xf32>
  %m{i} = linalg.matmul ins(%x, %w{i} : tensor<16x16xf32>, tensor<16x{i}xf32>)
      outs(%e{i} : tensor<16x{i}xf32>) -> tensor<16x{i}xf32>
  util.optimization_barrier %m{i} : tensor<16x{i}xf32>"""
            for i in range(17, 160)
        ),
        "return %x : tensor<16x16xf32>",
        "}",
    ]
)


def test_ctrl_c_leaves_no_file_and_no_child(tmp_path: Path) -> None:
    source = tmp_path / "slow.mlir"
    source.write_text(SLOW)
    started = subprocess.Popen(
        [*LOWC, "compile", source, "-o", tmp_path / "slow.vmfb"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A background shell has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    assert started.stderr is not None
    for line in started.stderr:
        if "iree-compile" in line:
            break
    while started.poll() is None and not (children := _children_about(tmp_path, started.pid)):
        pass
    assert children, "the compilation was over before it could be interrupted"
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert said == "lowc: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["slow.mlir"]
    assert _children_about(tmp_path, started.pid) == []


def _children_about(folder: Path, parent: int) -> list[int]:
    """Return the processes other than `parent` whose command names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (parent, os.getpid()):
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(entry.name))
    return found


def test_commands_and_their_functions_are_called_alike() -> None:
    for name in COMMANDS:
        context = cli.cli.make_context("lowc", ["--help"], resilient_parsing=True)
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
