"""The Open Inference Protocol, version 2: inference and metadata. Texts are tensors of the datatype BYTES.

The server supports the protocol's extension `binary_tensor_data`, in which the values of tensors follow the JSON in the
body as binary data. In such a body, the header `Inference-Header-Content-Length` has the length of the JSON.
If that length is 0, the body is the only text, without JSON (a raw binary request of Triton).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from afina import __version__
from afina.data.kinds import KINDS
from afina.errors import InvalidData
from afina.models import objectives
from afina.server import problems, routes
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.core import Core
from afina.server.http import encodings
from afina.server.http.bodies import MOST_VALUES, Array, Body, Texts
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import OCTETS, ProtocolRouter
from afina.server.json_shapes import COUNT, YES_OR_NO, Shape, about, array, either, one_of, record
from afina.server.json_shapes import NUMBER as ANY_NUMBER
from afina.server.json_shapes import TEXT as ANY_TEXT
from afina.server.receipts import RECEIPT
from afina.server.requests import AcceptedRequest, ServedAnswer, Text
from afina.server.tenants import Missing
from afina.server.versions.request_counts import VersionRequests
from afina.store.api_keys import Key
from afina.store.versions import PRODUCTION

TEXT, PAIR = "text", "pair"

CLASSIFIED = "probabilities"
"""The output tensor of which clients may ask the best labels (`classification`)."""

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration")
"""The extensions of the Open Inference Protocol that the server supports."""

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header, of a request or response with binary data, that has the number of bytes of the JSON."""

LENGTH = struct.Struct("<I")
"""The format of the length before each text in binary data: four bytes, little endian."""

_DIGITS = re.compile("[0-9]{1,10}")
_DTYPES = {"BOOL": "?", "FP32": "<f4", "FP64": "<f8"}

EXAMPLE = {
    "id": "42",
    "inputs": [{"name": TEXT, "shape": [1], "datatype": "BYTES", "data": ["It broke on the second day."]}],
}

_SHAPE = about(array({"type": "integer", "minimum": -1}), "sizes of the axes; -1 in metadata: any size")
_TYPED = {
    "name": about(ANY_TEXT, "name of the tensor"),
    "datatype": about(one_of("BYTES", "BOOL", "FP32", "FP64"), "datatype of the protocol"),
    "shape": _SHAPE,
}
_VALUES = about(array(either(ANY_TEXT, ANY_NUMBER, YES_OR_NO)), "values in row-major order")
_SIZE = record(binary_data_size=about(COUNT, "bytes of the values after the JSON"))
_TENSOR = record(
    **_TYPED,
    data=_VALUES,
    parameters=about(_SIZE, "instead of `data`, if the values are binary data"),
    optional=("data", "parameters"),
)
_NAME = about(ANY_TEXT, "client/task")
ANSWER = record(
    model_name=_NAME,
    model_version=about(ANY_TEXT, "number of the version that answered"),
    id=about(ANY_TEXT, "id of the request, if the request has one"),
    outputs=about(array(_TENSOR), "the outputs asked for; by default all"),
    optional=("id",),
)
_ABOUT = record(
    labels=about(array(ANY_TEXT), "labels in the adapter's order"), kind=about(one_of(*KINDS), "kind of task")
)
METADATA = record(
    name=_NAME,
    versions=about(array(ANY_TEXT), "numbers of all versions that are not deleted"),
    platform=about(one_of("afina"), "framework of the model"),
    inputs=about(array(record(**_TYPED)), "tensors of a request"),
    outputs=about(array(record(**_TYPED)), "tensors of a response"),
    parameters=about(_ABOUT, "labels and kind of task"),
)
_CONFIGURED = record(
    name=about(ANY_TEXT, "name of the tensor"),
    data_type=about(one_of("TYPE_STRING", "TYPE_BOOL", "TYPE_FP32", "TYPE_FP64"), "datatype, as Triton calls it"),
    dims=_SHAPE,
)
CONFIGURATION = record(
    name=_NAME,
    platform=about(one_of("afina"), "framework of the model"),
    backend=about(one_of("afina"), "framework of the model"),
    max_batch_size=about(one_of(0), "always 0: the first axis in `dims` is the number of texts"),
    input=about(array(_CONFIGURED), "tensors of a request"),
    output=about(array(_CONFIGURED), "tensors of a response"),
)
_DURATION = record(
    count=about(COUNT, "number of requests"), ns=about(COUNT, "sum of their times from the queue to the answer, ns")
)
_STATISTICS = record(
    name=_NAME,
    version=about(ANY_TEXT, "number of the version"),
    last_inference=about(COUNT, "time of the last answer, in milliseconds since 1970; 0: there is none"),
    inference_count=about(COUNT, "texts of the requests that succeeded"),
    inference_stats=about(
        record(
            success=about(_DURATION, "requests that succeeded"),
            fail=about(_DURATION, "requests that failed, or whose client left"),
        ),
        "requests of all protocols",
    ),
)
COUNTED = record(model_stats=about(array(_STATISTICS), "one entry for each version"))
INDEX = array(
    record(
        name=_NAME,
        version=about(ANY_TEXT, "number of the version in production, or else of the newest version"),
        state=about(one_of("READY", "UNAVAILABLE"), "UNAVAILABLE: the version is damaged, or its golden test fails"),
        reason=about(ANY_TEXT, "why the model is not available; empty: it is"),
    )
)
SERVER = record(
    name=about(one_of("afina"), "name of the server"),
    version=about(ANY_TEXT, "version of afina"),
    extensions=about(array(one_of(*EXTENSIONS)), "protocol extensions"),
)
MODEL_READY = record(
    name=_NAME, ready=about(one_of(True), "always true; a model that is not ready gives an error status")
)

router = ProtocolRouter()


class InferParameters(Body):
    """The options of an inference request."""

    binary_data_output: bool | None = Field(
        None, description="true: values of outputs that do not say otherwise follow the JSON as binary data"
    )
    content_type: Literal["str"] | None = Field(None, description="accepted without effect: only str, as of MLServer")
    priority: int | None = Field(None, ge=0, description="accepted without effect: all requests have one priority")
    timeout: int | None = Field(None, ge=0, description="accepted without effect: the server has a limit of its own")


class TensorParameters(Body):
    """The options of an input tensor."""

    binary_data_size: int | None = Field(
        None,
        ge=0,
        description="bytes of this tensor after the JSON, instead of `data`: for each text its length as 4 bytes "
        "(little endian), and the text in UTF-8",
    )
    content_type: Literal["str"] | None = Field(None, description="accepted without effect: only str, as of MLServer")


class Tensor(Body):
    """An input tensor with texts, or with the first or second texts of pairs.

    The field `data` is required, unless the texts follow the JSON as binary data.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["name", "shape", "datatype", "data"]})

    name: str = Field(
        max_length=256,
        description="with pairs, `text` for the first and `pair` for the second texts; any other name for a single "
        "input",
    )
    shape: Annotated[Array[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)] = Field(
        description="[n] or [n, 1] for n texts"
    )
    datatype: Literal["BYTES"] = Field(description="BYTES")
    parameters: TensorParameters | None = Field(None, description="options")
    data: Texts | Annotated[Array[Texts], Field(json_schema_extra={"minItems": 1})] | SkipJsonSchema[None] = Field(
        None, description="the texts"
    )

    @property
    def binary_size(self) -> int | None:
        """The number of bytes of the tensor's binary data after the JSON. None: the texts are in the JSON."""
        return None if self.parameters is None else self.parameters.binary_data_size


def _name_is(name: str) -> Shape:
    return {"properties": {"name": about({"const": name}, "name of the tensor")}}


class OutputParameters(Body):
    """The options of an output tensor."""

    binary_data: bool | None = Field(
        None,
        description="true: the values follow the JSON as binary data. Default: `binary_data_output` of the request",
    )
    classification: int | None = Field(
        None,
        ge=0,
        description=f"for {CLASSIFIED}: return this number of labels of each text, the most probable first, as texts "
        "`probability:index:label`; 0: the tensor itself",
    )
    content_type: Literal["str", "np"] | None = Field(
        None, description="accepted without effect: str and np, as of MLServer"
    )


class Output(Body):
    """An output tensor that the response should contain."""

    name: str = Field(description="name of the output, as in the model's metadata")
    parameters: OutputParameters | None = Field(None, description="options")

    @property
    def labels(self) -> int:
        """The largest number of labels of a text that the response should contain. 0: the tensor itself."""
        return (self.parameters and self.parameters.classification) or 0


class Infer(Body):
    """The body of an inference request of the Open Inference Protocol."""

    id: str | None = Field(None, max_length=1024, description="id of the request, repeated in the response")
    model_name: str | None = Field(None, description="name of the model, if given as in the path")
    parameters: InferParameters | None = Field(None, description="options")
    inputs: Annotated[Array[Tensor], Field(min_length=1, max_length=2)] = Field(
        description="texts, and for pairs their second texts",
        json_schema_extra={
            "if": {"maxItems": 1},
            "then": {"items": {"not": _name_is(PAIR)}},
            "else": {"allOf": [{"contains": _name_is(TEXT)}, {"contains": _name_is(PAIR)}]},
        },
    )
    outputs: Annotated[Array[Output], Field(min_length=1)] | None = Field(
        None, description="outputs to return; default: all"
    )

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData for a requested output tensor that does not exist, has no labels, or is requested twice."""
        known = [one.name for one in ANSWER_FORMATS[asked.objective.kind].tensor_types(asked.objective)]
        names = [one.name for one in self.outputs or ()]
        for index, one in enumerate(self.outputs or ()):
            name, problem = one.name, None
            if name not in known:
                problem = f"unknown. This model has {', '.join(known)}"
            elif name in names[:index]:
                problem = "named twice"
            elif one.labels and name != CLASSIFIED:
                problem = f"not {CLASSIFIED}, the one output that `classification` works on"
            if problem is not None:
                raise problems.OUTPUT_TENSOR_UNKNOWN(_problem=problem, output=name[:40], known=known)


class ModelIndex(Body):
    """The body of a request for the index of the models, which may also be empty."""

    ready: bool | None = Field(None, description="true: leave out models that are not available")


def _raw(content: bytes) -> tuple[Infer, bytes]:
    """Return a request with one text, which is the whole body, and its binary data. Its outputs are binary data too."""
    size = LENGTH.size + len(content)
    tensor = {"name": TEXT, "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    asked = Infer.model_validate({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return asked, LENGTH.pack(len(content)) + content


def parts(content: bytes, headers: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the JSON of a request's body, and the binary data that follows the JSON.

    `headers`: the values of the header `Inference-Header-Content-Length`; empty: the whole body is JSON. Raises
    Refusal.
    """
    if not headers:
        return content, b""
    if len(headers) > 1 or not _DIGITS.fullmatch(headers[0]) or int(headers[0]) > len(content):
        raise Refusal(
            400,
            "invalid",
            f"`{HEADER_LENGTH}`: found {', '.join(headers)[:40]!r}, expected the number of bytes of the JSON, at most "
            f"{len(content)}.",
        )
    length = int(headers[0])
    return content[:length], content[length:]


def texts(body: Infer, binary: bytes = b"") -> Sequence[Text]:
    """Return the texts of an inference request. Raises InvalidData if its input tensors are wrong."""
    names, columns = [one.name for one in body.inputs], dict[str, list[str]]()
    single = len(names) == 1 and names[0] != PAIR
    if not single and {*names} != {TEXT, PAIR}:
        found = " and ".join(name[:40] for name in names)
        raise _malformed(f"expected one input, or `{TEXT}` and `{PAIR}`. Found {found}", PAIR)
    sizes = sum(one.binary_size or 0 for one in body.inputs)
    if sizes != len(binary):
        raise _malformed(
            f"`binary_data_size` is {sizes} in all, but {len(binary)} bytes follow the JSON. The header "
            f"`{HEADER_LENGTH}` says how many bytes the JSON has",
            names[0],
        )
    for one in body.inputs:
        if (one.data is None) == (one.binary_size is None):
            raise _malformed(f"{one.name} needs either `data` or `parameters.binary_data_size`", one.name)
        size = one.binary_size or 0
        columns[one.name] = _column(one, binary[:size])
        binary = binary[size:]
    if single:
        return [Text(one) for one in columns[names[0]]]
    firsts, seconds = columns[TEXT], columns[PAIR]
    if len(firsts) != len(seconds):
        raise _malformed(
            f"`{TEXT}` has {len(firsts)} texts and `{PAIR}` has {len(seconds)}. Expected equal numbers", PAIR
        )
    return [Text(*two) for two in zip(firsts, seconds, strict=True)]


def _malformed(problem: str, tensor: str) -> InvalidData:
    return problems.INPUT_TENSOR_MALFORMED(_problem=problem, tensor=tensor)


def _column(tensor: Tensor, binary: bytes) -> list[str]:
    if tensor.data is None:
        flat = _from_binary(tensor.name, binary)
    else:
        flat = [one for row in tensor.data for one in ([row] if isinstance(row, str) else row)]
    if tensor.shape not in ([len(flat)], [len(flat), 1]):
        wanted = f"[{len(flat)}] or [{len(flat)}, 1]"
        raise _malformed(f"the shape of {tensor.name} must be {wanted} for {len(flat)} texts", tensor.name)
    return flat


def _from_binary(name: str, binary: bytes) -> list[str]:
    """Return the texts in the binary data of a BYTES tensor. Raises InvalidData if the binary data is malformed."""
    found, place = list[str](), 0
    while place < len(binary):
        start = place + LENGTH.size
        if start > len(binary):
            raise _malformed(f"the binary data of {name} ends inside a length", name)
        place = start + LENGTH.unpack_from(binary, place)[0]
        if place > len(binary) or len(found) == MOST_VALUES:
            problem = "a text is longer than the data" if place > len(binary) else f"more than {MOST_VALUES} texts"
            raise _malformed(f"the binary data of {name} is wrong: {problem}", name)
        try:
            found.append(binary[start:place].decode("utf-8"))
        except UnicodeDecodeError:
            raise _malformed(f"text {len(found) + 1} of {name} is not UTF-8", name) from None
    return found


def answered(
    body: Infer, answers: Sequence[ServedAnswer], name: str, version: str
) -> tuple[dict[str, Any], Sequence[bytes]]:
    """Return the JSON of the response, and the binary data of each output tensor that is requested as such."""
    made = {one["name"]: one for one in _outputs(answers)}
    always = bool(body.parameters and body.parameters.binary_data_output)
    wanted = body.outputs or [Output(name=one, parameters=None) for one in made]
    outputs, binary = list[dict[str, Any]](), list[bytes]()
    for one in wanted:
        output, chosen = made[one.name], one.parameters and one.parameters.binary_data
        if one.labels:
            output = _classified(output, one.labels, answers[0].objective.label_names)
        if always if chosen is None else chosen:
            binary.append(_to_binary(output["datatype"], output.pop("data")))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        outputs.append(output)
    head = {"model_name": name, "model_version": version} | ({} if body.id is None else {"id": body.id})
    return {**head, "outputs": outputs}, binary


def _classified(output: dict[str, Any], most: int, labels: Sequence[str]) -> dict[str, Any]:
    """Return the tensor of the most probable labels of each text, as Triton's extension `classification` writes it."""
    rows = np.reshape(output["data"], output["shape"])
    best = np.argsort(-rows, axis=1, kind="stable")[:, :most]
    data = [f"{row[at]:f}:{at}:{labels[at]}" for row, places in zip(rows, best, strict=True) for at in places]
    return {"name": output["name"], "shape": [*best.shape], "datatype": "BYTES", "data": data}


def _to_binary(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype in _DTYPES:
        return np.asarray(values, _DTYPES[datatype]).tobytes()
    written = [one.encode() for one in values]
    return b"".join(LENGTH.pack(len(one)) + one for one in written)


def _outputs(answers: Sequence[ServedAnswer]) -> list[dict[str, Any]]:
    objective = answers[0].objective
    written = ANSWER_FORMATS[objective.kind]
    data = written.tensors(objective, [one.prediction for one in answers])
    return [
        {"name": one.name, "shape": one.shape(len(answers)), "datatype": one.datatype, "data": values}
        for one, values in zip(written.tensor_types(objective), data, strict=True)
    ]


@router.answers(routes.KSERVE_SERVER, SERVER)
async def server(call: Called) -> Response:
    """Return the name and version of this server, and the protocol extensions that it supports."""
    return JSONResponse({"name": "afina", "version": __version__, "extensions": EXTENSIONS})


def _model(client: str, task: str, version: str | None) -> str:
    if version is None:
        return f"{client}/{task}"
    if "@" in task:
        raise Missing
    return f"{client}/{task}@{version}"


def _named(client: str, task: str) -> str:
    """Return a model's name for the Open Inference Protocol, in which names contain no version: `client/task`."""
    return f"{client}/{task.partition('@')[0]}"


@router.answers(routes.METADATA, METADATA)
async def metadata(call: Called, client: str, task: str, version: str | None = None) -> Response:
    """Return a model's versions, input and output tensors, labels and kind of task."""
    described = await call.look(_described, call.core, call.key, _model(client, task, version))
    return JSONResponse({"name": _named(client, task), **described})


def _described(core: Core, key: Key, model: str) -> dict[str, Any]:
    """Return the metadata of a model, except the model's name."""
    found = core.version(key, model)
    there = core.store.versions(found.name)
    numbers = [one.number for one in there if not (one.deleted or core.engine.is_for_another(one.manifest))]
    objective = objectives.make(tuple(found.manifest["label_names"]), found.manifest.get("objective"))
    outputs = ANSWER_FORMATS[objective.kind].tensor_types(objective)
    return {
        "versions": [str(one) for one in numbers],
        "platform": "afina",
        "inputs": [{"name": TEXT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": one.name, "datatype": one.datatype, "shape": one.shape(-1)} for one in outputs],
        "parameters": {"labels": [*objective.label_names], "kind": objective.kind},
    }


@router.answers(routes.MODEL_CONFIG, CONFIGURATION)
async def configuration(call: Called, client: str, task: str, version: str | None = None) -> Response:
    """Return a model's input and output tensors, as Triton's extension `model_configuration` writes them."""
    described = await call.look(_described, call.core, call.key, _model(client, task, version))
    head = {"name": _named(client, task), "platform": "afina", "backend": "afina", "max_batch_size": 0}
    tensors = {name: [_configured(one) for one in described[f"{name}s"]] for name in ("input", "output")}
    return JSONResponse({**head, **tensors})


def _configured(tensor: Mapping[str, Any]) -> dict[str, Any]:
    datatype = {"BYTES": "STRING"}.get(tensor["datatype"], tensor["datatype"])
    return {"name": tensor["name"], "data_type": f"TYPE_{datatype}", "dims": tensor["shape"]}


@router.answers(routes.STATISTICS, COUNTED)
async def statistics(call: Called) -> Response:
    """Return counts and times of requests since the start of this server, of each version that had a request."""
    mine = [one for one in call.core.requests.by_version if one.startswith(f"{call.key.client}/")]
    return JSONResponse({"model_stats": _counted(call.core, mine)})


@router.answers(routes.MODEL_STATISTICS, COUNTED)
async def model_statistics(call: Called, client: str, task: str, version: str | None = None) -> Response:
    """Return counts and times of a model's requests since the start of this server, by version."""
    found = await call.look(call.core.version, call.key, _model(client, task, version))
    described = await call.look(_described, call.core, call.key, str(found))
    numbers = described["versions"] if version is None else [found.number]
    return JSONResponse({"model_stats": _counted(call.core, [f"{found.name}@{one}" for one in numbers])})


def _counted(core: Core, versions: Sequence[str]) -> list[dict[str, Any]]:
    counts, made = core.requests.by_version, list[dict[str, Any]]()
    for version in versions:
        one, (name, _, number) = counts.get(version, VersionRequests()), version.rpartition("@")
        success, fail = (one.succeeded, one.succeeded_seconds), (one.failed, one.failed_seconds)
        made.append(
            {
                "name": name,
                "version": number,
                "last_inference": int(one.last * 1e3),
                "inference_count": one.texts,
                "inference_stats": {
                    outcome: {"count": count, "ns": int(seconds * 1e9)}
                    for outcome, (count, seconds) in (("success", success), ("fail", fail))
                },
            }
        )
    return made


@router.answers(routes.MODEL_INDEX, INDEX, ModelIndex, {"ready": True})
async def index(call: Called) -> Response:
    """List the models of the key's client, each with the version that answers a request without a version."""
    body = await call.pool.parse(call.key, await call.request.body() or b"{}", ModelIndex)
    damaged, entries = {*call.core.current.damaged}, list[dict[str, str]]()
    for one, _ in await call.look(call.core.listed, call.key):
        version = str(one.aliases.get(PRODUCTION, one.newest))
        lost = f"{one.name}@{version}" in damaged
        if not (lost and body.ready):
            state = ("UNAVAILABLE", "See the log of the server.") if lost else ("READY", "")
            entries.append({"name": one.name, "version": version, "state": state[0], "reason": state[1]})
    return JSONResponse(entries)


@router.answers(routes.MODEL_READY, MODEL_READY)
async def model_ready(call: Called, client: str, task: str, version: str | None = None) -> Response:
    """Return status 200 if a model exists and can be served, else an error."""
    await call.look(call.core.version, call.key, _model(client, task, version))
    return JSONResponse({"name": _named(client, task), "ready": True})


@router.answers(routes.INFER, ANSWER, Infer, EXAMPLE, binary=HEADER_LENGTH)
async def infer(call: Called, client: str, task: str, version: str | None = None) -> Response:
    """Return labels and probabilities as tensors (Open Inference Protocol)."""
    model, headers = _model(client, task, version), call.request.headers
    given, binary = parts(await call.request.body(), lengths := headers.getlist(HEADER_LENGTH))
    if lengths == ["0"]:
        body, binary = _raw(binary)
    else:
        body = await call.pool.parse(call.key, given, Infer)
    if body.model_name not in (None, model, f"{client}/{task}", _named(client, task)):
        raise Refusal.at("model_name", "differs from the path. Leave it out.")
    found = await call.answers(model, texts(body, binary), check=body.check)
    number = found[0].receipt.version.rpartition("@")[2]
    head, tensors = answered(body, found, _named(client, task), number)
    written = bytes(JSONResponse(head).body)
    more = {RECEIPT: str(found[0].receipt)} | ({HEADER_LENGTH: str(len(written))} if tensors else {})
    content, coded = encodings.compressed(written + b"".join(tensors), headers.raw)
    return Response(content, headers=more | coded, media_type=OCTETS if tensors else "application/json")
