"""KServe's own clients, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import os

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

EXPECTED = np.load(os.environ["LOWC_EXPECTED"])
X, Y = EXPECTED["x"], EXPECTED["y"]
URL = f"http://{os.environ['LOWC_HTTP']}"


def asked(*, binary: bool) -> InferRequest:
    tensor = InferInput("features", list(X.shape), "FP64")
    tensor.set_data_from_numpy(X, binary_data=binary)
    return InferRequest("times", [tensor], request_id="seven", model_version="1")


def test_http() -> None:
    async def talk() -> list[np.ndarray]:
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        try:
            assert await client.is_server_live(URL)
            assert await client.is_server_ready(URL)
            assert await client.is_model_ready(URL, "times")
            found = [
                await client.infer(URL, asked(binary=binary), "times") for binary in (False, True)
            ]
            assert [one.id for one in found] == ["seven", "seven"]
            return [one.outputs[0].as_numpy() for one in found]
        finally:
            await client.close()

    for found in asyncio.run(talk()):
        # KServe's client does not put the version into the path: the newest answered.
        np.testing.assert_array_equal(found, EXPECTED["newest"])


def test_grpc() -> None:
    async def talk() -> np.ndarray:
        client = InferenceGRPCClient(os.environ["LOWC_GRPC"])
        try:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("times")
            return (await client.infer(asked(binary=True))).outputs[0].as_numpy()
        finally:
            await client.close()

    np.testing.assert_array_equal(asyncio.run(talk()), Y)
