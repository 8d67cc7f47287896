"""Clients of others work unchanged: `tritonclient` and KServe's, over HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest
from lowc.tools.serve import protocol
from serving import trained
from serving.foreign import run_file
from serving.server import Server


@pytest.mark.parametrize("name", ["triton_http.py", "triton_grpc.py", "kserve_both.py"])
def test_foreign_client(
    name: str, server: Server, booster: lightgbm.Booster, newer: lightgbm.Booster, tmp_path: Path
) -> None:
    x = trained.rows(100, seed=7)
    expected = tmp_path / "expected.npz"
    np.savez(expected, x=x, y=booster.predict(x), newest=newer.predict(x))
    run_file(
        name, LOWC_EXPECTED=str(expected), LOWC_HTTP=f"127.0.0.1:{server.port}",
        LOWC_GRPC=server.grpc, LOWC_PROTOCOL=protocol.load().file.SerializeToString().hex(),
    )  # fmt: skip
