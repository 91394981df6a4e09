"""The Open Inference Protocol, version 2: infer, metadata and health, with texts as BYTES in JSON.

The binary data extension is not supported. This module does not know how answers are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from afina.data.kinds import KINDS
from afina.errors import InvalidData
from afina.models.objective import Objective
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import NUMBER as ANY_NUMBER
from afina.server.http.schemas import TEXT as ANY_TEXT
from afina.server.http.schemas import YES_OR_NO, Array, Body, about, array, either, one_of, record
from afina.server.requests import ServedAnswer, Text

TEXT, PAIR = "text", "pair"

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
_TENSOR = record({**_TYPED, "data": _VALUES})
_NAME = about(ANY_TEXT, "client/task, client/task@alias or client/task@version, as in the request")
ANSWER = record(
    {
        "model_name": _NAME,
        "model_version": about(ANY_TEXT, "number of the version that answered"),
        "id": about(ANY_TEXT, "id of the request, if the request has one"),
        "outputs": about(array(_TENSOR), "the outputs asked for; by default all"),
    },
    "id",
)
_ABOUT = record(
    {"labels": about(array(ANY_TEXT), "labels in the adapter's order"), "kind": about(one_of(*KINDS), "kind of task")}
)
METADATA = record(
    {
        "name": _NAME,
        "versions": about(array(ANY_TEXT), "numbers of all versions that are not deleted"),
        "platform": about(one_of("afina"), "framework of the model"),
        "inputs": about(array(record(_TYPED)), "tensors of a request"),
        "outputs": about(array(record(_TYPED)), "tensors of a response"),
        "parameters": about(_ABOUT, "labels and kind of task"),
    }
)
SERVER = record(
    {
        "name": about(one_of("afina"), "name of the server"),
        "version": about(ANY_TEXT, "version of afina"),
        "extensions": about(array(ANY_TEXT), "protocol extensions; always empty"),
    }
)
MODEL_READY = record(
    {"name": _NAME, "ready": about(one_of(True), "always true; a model that is not ready gives an error status")}
)
ERROR = record({"error": about(ANY_TEXT, "what is wrong and what to do")})


class Tensor(Body):
    """An input tensor: texts, or the second texts of pairs."""

    name: str = Field(description="`text`, or `pair` for the second texts of pairs")
    shape: Array[int] = Field(description="[n] or [n, 1] for n texts")
    datatype: str = Field(description="BYTES")
    data: Array[str] | Array[Array[str]] = Field(description="the texts")


class Output(Body):
    """An output to return."""

    name: str = Field(description="name of the output, as in the model's metadata")


class Infer(Body):
    """A request of the Open Inference Protocol."""

    id: str | None = Field(None, description="id of the request, repeated in the response")
    inputs: Array[Tensor] = Field(min_length=1, max_length=2, description="texts, and for pairs their second texts")
    outputs: Array[Output] | None = Field(None, description="outputs to return; default: all")


def texts(body: Infer) -> Sequence[Text]:
    """Return the texts of a request with one input, or with two of which the second is named `pair`.

    Raises:
        InvalidData: the inputs are not of this form.
    """
    columns = [_column(one) for one in body.inputs]
    if len(columns) == 1:
        return [Text(one) for one in columns[0]]
    if body.inputs[1].name != PAIR or len(columns[0]) != len(columns[1]):
        raise InvalidData(
            f"`inputs`: the second input must be named `{PAIR}` and have as many texts as the first.",
            code="request.malformed",
            tensor=PAIR,
        )
    return [Text(*two) for two in zip(*columns, strict=True)]


def _column(tensor: Tensor) -> list[str]:
    flat = [one for row in tensor.data for one in ([row] if isinstance(row, str) else row)]
    if tensor.datatype != "BYTES":
        raise InvalidData(
            f"`inputs` {tensor.name[:40]}: found datatype {tensor.datatype[:20]}, expected BYTES.",
            code="request.malformed",
            tensor=tensor.name[:40],
            datatype=tensor.datatype[:20],
        )
    if tensor.shape not in ([len(flat)], [len(flat), 1]):
        raise InvalidData(
            f"`inputs` {tensor.name[:40]}: the shape must be [{len(flat)}] or [{len(flat)}, 1] for {len(flat)} texts.",
            code="request.malformed",
            tensor=tensor.name[:40],
        )
    return flat


def answered(body: Infer, answers: Sequence[ServedAnswer], name: str, version: str) -> dict[str, Any]:
    """Return the response. Raises InvalidData for an output that the model does not have."""
    made = {one["name"]: one for one in _outputs(answers)}
    wanted = [*made] if body.outputs is None else [one.name for one in body.outputs]
    if missing := [one for one in wanted if one not in made]:
        raise InvalidData(
            f"`outputs` {missing[0][:40]}: unknown output. This model has {', '.join(made)}.",
            code="request.malformed",
            output=missing[0][:40],
            known=made,
        )
    head = {"model_name": name, "model_version": version} | ({} if body.id is None else {"id": body.id})
    return {**head, "outputs": [made[one] for one in wanted]}


def _outputs(answers: Sequence[ServedAnswer]) -> list[dict[str, Any]]:
    objective = answers[0].objective
    written = ANSWER_FORMATS[objective.kind]
    data = written.tensors(objective, [one.prediction for one in answers])
    return [
        {"name": one.name, "shape": one.shape(len(answers)), "datatype": one.datatype, "data": values}
        for one, values in zip(written.tensor_types(objective), data, strict=True)
    ]


def metadata(name: str, versions: Sequence[int], objective: Objective) -> dict[str, Any]:
    """Return the metadata of a model."""
    outputs = ANSWER_FORMATS[objective.kind].tensor_types(objective)
    return {
        "name": name,
        "versions": [str(one) for one in versions],
        "platform": "afina",
        "inputs": [{"name": TEXT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": one.name, "datatype": one.datatype, "shape": one.shape(-1)} for one in outputs],
        "parameters": {"labels": [*objective.label_names], "kind": objective.kind},
    }
