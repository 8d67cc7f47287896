"""Figures without a place: kept, said once, and handed over when there is one; no request suffers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lowc.errors import UserError
from lowc.tools.serve import room

# In a process of its own: prometheus-client decides when it is loaded that figures go into files.
# A limit on the size of files stands for a full disk: neither has room for a longer one.
_SCRIPT = """
import resource, shutil, sys
from pathlib import Path
from lowc.tools.serve import metrics
from lowc.tools.serve.faults import Fault

kind, folder = sys.argv[1], Path(sys.argv[2])
of = metrics.Metrics()
of.flush()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
if kind == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
else:
    shutil.rmtree(folder)
for number in range(60):
    of.request("http", "/v2/models", 200, 0.01)
    of.stage(f"model-{number}", "predict", 0.02)
    of.batch(f"model-{number}", 3)
for _ in range(3):
    of.flush()
    of._flush_again = min(of._flush_again, 1e-9)  # a minute later
try:
    of.text()
except Fault as fault:
    print(fault.status)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
folder.mkdir(exist_ok=True)
of.flush()
text = of.text().decode()
print(sum("lowc_serve_batch_rows_count" in line for line in text.splitlines()))
print([line for line in text.splitlines() if line.startswith("lowc_serve_batch_rows_count")][:1])
print(*[line for line in text.splitlines() if line.startswith("lowc_serve_requests_total")])
"""


@pytest.mark.parametrize("kind", ["full", "gone"])
def test_what_has_no_place_is_kept(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, kind, str(folder)], capture_output=True, text=True,
        timeout=120, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("uncounted") == 1
    lines = done.stdout.splitlines()
    assert (lines[0] == "503") == (kind == "gone")
    assert "60" in lines
    total = 'lowc_serve_requests_total{endpoint="/v2/models",protocol="http",status="200"} 60.0'
    assert kind == "gone" or total in lines


def test_a_file_that_is_cut_off_is_no_fault_of_the_server(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from lowc.tools.serve import metrics\n"
        "from lowc.tools.serve.faults import Fault\n"
        "of = metrics.Metrics()\n"
        "of.request('http', '/v2/models', 200, 0.01)\n"
        "of.flush()\n"
        "for size in (0, 3, 4096):\n"
        "    open(sys.argv[1] + '/counter_77.db', 'wb').write(b'\\1' * size)\n"
        "    try: of.text()\n"
        "    except Fault as fault: print(fault.status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path)], capture_output=True, text=True,
        timeout=120, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["503", "503", "503"]


def test_no_room_at_the_start_is_an_error(tmp_path: Path) -> None:
    room.check(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        UserError, match="there is no room for the figures of the workers"
    ) as caught:
        room.check(tmp_path / "absent", 2)
    assert "they take 786432 bytes at first" in str(caught.value)


def test_a_file_without_room_is_not_left_behind(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from lowc.tools.serve import room\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: room.take(sys.argv[1], 8192)\n"
        "except OSError as error: print(error)\n"
    )
    path = tmp_path / "counter_1.db"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )
    assert str(path) in done.stdout, done.stderr
    assert not path.exists()
