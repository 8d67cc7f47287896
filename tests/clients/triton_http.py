"""NVIDIA's `tritonclient` over HTTP, against a server that is told by the environment."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

EXPECTED = np.load(os.environ["LOWC_EXPECTED"])
X, Y = EXPECTED["x"], EXPECTED["y"]
URL = os.environ["LOWC_HTTP"]


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(URL) as made:
        yield made


def given(x: np.ndarray, *, binary: bool) -> list[triton.InferInput]:
    tensor = triton.InferInput("features", list(x.shape), "FP64")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return [tensor]


def test_health_and_metadata(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("times")
    assert client.is_model_ready("times", "1")
    assert client.get_server_metadata()["name"] == "lowc"
    about = client.get_model_metadata("times")
    assert about["versions"] == ["1", "2"]
    assert about["inputs"] == [{"name": "features", "datatype": "FP64", "shape": [-1, X.shape[1]]}]
    assert about["outputs"] == [{"name": "predict", "datatype": "FP64", "shape": [-1]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client, binary_in: bool, binary_out: bool) -> None:
    wanted = [triton.InferRequestedOutput("predict", binary_data=binary_out)]
    found = client.infer("times", given(X, binary=binary_in), "1", wanted, request_id="seven")
    assert found.get_response()["id"] == "seven"
    assert found.get_response()["model_version"] == "1"
    np.testing.assert_array_equal(found.as_numpy("predict"), Y)


def test_outputs_may_be_left_out(client) -> None:
    found = client.infer("times", given(X[:3], binary=True), "1")
    np.testing.assert_array_equal(found.as_numpy("predict"), Y[:3])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed(client, algorithm: str) -> None:
    found = client.infer(
        "times", given(X, binary=True), "1", request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )  # fmt: skip
    np.testing.assert_array_equal(found.as_numpy("predict"), Y)


def test_many_at_once(client) -> None:
    async def ask_all() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(URL) as many:
            asked = [many.infer("times", given(X[i : i + 1], binary=True), "1") for i in range(64)]
            return [found.as_numpy("predict") for found in await asyncio.gather(*asked)]

    np.testing.assert_array_equal(np.concatenate(asyncio.run(ask_all())), Y[:64])


def test_errors_have_words(client) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'") as error:
        client.infer("nothing", given(X, binary=True))
    assert error.value.status() == "404"
    with pytest.raises(InferenceServerException, match="has shape"):
        client.infer("times", given(X[:, :3].copy(), binary=True))


def test_repository(client) -> None:
    states = {
        (one["name"], one["version"]): one["state"] for one in client.get_model_repository_index()
    }
    assert states["other", "1"] == states["times", "2"] == "READY"
    client.unload_model("other")
    assert not client.is_model_ready("other")
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.infer("other", given(X, binary=True))
    client.load_model("other")
    assert client.is_model_ready("other")
    np.testing.assert_array_equal(
        client.infer("other", given(X, binary=True)).as_numpy("predict"), Y
    )
