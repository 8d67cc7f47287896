"""A compilation needs little more memory than its tools: weights pass through in blocks."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

MEGABYTES = 512
SCRIPT = """
import sys, lowc
lowc.compile(sys.argv[1], sys.argv[2], output=sys.argv[3])
"""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """A model with 512 MB of weights, saved by a process of its own."""
    path = tmp_path_factory.mktemp("large") / "large.pt2"
    code = f"""
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096) for _ in range({MEGABYTES // 64})])
torch.export.save(torch.export.export(model, (torch.ones(2, 4096),)), {str(path)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.stat().st_size > MEGABYTES << 20
    return path


def anonymous_memory(leader):
    """Bytes of memory of a process and its children that are no mapped files."""
    total, pending = 0, [leader]
    while pending:
        pid = pending.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) << 10 for line in status.splitlines() if line[:7] == "RssAnon"
        )
    return total


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["f32", "w4a16"])
def test_peak_memory_is_that_of_the_tools(large_model, tmp_path, recipe):
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, large_model, recipe, tmp_path / "large.vmfb"]
    )
    peak = 0
    stop = threading.Event()

    def watch():
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, anonymous_memory(child.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    stop.set()
    watcher.join()
    assert code == 0
    # PyTorch's own 300 MB, the compiler's 100 and a block of a weight; the weights are 512.
    assert peak < 700 << 20, f"{peak >> 20} MiB"
    assert (tmp_path / "large.irpa").stat().st_size > 80 << 20
