"""The FastAPI application: one short route for each call of each protocol. All routes are behind the gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from afina import __version__
from afina.errors import AfinaError
from afina.models import objectives
from afina.server.core import Core
from afina.server.http import encodings
from afina.server.http.errors import Refusal
from afina.server.http.gate import DESCRIPTION, Gate, error_response
from afina.server.http.request_pool import (
    RequestPool,
    answers,
    body_of,
    check_query,
    core_of,
    key_of,
    model_in_query,
    pool_of,
    refusal_of,
    together,
)
from afina.server.http.schemas import OCTETS, Body, body_schemas, describe, describe_health
from afina.server.limits import Missing
from afina.server.metrics import CONTENT_TYPE
from afina.server.protocols import huggingface, info, keys, kserve, native, openai, openai_answers, page, vllm
from afina.server.protocols.bulk import Bulk
from afina.server.receipts import RECEIPT
from afina.server.requests import ServedAnswer, Text
from afina.store import publishing

router = APIRouter(dependencies=[Depends(check_query)])

INFERENCE = "Open Inference Protocol"
TEI = partial(describe, "text-embeddings-inference", huggingface.PREDICT_ERROR)
VLLM = partial(describe, "vLLM", vllm.ERROR)
HUB = partial(describe, "Hugging Face", huggingface.CLASSIFICATION_ERROR)
KSERVE = partial(describe, INFERENCE, kserve.ERROR)
INFER = KSERVE(kserve.ANSWER, kserve.Infer, kserve.EXAMPLE, binary=kserve.HEADER_LENGTH)
AFINA = partial(describe, "afina", native.ERROR)


def _with_receipt(content: Any, found: Sequence[ServedAnswer]) -> Response:
    return JSONResponse(content, headers={RECEIPT: str(found[0].receipt)})


@router.post(
    "/predict", **TEI(huggingface.PREDICT_ANSWER, huggingface.Predict, huggingface.PREDICT_EXAMPLE, query=["model"])
)
async def predict(request: Request) -> Response:
    """Classify texts (protocol of text-embeddings-inference). Labels and scores are ordered by falling score."""
    body = await body_of(request, huggingface.Predict)
    asked = model_in_query(request)
    if None not in (body.model, asked) and body.model != asked:
        raise Refusal(422, "invalid", "`model` differs between the body and the query. Leave one of them out.")
    model = body.model or asked
    if model is None:
        raise Refusal(422, "invalid", "`model` is missing. Give it in the body or in the query.")
    texts = huggingface.predict_texts(body)
    found = await answers(request, model, texts, truncation=body.truncation, check=body.check)
    return _with_receipt(huggingface.predict_answer(body, found), found)


@router.post("/classify", **VLLM(vllm.ANSWER, vllm.Classify, vllm.EXAMPLE))
async def classify(request: Request) -> Response:
    """Classify texts (protocol of vLLM). Probabilities are in the adapter's order of labels."""
    body = await body_of(request, vllm.Classify)
    found = await answers(request, body.model, vllm.texts(body), truncation=body.truncation)
    return _with_receipt(vllm.answered(body, found, request.scope["afina.request"], int(publishing._seconds())), found)


@router.get("/v1/models", **VLLM(vllm.MODELS))
async def models(request: Request) -> Response:
    """List the models (client/task) of the key's client."""
    core, key = core_of(request), key_of(request)
    listed = await pool_of(request).look(key, core.listed, key)
    return JSONResponse(vllm.models(listed))


@router.get("/v1/models/{id:path}", **describe("OpenAI", openai_answers.ERROR, vllm.MODEL))
async def one_model(request: Request, id: str) -> Response:
    """Return a model of the key's client by its id."""
    core, key = core_of(request), key_of(request)
    version = await pool_of(request).look(key, core.version, key, id)
    return JSONResponse(vllm.model(id, version.created))


@router.get("/info", **describe("text-embeddings-inference", native.ERROR, info.ANSWER))
async def described(request: Request) -> Response:
    """Return backbone, dtype, version and limits of this server, with the fields of TEI and of TGI."""
    return JSONResponse(await pool_of(request).look(key_of(request), info.answered, core_of(request)))


@router.post(
    "/models/{client}/{task}",
    **HUB(huggingface.CLASSIFICATION_ANSWER, huggingface.Classification, huggingface.CLASSIFICATION_EXAMPLE),
)
async def classification(request: Request, client: str, task: str) -> Response:
    """Classify texts (the Hub's text-classification task). Labels and scores are ordered by falling score."""
    body = await body_of(request, huggingface.Classification)
    texts = huggingface.classification_texts(body)
    found = await answers(request, f"{client}/{task}", texts, check=body.check)
    return _with_receipt(huggingface.classification_answer(body, found), found)


@router.get("/v2", **KSERVE(kserve.SERVER))
async def server(request: Request) -> Response:
    """Return name and version of this server, and its protocol extensions."""
    return JSONResponse({"name": "afina", "version": __version__, "extensions": kserve.EXTENSIONS})


@router.get("/v2/health/live", **describe_health(INFERENCE, native.LIVE, ready=False))
@router.get("/health/live", **describe_health("health", native.LIVE, ready=False))
async def live(request: Request) -> Response:
    """Return whether the process is running. Needs no key."""
    return JSONResponse({"live": True})


@router.get("/health", **describe_health("vLLM", None, ready=True))
async def health(request: Request) -> Response:
    """Return an empty response with status 200 if the server answers, also if its store does not. Needs no key."""
    return Response(status_code=200 if core_of(request).alive else 503)


@router.get("/v2/health/ready", **describe_health(INFERENCE, native.READY, ready=True))
@router.get("/health/ready", **describe_health("health", native.READY, ready=True))
async def ready(request: Request) -> Response:
    """Return whether the server answers requests and its store responds. Status 503 if not. Needs no key.

    `writes` does not change the status: a server whose store has a full disk still answers.
    """
    core = core_of(request)
    is_ready = core.ready
    return JSONResponse({"ready": is_ready, "writes": core.writes.possible}, 200 if is_ready else 503)


def _model(client: str, task: str, version: str | None) -> str:
    if version is None:
        return f"{client}/{task}"
    if "@" in task:
        raise Missing
    return f"{client}/{task}@{version}"


def _named(client: str, task: str) -> str:
    """Return the name of a model in the Open Inference Protocol, which has the version apart."""
    return f"{client}/{task.partition('@')[0]}"


@router.get("/v2/models/{client}/{task}", **KSERVE(kserve.METADATA))
@router.get("/v2/models/{client}/{task}/versions/{version}", **KSERVE(kserve.METADATA))
async def metadata(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """Return a model's versions, inputs, outputs, labels and kind of task."""
    core, model = core_of(request), _model(client, task, version)

    def look() -> dict[str, Any]:
        found = core.version(key_of(request), model)
        there = core.store.versions(found.name)
        numbers = [one.number for one in there if not (one.deleted or core.engine.is_for_another(one.manifest))]
        manifest = found.manifest
        asked = objectives.make(tuple(manifest["label_names"]), manifest.get("objective"))
        return kserve.metadata(_named(client, task), numbers, asked)

    return JSONResponse(await pool_of(request).look(key_of(request), look))


@router.get("/v2/models/{client}/{task}/ready", **KSERVE(kserve.MODEL_READY))
@router.get("/v2/models/{client}/{task}/versions/{version}/ready", **KSERVE(kserve.MODEL_READY))
async def model_ready(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """Return whether the model exists and can be served."""
    model = _model(client, task, version)
    await pool_of(request).look(key_of(request), core_of(request).version, key_of(request), model)
    return JSONResponse({"name": _named(client, task), "ready": True})


@router.post("/v2/models/{client}/{task}/infer", **INFER)
@router.post("/v2/models/{client}/{task}/versions/{version}/infer", **INFER)
async def infer(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """Return labels and probabilities as tensors (Open Inference Protocol)."""
    model, lengths = _model(client, task, version), request.headers.getlist(kserve.HEADER_LENGTH)
    given, binary = kserve.parts(await request.body(), lengths)
    body = await pool_of(request).parse(key_of(request), given, kserve.Infer)
    if body.model_name not in (None, model, f"{client}/{task}", _named(client, task)):
        raise Refusal(422, "invalid", "`model_name`: differs from the path. Leave it out.")
    found = await answers(request, model, kserve.texts(body, binary), check=body.check)
    number = found[0].receipt.version.rpartition("@")[2]
    head, tensors = kserve.answered(body, found, _named(client, task), number)
    written = bytes(JSONResponse(head).body)
    headers = {RECEIPT: str(found[0].receipt)} | ({kserve.HEADER_LENGTH: str(len(written))} if tensors else {})
    content, coded = encodings.compressed(written + b"".join(tensors), request.headers.raw)
    return Response(content, headers=headers | coded, media_type=OCTETS if tensors else "application/json")


@router.post("/tasks", **AFINA(native.TASKS_ANSWER, native.Tasks, native.TASKS_EXAMPLE))
async def tasks(request: Request) -> Response:
    """Return the answers of several models of the key's client to one text. They are computed in one batch."""
    body = await body_of(request, native.Tasks)
    text = [Text(body.text, body.pair)]
    found = await together(request, [(model, text) for model in body.models])
    pairs = zip(body.models, found, strict=True)
    return JSONResponse({"results": [{"model": model, **native.answered(one)} for model, (one,) in pairs]})


@router.post("/bulk", **AFINA(lines=native.LINE_EXAMPLE, media="application/x-ndjson", query=["model"]))
async def bulk(request: Request) -> Response:
    """Read JSON lines and return one JSON line for each, in the same order, while the lines arrive.

    The query's `model` is the default for lines without a model.
    """
    return Bulk(core_of(request), pool_of(request), key_of(request), model_in_query(request))


@router.put("/aliases/{client}/{task}/{alias}", **AFINA(native.ALIAS_ANSWER, native.Alias, native.ALIAS_EXAMPLE))
async def move(request: Request, client: str, task: str, alias: str) -> Response:
    """Point an alias to a version.

    The audit log names the key. The version is served once it has passed its golden test.
    """
    body = await body_of(request, native.Alias)
    wanted = (f"{client}/{task}", alias, body.version, body.expected, body.share, body.message)
    moved = await pool_of(request).look(key_of(request), core_of(request).move, key_of(request), *wanted)
    return JSONResponse(moved.as_json())


@router.get("/shadows/{client}/{task}", **AFINA(native.SHADOW))
async def shadow(request: Request, client: str, task: str) -> Response:
    """Return the shadow version of a model, and how often its answers differ from those of the production version.

    The counts are of the texts that this server received.
    """
    core, key = core_of(request), key_of(request)
    return JSONResponse(await pool_of(request).look(key, core.shadow, key, f"{client}/{task}"))


@router.get("/metrics", **describe("health", native.ERROR, media="text/plain"))
async def metrics(request: Request) -> Response:
    """Return metrics in the format of Prometheus. Needs a key with scope `metrics` or `admin`."""
    return Response(core_of(request).metrics.text(), media_type=CONTENT_TYPE)


BODIES: list[type[Body]] = [
    huggingface.Predict,
    vllm.Classify,
    huggingface.Classification,
    kserve.Infer,
    native.Tasks,
    native.Alias,
]
BODIES += [page.Sentence, keys.NewKey, *openai.BODIES]

PARAMETERS = {
    "client": "the client: the first part of a model's name",
    "key": "id of the key",
    "message": "reason, kept in the audit log for ever",
    "id": "client/task, client/task@alias or client/task@version",
    "task": "the task: the second part of a model's name",
    "alias": "the alias, such as `production`",
    "version": "number or alias of the version; default: the version in production, or else the newest",
    "model": "client/task, client/task@alias or client/task@version, for requests and lines without a model",
    kserve.HEADER_LENGTH: "number of bytes of the JSON, if binary data follows the JSON in the body",
}
"""Descriptions of the parameters in paths and queries, by name."""


class App(FastAPI):
    """A FastAPI application that also describes the request bodies, which FastAPI itself does not read."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI description. It is made once."""
        if self.openapi_schema is None:
            made = get_openapi(title="afina", version=__version__, routes=self.routes)
            for operation in (one for methods in made["paths"].values() for one in methods.values()):
                for parameter in operation.get("parameters", []):
                    parameter["description"] = PARAMETERS[parameter["name"]]
            parts = made.setdefault("components", {})
            parts.setdefault("schemas", {}).update(body_schemas(BODIES))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            self.openapi_schema = made
        return self.openapi_schema


def make_app(core: Core) -> App:
    """Return an application. The application starts the core when it starts, and closes the core when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.start()
        app.state.pool = pool = RequestPool(core)
        app.state.text_tools = openai.TextTools(core.engine.backbone.tokenizer)
        try:
            yield
        finally:
            await asyncio.to_thread(core.close)
            pool.close()

    app = App(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=DESCRIPTION, redirect_slashes=False)
    app.state.core = core
    app.include_router(router)
    app.include_router(openai.router)
    app.include_router(page.router)
    app.include_router(keys.router)
    app.add_middleware(Gate, core=core)
    for kind in (Refusal, AfinaError, TimeoutError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _by_starlette)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    refusal = refusal_of(core_of(request), "request", error)
    request.app.state.core.metrics.refused.labels(refusal.kind).inc()
    return error_response(request.url.path, refusal)


async def _by_starlette(request: Request, error: Exception) -> Response:
    """Answer a request for an unknown path, or with a method that the path does not support."""
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "no_such_method"}.get(error.status_code, "invalid")
    path = request.url.path
    if error.status_code == 404 and path != "/":
        hint = f" Leave out the last `/`: {path.rstrip('/')[:80]}." if path.endswith("/") else ""
        return error_response(path, Refusal(404, kind, f"No such path.{hint}", dict(error.headers or {})))
    return error_response(
        request.url.path, Refusal(error.status_code, kind, str(error.detail), dict(error.headers or {}))
    )
