"""Binary tensors of the Open Inference Protocol as tritonclient sends them, and compressed requests and responses."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from afina.server.http import encodings
from afina.server.http.bodies import MOST_VALUES
from afina.server.http.refusals import Refusal

TEXTS = ("the soup was bright.", "What a dull ferry — über!")
PATH = "/v2/models/acme/reviews/infer"
LENGTH = "Inference-Header-Content-Length"

GZIP: Callable[[bytes], bytes] = partial(gzip.compress, mtime=0)  # the same bytes, and names of tests, at any time
DEFLATE: Callable[[bytes], bytes] = zlib.compress


def bytes_tensor(*texts: str | bytes) -> bytes:
    found = [one.encode() if isinstance(one, str) else one for one in texts]
    return b"".join(struct.pack("<I", len(one)) + one for one in found)


def tensor(size: int | None, count: int = 2, name: str = "text", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [count],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": size},
        **more,
    }


def binary(body: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body with its header."""
    said = json.dumps(body).encode()
    return said + b"".join(tensors), {LENGTH: str(len(said)), "Content-Type": "application/octet-stream"}


def send(served: Any, content: bytes, headers: dict[str, str], path: str = PATH) -> Any:
    return served.web.post(path, content=content, headers={"Accept-Encoding": "identity", **served.auth(), **headers})


def asked(served: Any, body: dict[str, Any], *tensors: bytes) -> Any:
    return send(served, *binary(body, *tensors))


def outputs(response: Any) -> dict[str, Any]:
    """The values of each output, by name, wherever they stand."""
    said, rest = response.content, b""
    if LENGTH in response.headers:
        assert response.headers["content-type"] == "application/octet-stream"
        said, rest = said[: int(response.headers[LENGTH])], said[int(response.headers[LENGTH]) :]
    found = {}
    for one in json.loads(said)["outputs"]:
        if "data" in one:
            found[one["name"]] = one["data"]
            continue
        size = one["parameters"]["binary_data_size"]
        values, rest = rest[:size], rest[size:]
        if one["datatype"] == "BYTES":
            texts = []
            while values:
                (length,) = struct.unpack("<I", values[:4])
                texts.append(values[4 : 4 + length].decode())
                values = values[4 + length :]
            found[one["name"]] = texts
        else:
            kind = {"FP32": "<f4", "FP64": "<f8", "BOOL": "?"}[one["datatype"]]
            found[one["name"]] = np.frombuffer(values, kind).tolist()
        assert len(found[one["name"]]) == np.prod(one["shape"])
    assert rest == b""
    return found


def in_json(served: Any, path: str = PATH) -> dict[str, Any]:
    plain = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [*TEXTS]}
    return outputs(served.post(path, {"inputs": [plain]}))


DATA = bytes_tensor(*TEXTS)


@pytest.mark.parametrize("task", ["reviews", "tags", "price"])
def test_texts_and_answers_are_the_same_in_binary_as_in_json(served: Any, task: str) -> None:
    path = f"/v2/models/acme/{task}/infer"
    wanted = in_json(served, path)
    for more in ({}, {"parameters": {"binary_data_output": True}}):
        response = send(served, *binary({"inputs": [tensor(len(DATA))], **more}, DATA), path)
        assert response.status_code == 200, response.text
        assert (LENGTH in response.headers) == bool(more)
        found = outputs(response)
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            assert found[name] == (pytest.approx(values, abs=1e-6) if isinstance(values[0], float) else values)
        assert "afina-receipt" in response.headers


def test_each_output_says_whether_it_is_binary(served: Any) -> None:
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    response = asked(served, {"id": "7", "inputs": [tensor(len(DATA))], "outputs": wanted}, DATA)
    said = json.loads(response.content[: int(response.headers[LENGTH])])
    assert (said["id"], [[*one] for one in said["outputs"]]) == (
        "7",
        [["name", "shape", "datatype", "parameters"], ["name", "shape", "datatype", "data"]],
    )
    assert outputs(response)["label"] == in_json(served)["label"]
    off = [{"name": "label", "parameters": {"binary_data": False}}]
    body = {"inputs": [tensor(len(DATA))], "outputs": off, "parameters": {"binary_data_output": True}}
    assert LENGTH not in asked(served, body, DATA).headers


def test_pairs_may_be_binary_in_any_order_and_beside_json(served: Any) -> None:
    seconds = bytes_tensor("b", "a")
    plain = {"name": "pair", "shape": [2, 1], "datatype": "BYTES", "data": [["b"], ["a"]]}
    both = {"inputs": [tensor(len(DATA)), tensor(len(seconds), name="pair")]}
    turned = {"inputs": [tensor(len(seconds), name="pair"), tensor(len(DATA))]}
    beside = {"inputs": [plain, tensor(len(DATA))]}
    found = [
        outputs(asked(served, body, *tensors))["probabilities"]
        for body, tensors in ((both, (DATA, seconds)), (turned, (seconds, DATA)), (beside, (DATA,)))
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
    assert found[0] != pytest.approx(in_json(served)["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ({"inputs": [tensor(len(DATA) + 1)]}, DATA),
        ({"inputs": [tensor(len(DATA))]}, b""),
        ({"inputs": [tensor(2**70)]}, DATA),
        ({"inputs": [tensor(None)]}, b""),
        ({"inputs": [tensor(len(DATA), data=["a", "b"])]}, DATA),
        ({"inputs": [tensor(len(DATA), count=3)]}, DATA),
        ({"inputs": [tensor(len(DATA), shape=[2] + [1] * 30)]}, DATA),
        ({"inputs": [tensor(len(DATA), datatype="FP32")]}, DATA),
        ({"inputs": [tensor(len(DATA)), tensor(len(DATA))]}, DATA * 2),
        ({"inputs": [tensor(len(DATA), name="pair")]}, DATA),
        ({"inputs": [tensor(3, 1)]}, b"\x01\x00\x00"),
        ({"inputs": [tensor(5, 1)]}, b"\xff\xff\xff\xffa"),
        ({"inputs": [tensor(6, 1)]}, struct.pack("<I", 1) + b"ab"),
        ({"inputs": [tensor(8, 1)]}, bytes_tensor(b"\xff\xfe\xfa\xfb")),
        ({"inputs": [tensor(7, 1)]}, bytes_tensor(b"\xed\xa0\x80")),  # a surrogate
        ({"inputs": [tensor(4, 1)]}, bytes_tensor("")),
        ({"inputs": [tensor(4 * MOST_VALUES + 4, MOST_VALUES + 1)]}, bytes(4 * MOST_VALUES + 4)),
    ],
    ids=repr,
)
def test_binary_data_that_lies_is_refused(served: Any, body: dict[str, Any], data: bytes) -> None:
    response = asked(served, body, data)
    assert response.status_code == 422, response.text
    assert [*response.json()] == ["error"]
    assert asked(served, {"inputs": [tensor(len(DATA))]}, DATA).status_code == 200


def test_a_body_without_json_is_one_text_and_its_outputs_are_binary(served: Any) -> None:
    found = send(served, TEXTS[1].encode(), {LENGTH: "0"})
    assert found.status_code == 200, found.text
    assert LENGTH in found.headers
    in_tensor = bytes_tensor(TEXTS[1])
    assert outputs(found) == outputs(asked(served, {"inputs": [tensor(len(in_tensor), 1)]}, in_tensor))
    for text in (b"", b"\xff"):
        assert send(served, text, {LENGTH: "0"}).status_code == 422


@pytest.mark.parametrize("length", ["-1", "", "99999999", "1e3", "٣", "9" * 5000])
def test_a_length_of_the_json_that_is_none_is_refused(served: Any, length: str) -> None:
    content, headers = binary({"inputs": [tensor(len(DATA))]}, DATA)
    value: Any = length.encode()
    assert send(served, content, {**headers, LENGTH: value}).status_code == 400


def test_a_length_of_the_json_that_is_given_twice_or_is_wrong_is_refused(served: Any) -> None:
    content, headers = binary({"inputs": [tensor(len(DATA))]}, DATA)
    both = [*served.auth().items(), (LENGTH, headers[LENGTH]), (LENGTH, headers[LENGTH])]
    assert served.web.post(PATH, content=content, headers=both).status_code == 400
    for off in (-1, 1):
        wrong = {**headers, LENGTH: str(int(headers[LENGTH]) + off)}
        assert send(served, content, wrong).status_code == 400


def test_without_the_header_binary_data_is_no_json(served: Any) -> None:
    content, _ = binary({"inputs": [tensor(len(DATA))]}, DATA)
    assert send(served, content, {}).status_code == 400


def test_a_path_with_a_version_answers_with_the_name_and_the_version_apart(served: Any) -> None:
    for path in ("acme/reviews/versions/2", "acme/reviews@2", "acme%2Freviews%402"):
        plain = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
        found = served.post(f"/v2/models/{path}/infer", {"inputs": [plain], "model_name": "acme/reviews"}).json()
        assert (found["model_name"], found["model_version"]) == ("acme/reviews", "2"), path
        assert served.get(f"/v2/models/{path}").json()["name"] == "acme/reviews"
        assert served.get(f"/v2/models/{path}/ready").json() == {"name": "acme/reviews", "ready": True}
    assert served.get("/v2").json()["extensions"][0] == "binary_tensor_data"


@pytest.mark.parametrize(("coding", "packed"), [("gzip", GZIP), ("X-GZip", GZIP), ("deflate", DEFLATE)])
def test_a_compressed_request_is_expanded(served: Any, coding: str, packed: Callable[[bytes], bytes]) -> None:
    content, headers = binary({"inputs": [tensor(len(DATA))]}, DATA)
    response = send(served, packed(content), {**headers, "Content-Encoding": coding})
    assert outputs(response)["label"] == in_json(served)["label"]
    body = json.dumps({"model": "acme/reviews", "inputs": TEXTS[0]}).encode()
    parts = packed(body)
    pieces = iter([parts[:1], parts[1:9], b"", parts[9:]])
    found = served.web.post("/predict", content=pieces, headers={**served.auth(), "Content-Encoding": coding})
    assert found.json() == served.post("/predict", json.loads(body)).json()


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("gzip", b"{}", 400),
        ("gzip", GZIP(b"{}")[:-1], 400),
        ("gzip", GZIP(b"{}") + b"x", 400),
        ("gzip", GZIP(b"{}")[:-8] + bytes(8), 400),
        ("gzip", DEFLATE(b"{}"), 400),
        ("deflate", DEFLATE(b"{}")[2:-4], 400),
        ("gzip", GZIP(bytes(2 << 20)), 413),
        ("deflate", DEFLATE(bytes(16 << 20)), 413),
        ("gzip", GZIP(GZIP(b"{}")), 400),
        ("gzip, gzip", GZIP(GZIP(b"{}")), 415),
        ("br", b"{}", 415),
        ("gzip;q=1", GZIP(b"{}"), 415),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_compressed_body_that_is_damaged_or_too_large_is_refused(
    served: Any, coding: str, content: bytes, status: int
) -> None:
    response = send(served, content, {"Content-Encoding": coding}, "/predict")
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error", "error_type"}
    assert ("accept-encoding" in response.headers) == (status == 415)
    assert served.post("/predict", {"model": "acme/reviews", "inputs": "a"}).status_code == 200


def test_an_expanded_body_may_be_as_large_as_another_one() -> None:
    whole = encodings.Expansion("gzip", 1000)
    assert whole.piece(GZIP(b"a" * 1000), last=True) == b"a" * 1000
    with pytest.raises(Refusal) as refused:
        encodings.Expansion("gzip", 999).piece(GZIP(b"a" * 1000), last=True)
    assert (refused.value.status, refused.value.kind) == (413, "too_large")


def test_lines_cannot_be_compressed(served: Any) -> None:
    line = json.dumps({"text": "a", "model": "acme/reviews"}).encode()
    assert send(served, GZIP(line), {"Content-Encoding": "gzip"}, "/bulk").status_code == 415


@pytest.mark.parametrize(
    ("given", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0", None),
        ("br", None),
        ("gzip;q=nan", None),
        ("gzip;q=x, deflate;q=0.1", "deflate"),
        ("", None),
    ],
)
def test_a_response_is_compressed_only_if_the_client_asks(served: Any, given: str, coding: str | None) -> None:
    texts = [f"{TEXTS[0]} {number}" for number in range(100)]
    data = bytes_tensor(*texts)
    body = {"inputs": [tensor(len(data), 100)], "parameters": {"binary_data_output": True}}
    content, headers = binary(body, data)
    response = send(served, content, {**headers, "Accept-Encoding": given})
    assert response.headers.get("content-encoding") == coding
    assert response.headers["vary"] == "Accept-Encoding"
    assert len(outputs(response)["label"]) == 100
    if coding is not None:
        assert int(response.headers["content-length"]) < len(response.content)


def test_a_small_response_is_not_compressed(served: Any) -> None:
    response = served.get("/v2/models/acme/reviews")
    assert "content-encoding" not in response.headers
    content, headers = binary({"inputs": [tensor(len(DATA))]}, DATA)
    assert "content-encoding" not in send(served, content, {**headers, "Accept-Encoding": "gzip"}).headers


def test_the_description_needs_no_key_if_the_server_is_set_so(served: Any, serve: Any) -> None:
    assert served.web.get("/openapi.json").status_code == 401
    opened = serve(public_description=True)
    found = opened.web.get("/openapi.json")
    assert (found.status_code, found.json()["info"]["title"]) == (200, "afina")
    assert opened.web.get("/v2").status_code == 401
    assert opened.web.get("/openapi.json/").status_code == 401
