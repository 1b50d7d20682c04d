"""The gRPC interface, spoken with the stubs of tensorflow-serving-api, and warm-up files."""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def api() -> Any:
    """Import the client side once: it brings the whole of tensorflow along."""
    return _Api()


class _Api:
    """The message classes and stubs that the tests use."""

    def __init__(self) -> None:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_log_pb2,
            prediction_service_pb2_grpc,
        )

        self.grpc = grpc
        self.tf = tf
        self.metadata = get_model_metadata_pb2
        self.status = get_model_status_pb2
        self.log = prediction_log_pb2
        self.request = predict_pb2.PredictRequest
        self.prediction_stub = prediction_service_pb2_grpc.PredictionServiceStub
        self.model_stub = model_service_pb2_grpc.ModelServiceStub

    def predict_request(self, model: str, signature: str = "", **inputs: Any) -> Any:
        request = self.request()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(self.tf.make_tensor_proto(value))
        return request

    def error(self, call: Any, request: Any) -> tuple[str, str]:
        with pytest.raises(self.grpc.RpcError) as raised:
            call(request, timeout=600)
        return raised.value.code().name, raised.value.details()


@pytest.fixture
def channel(api: Any, zoo_server: Any) -> Iterator[Any]:
    """Connect to the server of all recorded models."""
    with api.grpc.insecure_channel(f"127.0.0.1:{zoo_server.grpc_port}") as opened:
        yield opened


def test_predict(api: Any, channel: Any) -> None:
    """Predict returns the outputs in their typed fields, with the version that answered."""
    request = api.predict_request("twov", x=np.array([[2.0]], np.float32))
    request.model_spec.version_label = "stable"
    response = api.prediction_stub(channel).Predict(request, timeout=600)
    assert response.outputs["output_0"].float_val == [3.0]
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


# TensorFlow 2.21 reads halves in a way that NumPy 2.5 (Python 3.12 and later have it from the lock) advises against.
@pytest.mark.filterwarnings("ignore:Setting the dtype on a NumPy array:DeprecationWarning:tensorflow")
@pytest.mark.parametrize(
    ("signature", "dtype"),
    [
        ("f32", "float32"), ("f64", "float64"), ("i8", "int8"), ("u8", "uint8"), ("i16", "int16"),
        ("u16", "uint16"), ("i32", "int32"), ("u32", "uint32"), ("i64", "int64"), ("u64", "uint64"),
        ("boolean", "bool"), ("f16", "float16"), ("c64", "complex64"), ("bf16", "bfloat16"),
    ],
)  # fmt: skip
def test_every_dtype_comes_back(api: Any, channel: Any, signature: str, dtype: str) -> None:
    """A tensor of any DataType, sent as bytes or as values, comes back bit for bit."""
    kind = api.tf.as_dtype(dtype).as_numpy_dtype
    value = np.array([[0, 1, 2], [3, 4, 100]]).astype(kind)
    as_bytes = api.predict_request("zoo", signature, x=value)
    response = api.prediction_stub(channel).Predict(as_bytes, timeout=600)
    assert api.tf.make_ndarray(response.outputs["y"]).tobytes() == value.tobytes()
    as_values = api.predict_request("zoo", signature)
    as_values.inputs["x"].CopyFrom(response.outputs["y"])
    again = api.prediction_stub(channel).Predict(as_values, timeout=600)
    assert again.outputs["y"] == response.outputs["y"]


def test_strings_and_short_values(api: Any, channel: Any) -> None:
    """Bytes come back as they are; a tensor with fewer values than elements repeats the last one."""
    strings = api.predict_request("zoo", "string", x=[b"\xff\x00", b"", b"x" * 100])
    response = api.prediction_stub(channel).Predict(strings, timeout=600)
    assert list(response.outputs["y"].string_val) == [b"\xff\x00", b"", b"x" * 100]
    short = api.predict_request("zoo", "f32", x=np.zeros(3, np.float32))
    short.inputs["x"].ClearField("tensor_content")
    short.inputs["x"].float_val[:] = [1.0, 2.0]
    assert list(api.prediction_stub(channel).Predict(short, timeout=600).outputs["y"].float_val) == [1, 2, 2]


def test_packed_strings(api: Any, channel: Any) -> None:
    """Strings may come as C++ clients pack them: all lengths, then all bytes; what does not add up is an error."""
    strings = [b"a", b"", b"x" * 300, b"bc"]
    request = api.predict_request("zoo", "string", x=strings)
    request.inputs["x"].ClearField("string_val")
    request.inputs["x"].tensor_content = b"\x01\x00\xac\x02\x02" + b"".join(strings)
    predict = api.prediction_stub(channel).Predict
    assert list(predict(request, timeout=600).outputs["y"].string_val) == strings
    for broken in (b"\x01\x00\xac\x02", b"\x01\x00\x01\x03abcd", b"\xff" * 20):
        request.inputs["x"].tensor_content = broken
        assert api.error(predict, request) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_empty_label_is_a_label(api: Any, channel: Any) -> None:
    """A label that is set to nothing is not the same as none."""
    request = api.predict_request("twov", x=np.array([[2.0]], np.float32))
    request.model_spec.version_label = ""
    assert api.error(api.prediction_stub(channel).Predict, request) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: ",
    )


def test_output_filter(api: Any, channel: Any) -> None:
    """Only the outputs that were asked for come back."""
    request = api.predict_request("multi", a=np.ones((1, 3), np.float32), b=np.array([1], np.int32))
    request.output_filter.append("twice")
    response = api.prediction_stub(channel).Predict(request, timeout=600)
    assert {name: list(value.int_val) for name, value in response.outputs.items()} == {"twice": [2]}


def test_errors_have_the_codes_of_tensorflow_serving(api: Any, channel: Any) -> None:
    """Each kind of wrong request gets its canonical code and says what is wrong."""
    predict = api.prediction_stub(channel).Predict
    x = np.ones((1, 1), np.float32)
    assert api.error(predict, api.request()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert api.error(predict, api.predict_request("nope", x=x)) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nope)",
    )
    assert api.error(predict, api.predict_request("half", "nope", x=x)) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    )
    code, details = api.error(predict, api.predict_request("half", y=x))
    assert (code, "input tensor alias not found in signature: y" in details) == ("INVALID_ARGUMENT", True)
    code, details = api.error(predict, api.predict_request("half", x=x, y=x))
    assert (code, "Sent extra: {y}" in details) == ("INVALID_ARGUMENT", True)
    code, details = api.error(predict, api.predict_request("half", x=np.ones((1, 2), np.float32)))
    assert (code, "Matrix size-incompatible" in details) == ("INVALID_ARGUMENT", True)
    code, details = api.error(predict, api.predict_request("half", x=np.ones((1, 1), np.float64)))
    assert (code, "double" in details) == ("INVALID_ARGUMENT", True)


def test_malformed_tensor(api: Any, channel: Any) -> None:
    """A TensorProto whose bytes do not fill its shape is a parsing error."""
    request = api.predict_request("half", x=np.ones((2, 1), np.float32))
    request.inputs["x"].tensor_content = b"abc"
    assert api.error(api.prediction_stub(channel).Predict, request) == (
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    )


def test_unknown_rank_with_dimensions(api: Any, channel: Any) -> None:
    """The dimensions of a TensorProto count, even where it says that its rank is unknown."""
    request = api.predict_request("half", x=np.ones((2, 1), np.float32))
    request.inputs["x"].tensor_shape.unknown_rank = True
    response = api.prediction_stub(channel).Predict(request, timeout=600)
    (output,) = response.outputs.values()
    assert list(output.float_val) == [2.5, 2.5]


@pytest.mark.parametrize("dtype", [0, 20, 21, 99, 101])
def test_no_dtype_of_values(api: Any, channel: Any, dtype: int) -> None:
    """What holds no values (invalid, resource, variant), is no DataType or a reference is a parsing error.

    A resource ends the real server by a CHECK.
    """
    request = api.predict_request("half", x=np.ones((2, 1), np.float32))
    request.inputs["x"].dtype = dtype
    expected = ("INVALID_ARGUMENT", "tensor parsing error: x")
    assert api.error(api.prediction_stub(channel).Predict, request) == expected


@pytest.mark.parametrize("model", ["half", "zoo"])
def test_a_few_bytes_that_ask_for_a_terabyte(api: Any, channel: Any, model: str) -> None:
    """A shape beyond all memory, to be filled with copies of one value, is a parsing error."""
    text = model == "zoo"
    one = np.array([b"a"]) if text else np.ones(1, np.float32)
    request = api.predict_request(model, "string" if text else "", x=one)
    tensor = request.inputs["x"]
    tensor.tensor_content = b""
    (tensor.string_val if text else tensor.float_val)[:] = [b"a" if text else 1.0]
    tensor.tensor_shape.dim[0].size = 2**39
    expected = ("INVALID_ARGUMENT", "tensor parsing error: x")
    assert api.error(api.prediction_stub(channel).Predict, request) == expected


def test_deadline(api: Any, starter: Any, odd_models: Path) -> None:
    """A call whose deadline passes ends with DEADLINE_EXCEEDED, and the server goes on."""
    server = starter.start("--model_name=odd", f"--model_base_path={odd_models / 'odd'}")
    with api.grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        predict = api.prediction_stub(opened).Predict
        with pytest.raises(api.grpc.RpcError) as raised:
            predict(api.predict_request("odd", "slow", turns=np.int64(10_000_000)), timeout=0.2)
        assert raised.value.code().name == "DEADLINE_EXCEEDED"
        response = predict(api.predict_request("odd", "slow", turns=np.int64(5)), timeout=600)
        assert response.outputs["count"].int64_val == [5]


def test_model_status_and_metadata(api: Any, channel: Any) -> None:
    """GetModelStatus and GetModelMetadata tell what the REST interface tells."""
    status = api.status.GetModelStatusRequest()
    status.model_spec.name = "twov"
    states = api.model_stub(channel).GetModelStatus(status, timeout=600).model_version_status
    assert [(entry.version, entry.state) for entry in states] == [(2, 30), (1, 30)]
    status.model_spec.version.value = 3
    assert api.error(api.model_stub(channel).GetModelStatus, status) == (
        "NOT_FOUND",
        "Could not find version 3 of model twov",
    )
    request = api.metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "kmulti"
    response = api.prediction_stub(channel).GetModelMetadata(request, timeout=600)
    signatures = api.metadata.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["serving_default"].inputs) == {"a", "b"}


def _base_path_with_warmup(api: Any, tmp_path: Path, recorded_models: Path, requests: list[Any]) -> Path:
    base_path = tmp_path / "half"
    shutil.copytree(recorded_models / "half" / "1", base_path / "1")
    (base_path / "1" / "assets.extra").mkdir()
    with api.tf.io.TFRecordWriter(str(base_path / "1/assets.extra/tf_serving_warmup_requests")) as writer:
        for request in requests:
            entry = api.log.PredictionLog(predict_log=api.log.PredictLog(request=request))
            writer.write(entry.SerializeToString())
    return base_path


def test_warmup_is_replayed(api: Any, starter: Any, tmp_path: Path, recorded_models: Path) -> None:
    """Warm-up requests are run at load and counted in the log."""
    good = api.predict_request("half", x=np.ones((1, 1), np.float32))
    base_path = _base_path_with_warmup(api, tmp_path, recorded_models, [good] * 3)
    server = starter.start("--model_name=half", f"--model_base_path={base_path}")
    assert "Number of warmup records read: 3." in server.log


def test_bad_warmup_fails_the_load(api: Any, starter: Any, tmp_path: Path, recorded_models: Path) -> None:
    """A warm-up request that the graph refuses ends the start with the graph's error."""
    bad = api.predict_request("half", x=np.ones((1, 2), np.float32))
    base_path = _base_path_with_warmup(api, tmp_path, recorded_models, [bad])
    server = starter.spawn("--model_name=half", f"--model_base_path={base_path}", "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "INVALID_ARGUMENT: Matrix size-incompatible" in server.log)


def test_too_many_warmup_records(api: Any, starter: Any, tmp_path: Path, recorded_models: Path) -> None:
    """More than 1000 warm-up records fail the load."""
    good = api.predict_request("half", x=np.ones((1, 1), np.float32))
    base_path = _base_path_with_warmup(api, tmp_path, recorded_models, [good] * 1001)
    server = starter.spawn("--model_name=half", f"--model_base_path={base_path}", "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "Number of warmup records exceeds the maximum (1000)" in server.log)


@pytest.mark.parametrize("content", [b"not a record file", struct.pack("<Q", 5) + b"crc!hello"])
def test_damaged_warmup_file(starter: Any, tmp_path: Path, recorded_models: Path, content: bytes) -> None:
    """A warm-up file that is no TFRecord file fails the load with DATA_LOSS."""
    base_path = tmp_path / "half"
    shutil.copytree(recorded_models / "half" / "1", base_path / "1")
    (base_path / "1" / "assets.extra").mkdir()
    (base_path / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    server = starter.spawn("--model_name=half", f"--model_base_path={base_path}", "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "DATA_LOSS: corrupted record at 0" in server.log)
