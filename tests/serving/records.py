"""Records of long runs: what was run, when, on which machine, and what came of it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from lowc.tools.bench.record import new_record


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Write `found` as JSON with the command, the date and the machine; nowhere for None."""
    if path is None:
        return
    record = new_record(command=shlex.join(["python", *sys.argv]), **found)
    path.write_text(json.dumps(record, indent=2) + "\n")
