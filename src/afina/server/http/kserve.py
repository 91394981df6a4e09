"""The Open Inference Protocol, version 2: infer, metadata and health, with texts as BYTES in JSON.

The binary data extension is not supported. This module does not know how answers are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from afina.data.kinds import KINDS
from afina.errors import InvalidData
from afina.models.objective import Objective
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import NUMBER as ANY_NUMBER
from afina.server.http.schemas import TEXT as ANY_TEXT
from afina.server.http.schemas import YES_OR_NO, Array, Body, about, array, either, one_of, record
from afina.server.requests import AcceptedRequest, ServedAnswer, Text

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

    name: Literal["text", "pair"] = Field(description="`text`, or `pair` for the second texts of pairs")
    shape: Array[int] = Field(description="[n] or [n, 1] for n texts")
    datatype: Literal["BYTES"] = Field(description="BYTES")
    data: Array[str] | Array[Array[str]] = Field(description="the texts")


class Output(Body):
    """An output to return."""

    name: str = Field(description="name of the output, as in the model's metadata")


class Infer(Body):
    """A request of the Open Inference Protocol."""

    id: str | None = Field(None, description="id of the request, repeated in the response")
    inputs: Array[Tensor] = Field(min_length=1, max_length=2, description="texts, and for pairs their second texts")
    outputs: Annotated[Array[Output], Field(min_length=1)] | None = Field(
        None, description="outputs to return; default: all"
    )

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData for an output that the model does not have, or that is named twice."""
        known = [one.name for one in ANSWER_FORMATS[asked.objective.kind].tensor_types(asked.objective)]
        names = [one.name for one in self.outputs or ()]
        for index, name in enumerate(names):
            if name not in known or name in names[:index]:
                problem = "named twice" if name in known else f"unknown. This model has {', '.join(known)}"
                raise InvalidData(
                    f"`outputs`: {name[:40]!r} is {problem}.",
                    code="request.malformed",
                    output=name[:40],
                    known=known,
                )


def texts(body: Infer) -> Sequence[Text]:
    """Return the texts of a request: those of the input `text`, with those of the input `pair` if there is one.

    Raises:
        InvalidData: the inputs are not of this form.
    """
    columns: dict[str, list[str]] = {one.name: _column(one) for one in body.inputs}
    if len(columns) < len(body.inputs) or TEXT not in columns:
        raise InvalidData(
            f"`inputs`: expected `{TEXT}`, and at most one further input, `{PAIR}`. Found "
            f"{' and '.join(one.name for one in body.inputs)}.",
            code="request.malformed",
            tensor=PAIR,
        )
    firsts, seconds = columns[TEXT], columns.get(PAIR)
    if seconds is None:
        return [Text(one) for one in firsts]
    if len(firsts) != len(seconds):
        raise InvalidData(
            f"`inputs`: `{TEXT}` has {len(firsts)} texts and `{PAIR}` has {len(seconds)}. Expected equal numbers.",
            code="request.malformed",
            tensor=PAIR,
        )
    return [Text(*two) for two in zip(firsts, seconds, strict=True)]


def _column(tensor: Tensor) -> list[str]:
    flat = [one for row in tensor.data for one in ([row] if isinstance(row, str) else row)]
    if tensor.shape not in ([len(flat)], [len(flat), 1]):
        raise InvalidData(
            f"`inputs` {tensor.name}: the shape must be [{len(flat)}] or [{len(flat)}, 1] for {len(flat)} texts.",
            code="request.malformed",
            tensor=tensor.name,
        )
    return flat


def answered(body: Infer, answers: Sequence[ServedAnswer], name: str, version: str) -> dict[str, Any]:
    """Return the response."""
    made = {one["name"]: one for one in _outputs(answers)}
    wanted = [*made] if body.outputs is None else [one.name for one in body.outputs]
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
