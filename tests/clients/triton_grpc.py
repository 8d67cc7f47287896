"""NVIDIA's `tritonclient` over gRPC, and its messages beside ours."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

EXPECTED = np.load(os.environ["LOWC_EXPECTED"])
X, Y = EXPECTED["x"], EXPECTED["y"]


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(os.environ["LOWC_GRPC"]) as made:
        yield made


def given(x: np.ndarray) -> list[triton.InferInput]:
    tensor = triton.InferInput("features", list(x.shape), "FP64")
    tensor.set_data_from_numpy(x)
    return [tensor]


def test_health_and_metadata(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("times", "2")
    assert client.get_server_metadata().name == "lowc"
    about = client.get_model_metadata("times")
    assert list(about.versions) == ["1", "2"]
    (features,) = about.inputs
    assert (features.name, features.datatype, list(features.shape)) == (
        "features", "FP64", [-1, X.shape[1]],
    )  # fmt: skip


def test_infer(client) -> None:
    found = client.infer("times", given(X), "1", request_id="seven")
    assert found.get_response().id == "seven"
    np.testing.assert_array_equal(found.as_numpy("predict"), Y)


def test_typed_contents(client) -> None:
    """Tensors in fields of the message, as `tritonclient` itself never sends them."""
    request = service_pb2.ModelInferRequest(model_name="times", model_version="1")
    tensor = request.inputs.add(name="features", datatype="FP64", shape=X.shape)
    tensor.contents.fp64_contents.extend(X.reshape(-1))
    answer = client._client_stub.ModelInfer(request)
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.fp64_contents) == list(Y)


def test_many_at_once(client) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: client.infer("times", given(X[i : i + 1]), "1"), range(64)))
    np.testing.assert_array_equal(
        np.concatenate([one.as_numpy("predict") for one in found]), Y[:64]
    )


def test_errors_have_words(client) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'") as error:
        client.infer("nothing", given(X))
    assert error.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="has no input 'wrong'|is missing"):
        client.infer(
            "times", [triton.InferInput("wrong", [1, 6], "FP64").set_data_from_numpy(X[:1])]
        )


def test_repository(client) -> None:
    names = {one.name for one in client.get_model_repository_index().models}
    assert names >= {"times", "other", "tiles"}
    client.unload_model("other")
    assert not client.is_model_ready("other")
    client.load_model("other")
    assert client.is_model_ready("other")


def test_messages_are_the_same() -> None:
    """Each message and call of protocol.proto has the names, numbers and types of Triton's."""
    ours = descriptor_pb2.FileDescriptorProto.FromString(bytes.fromhex(os.environ["LOWC_PROTOCOL"]))
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    known = {message.name: message for message in theirs.message_type}
    assert len(ours.message_type) > 20
    for message in ours.message_type:
        assert message == known[message.name]
    calls = {method.name: method for method in theirs.service[0].method}
    assert ours.service[0].name == theirs.service[0].name
    for method in ours.service[0].method:
        assert (method.input_type, method.output_type) == (
            calls[method.name].input_type, calls[method.name].output_type,
        )  # fmt: skip
