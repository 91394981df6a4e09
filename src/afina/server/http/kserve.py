"""The Open Inference Protocol, version 2: infer, metadata and health, with texts as BYTES in JSON.

Its binary data extension is not spoken.
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
from afina.server.http.schemas import YES_OR_NO, Array, Body, array, either, one_of, record
from afina.server.requests import ServedAnswer, Text

TEXT, PAIR = "text", "pair"

EXAMPLE = {
    "id": "42",
    "inputs": [{"name": TEXT, "shape": [1], "datatype": "BYTES", "data": ["It broke on the second day."]}],
}

_SHAPE = array({"type": "integer", "minimum": -1})
_TYPED = {"name": ANY_TEXT, "datatype": one_of("BYTES", "BOOL", "FP32", "FP64"), "shape": _SHAPE}
_TENSOR = record({**_TYPED, "data": array(either(ANY_TEXT, ANY_NUMBER, YES_OR_NO))})
ANSWER = record({"model_name": ANY_TEXT, "model_version": ANY_TEXT, "id": ANY_TEXT, "outputs": array(_TENSOR)}, "id")
_ABOUT = record({"labels": array(ANY_TEXT), "kind": one_of(*KINDS)})
_NAMED = {"name": ANY_TEXT, "versions": array(ANY_TEXT), "platform": one_of("afina")}
METADATA = record({**_NAMED, "inputs": array(record(_TYPED)), "outputs": array(record(_TYPED)), "parameters": _ABOUT})
SERVER = record({"name": one_of("afina"), "version": ANY_TEXT, "extensions": array(ANY_TEXT)})
MODEL_READY = record({"name": ANY_TEXT, "ready": one_of(True)})
ERROR = record({"error": ANY_TEXT})


class Tensor(Body):
    """An input."""

    name: str
    shape: Array[int]
    datatype: str
    data: Array[str] | Array[Array[str]]


class Output(Body):
    """An output that is wanted."""

    name: str


class Infer(Body):
    """A request."""

    id: str | None = None
    inputs: Array[Tensor] = Field(min_length=1, max_length=2)
    outputs: Array[Output] | None = None


def texts(body: Infer) -> Sequence[Text]:
    """One input, or two of which the second is named `pair`. Raises InvalidData."""
    columns = [_column(one) for one in body.inputs]
    if len(columns) == 1:
        return [Text(one) for one in columns[0]]
    if body.inputs[1].name != PAIR or len(columns[0]) != len(columns[1]):
        raise InvalidData(
            f"`inputs`: the second has to be `{PAIR}`, and as long as the first.",
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
            f"`inputs` {tensor.name[:40]}: its shape is not that of {len(flat)} texts.",
            code="request.malformed",
            tensor=tensor.name[:40],
        )
    return flat


def answered(body: Infer, answers: Sequence[ServedAnswer], name: str, version: str) -> dict[str, Any]:
    """A response. Raises InvalidData for an output that there is not."""
    made = {one["name"]: one for one in _outputs(answers)}
    wanted = [*made] if body.outputs is None else [one.name for one in body.outputs]
    if missing := [one for one in wanted if one not in made]:
        raise InvalidData(
            f"`outputs` {missing[0][:40]}: there is none. This model has {', '.join(made)}.",
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
    """Of a model."""
    outputs = ANSWER_FORMATS[objective.kind].tensor_types(objective)
    return {
        "name": name,
        "versions": [str(one) for one in versions],
        "platform": "afina",
        "inputs": [{"name": TEXT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": one.name, "datatype": one.datatype, "shape": one.shape(-1)} for one in outputs],
        "parameters": {"labels": [*objective.label_names], "kind": objective.kind},
    }


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    return {"error": message}
