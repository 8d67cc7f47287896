"""Calls of gRPC that never send their message: they are left in time, and keep nobody out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from lowc.tools.serve import protocol, rpc, sources
from lowc.tools.serve.settings import Settings
from lowc.tools.serve.state import Held, make_state
from serving import trained
from serving.server import Server, serving

SPOKEN = protocol.load()


@pytest.fixture(scope="module")
def small(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of few requests that waits for no client longer than two seconds."""
    options = ["--model-repository", repository, "--body-seconds", "2", "--max-requests", "8"]
    with serving(tmp_path_factory.mktemp("small"), *options) as started:
        yield started


def asking(channel: grpc.Channel, name: str, **fields: Any) -> Any:
    method = SPOKEN.methods[name]
    call = channel.unary_unary(
        f"/{SPOKEN.service}/{name}", method.request.SerializeToString, method.response.FromString
    )
    return call(method.request(**fields), timeout=60)


def test_calls_without_a_message(small: Server) -> None:
    end = threading.Event()

    def nothing() -> Iterator[bytes]:
        end.wait(60)
        yield from ()

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(small.grpc, options) for _ in range(5)]
    calls = [
        channel.stream_unary(f"/{SPOKEN.service}/ModelInfer").future(nothing(), timeout=60)
        for channel in channels for _ in range(8)
    ]  # fmt: skip
    with grpc.insecure_channel(small.grpc) as channel:
        assert asking(channel, "ServerLive").live
        assert asking(channel, "ServerMetadata").name == "lowc"
        row = np.asarray(trained.rows(1))
        tensor = {"name": "features", "datatype": "FP64", "shape": list(row.shape)}
        found = asking(
            channel,
            "ModelInfer",
            model_name="times",
            inputs=[tensor],
            raw_input_contents=[row.tobytes()],
        )
        assert found.outputs[0].name == "predict"
        for call in calls:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert call.details() == "the message did not arrive in time"
        assert asking(channel, "ServerLive").live
    end.set()
    for made in channels:
        made.close()
    assert not small.logged("failed")


def test_one_connection_does_not_take_all_calls(repository: Path) -> None:
    settings = Settings(repository=str(repository), port=0, grpc_port=0, log_requests=False)
    state = make_state(settings, sources.all_sources(settings))
    live = SPOKEN.methods["ServerLive"]

    async def all_of_it() -> None:
        server = rpc.make_server(state)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        alone = [("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{port}"
        async with (
            grpc.aio.insecure_channel(address, alone) as silent,
            grpc.aio.insecure_channel(address, alone) as other,
        ):
            begin = silent.stream_unary(f"/{SPOKEN.service}/ModelInfer")
            calls = [begin(timeout=60) for _ in range(600)]
            await asyncio.sleep(0.5)  # all that are let through have begun
            ask = other.unary_unary(f"/{SPOKEN.service}/ServerLive")
            for _ in range(5):
                answer = await ask(live.request().SerializeToString(), timeout=60)
                assert live.response.FromString(answer).live
            for call in calls:
                call.cancel()
        await server.stop(None)

    asyncio.run(all_of_it())


def test_no_message_at_all_and_one_that_is_none(small: Server) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        call = channel.stream_unary(f"/{SPOKEN.service}/ModelInfer")
        for sent in ([], [b"\xff\xff"]):
            with pytest.raises(grpc.RpcError) as error:
                call(iter(sent), timeout=60)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_that_is_too_long(small: Server) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        with pytest.raises(grpc.RpcError) as error:
            asking(channel, "ModelInfer", model_name="times", raw_input_contents=[bytes(5 << 20)])
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asking(channel, "ServerLive").live


def test_messages_that_are_held_are_bounded_together(repository: Path) -> None:
    """Those of both protocols: here bodies of HTTP have nearly all there is."""
    settings = Settings(
        repository=str(repository), port=0, grpc_port=0, max_body=1 << 20, max_buffered=1 << 20,
        log_requests=False,
    )  # fmt: skip
    state = make_state(settings, sources.all_sources(settings))
    method = SPOKEN.methods["ModelInfer"]
    rows = trained.rows(100)
    tensor = {"name": "features", "datatype": "FP64", "shape": list(rows.shape)}
    asked = method.request(model_name="times", inputs=[tensor], raw_input_contents=[rows.tobytes()])

    async def all_of_it() -> None:
        server = rpc.make_server(state)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        other = Held(state)
        other.grow((1 << 20) - asked.ByteSize() + 1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{SPOKEN.service}/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(asked.SerializeToString(), timeout=60)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            other.release()
            for _ in range(3):
                await call(asked.SerializeToString(), timeout=60)
        await server.stop(None)
        assert state.buffered == 0

    asyncio.run(all_of_it())
