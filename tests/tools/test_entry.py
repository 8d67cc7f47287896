"""Ctrl-C before the command has begun."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from layout import ROOT

_MAIN = "import sys; from lowc.tools.entry import main; sys.exit(main())"
# In the place of the first package that the command loads: Ctrl-C comes while it is loaded, and
# whoever catches all exceptions there must not keep the process from ending.
_INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    pass
"""


def test_ctrl_c_while_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(_INTERRUPTED)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {_MAIN}"
    ran = subprocess.run(
        [sys.executable, "-c", script, "--version"], capture_output=True, text=True,
        # A test run in the background may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "lowc: interrupted\n")


def test_it_is_what_is_installed() -> None:
    assert 'lowc = "lowc.tools.entry:main"' in (ROOT / "pyproject.toml").read_text()
    ran = subprocess.run([sys.executable, "-c", _MAIN, "no-such"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("lowc: error: there is no subcommand 'no-such'")
