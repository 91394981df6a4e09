"""Routes: thin shims over the core, one a protocol's call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from afina import __version__
from afina.errors import NotFound
from afina.models import objectives
from afina.server.http.asking import answers, core_of, desk_of, given, key_of, model_in_query, together
from afina.server.http.bulk import Bulk
from afina.server.http.described import described, health
from afina.server.http.protocols import hub, kserve, native, tei, vllm
from afina.server.http.refusal import Refusal
from afina.server.limits import Missing
from afina.server.metrics import CONTENT_TYPE
from afina.server.requests import ServedAnswer, Text
from afina.store import publishing

RECEIPT = "Afina-Receipt"

router = APIRouter()

INFERENCE = "Open Inference Protocol"
TEI = partial(described, "text-embeddings-inference", tei.ERROR)
VLLM = partial(described, "vLLM", vllm.ERROR)
HUB = partial(described, "Hugging Face", hub.ERROR)
KSERVE = partial(described, INFERENCE, kserve.ERROR)
AFINA = partial(described, "afina", native.ERROR)


def _answer(content: Any, found: Sequence[ServedAnswer]) -> Response:
    return JSONResponse(content, headers={RECEIPT: str(found[0].receipt)})


@router.post("/predict", **TEI(tei.ANSWER, tei.Predict, tei.EXAMPLE, query=["model"]))
async def predict(request: Request) -> Response:
    """Labels and scores, the best first, as text-embeddings-inference gives them."""
    body = await given(request, tei.Predict)
    asked = model_in_query(request)
    if None not in (body.model, asked) and body.model != asked:
        raise Refusal(422, "invalid", "`model` is another in the body than in the query. Leave one out.")
    model = body.model or asked
    if model is None:
        raise Refusal(422, "invalid", "`model`: there is none, neither in the body nor in the query.")
    found = await answers(request, model, tei.texts(body))
    return _answer(tei.answered(body, found), found)


@router.post("/classify", **VLLM(vllm.ANSWER, vllm.Classify, vllm.EXAMPLE))
async def classify(request: Request) -> Response:
    """Labels and probabilities in the adapter's order, as vLLM gives them."""
    body = await given(request, vllm.Classify)
    found = await answers(request, body.model, vllm.texts(body))
    return _answer(vllm.answered(body, found, request.scope["afina.request"], int(publishing._seconds())), found)


@router.get("/v1/models", **VLLM(vllm.MODELS))
async def models(request: Request) -> Response:
    """The names that the caller's client has."""
    core, key = core_of(request), key_of(request)
    try:
        listed = await desk_of(request).look(key, core.store.list, key.client)
    except NotFound:
        listed = []
    return JSONResponse(vllm.models(listed, int(publishing._seconds())))


@router.post("/models/{client}/{task}", **HUB(hub.ANSWER, hub.Classification, hub.EXAMPLE))
async def classification(request: Request, client: str, task: str) -> Response:
    """Labels and scores, the best first, as the Hub's text-classification task has them."""
    body = await given(request, hub.Classification)
    found = await answers(request, f"{client}/{task}", hub.texts(body))
    return _answer(hub.answered(body, found), found)


@router.get("/v2", **KSERVE(kserve.SERVER))
async def server(request: Request) -> Response:
    """What this server is."""
    return JSONResponse({"name": "afina", "version": __version__, "extensions": []})


@router.get("/v2/health/live", **health(INFERENCE, native.LIVE, ready=False))
@router.get("/health/live", **health("health", native.LIVE, ready=False))
async def live(request: Request) -> Response:
    """Whether it runs."""
    return JSONResponse({"live": True})


@router.get("/v2/health/ready", **health(INFERENCE, native.READY, ready=True))
@router.get("/health/ready", **health("health", native.READY, ready=True))
async def ready(request: Request) -> Response:
    """Whether it answers, and the store answers it; 503 where not."""
    is_ready = core_of(request).ready
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


def _model(client: str, task: str, version: str | None) -> str:
    if version is None:
        return f"{client}/{task}"
    if "@" in task:
        raise Missing
    return f"{client}/{task}@{version}"


@router.get("/v2/models/{client}/{task}", **KSERVE(kserve.METADATA))
@router.get("/v2/models/{client}/{task}/versions/{version}", **KSERVE(kserve.METADATA))
async def metadata(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """A model's versions, inputs, outputs and labels."""
    core, model = core_of(request), _model(client, task, version)

    def look() -> dict[str, Any]:
        found = core.version(key_of(request), model)
        numbers = [one.number for one in core.store.versions(found.name) if not one.deleted]
        manifest = found.manifest
        asked = objectives.make(tuple(manifest["label_names"]), manifest.get("objective"))
        return kserve.metadata(model, numbers, asked)

    return JSONResponse(await desk_of(request).look(key_of(request), look))


@router.get("/v2/models/{client}/{task}/ready", **KSERVE(kserve.MODEL_READY))
@router.get("/v2/models/{client}/{task}/versions/{version}/ready", **KSERVE(kserve.MODEL_READY))
async def model_ready(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """Whether a model answers."""
    model = _model(client, task, version)
    await desk_of(request).look(key_of(request), core_of(request).version, key_of(request), model)
    return JSONResponse({"name": model, "ready": True})


@router.post("/v2/models/{client}/{task}/infer", **KSERVE(kserve.ANSWER, kserve.Infer, kserve.EXAMPLE))
@router.post(
    "/v2/models/{client}/{task}/versions/{version}/infer",
    **KSERVE(kserve.ANSWER, kserve.Infer, kserve.EXAMPLE),
)
async def infer(request: Request, client: str, task: str, version: str | None = None) -> Response:
    """Labels and probabilities as tensors."""
    if "inference-header-content-length" in request.headers:
        raise Refusal(400, "invalid", "the binary data extension is not spoken here. Send BYTES as JSON.")
    body = await given(request, kserve.Infer)
    model = _model(client, task, version)
    found = await answers(request, model, kserve.texts(body))
    number = found[0].receipt.version.rpartition("@")[2]
    return _answer(kserve.answered(body, found, model, number), found)


@router.post("/tasks", **AFINA(native.TASKS_ANSWER, native.Tasks, native.TASKS_EXAMPLE))
async def tasks(request: Request) -> Response:
    """What several of the caller's models say of one text, in one batch."""
    body = await given(request, native.Tasks)
    text = [Text(body.text, body.pair)]
    found = await together(request, [(model, text) for model in body.models])
    pairs = zip(body.models, found, strict=True)
    return JSONResponse({"results": [{"model": model, **native.answered(one)} for model, (one,) in pairs]})


@router.post("/bulk", **AFINA(lines=native.LINE_EXAMPLE, media="application/x-ndjson", query=["model"]))
async def bulk(request: Request) -> Response:
    """JSON lines in, JSON lines out, in their order, while they come; `?model=` for lines that name none."""
    return Bulk(core_of(request), desk_of(request), key_of(request), model_in_query(request))


@router.put("/aliases/{client}/{task}/{alias}", **AFINA(native.ALIAS_ANSWER, native.Alias, native.ALIAS_EXAMPLE))
async def move(request: Request, client: str, task: str, alias: str) -> Response:
    """Let an alias point to a version, in the log as the key's doing; it is served once its golden probe has passed."""
    body = await given(request, native.Alias)
    wanted = (f"{client}/{task}", alias, body.version, body.expected, body.message)
    moved = await desk_of(request).look(key_of(request), core_of(request).move, key_of(request), *wanted)
    return JSONResponse(moved.as_json())


@router.get("/shadows/{client}/{task}", **AFINA(native.SHADOW))
async def shadow(request: Request, client: str, task: str) -> Response:
    """What rides along with the version that answers, and how often the two differ, of the texts that came here."""
    core, key = core_of(request), key_of(request)
    return JSONResponse(await desk_of(request).look(key, core.shadow, key, f"{client}/{task}"))


@router.get("/metrics", **described("health", native.ERROR, media="text/plain"))
async def metrics(request: Request) -> Response:
    """For Prometheus; with a key that has the scope admin."""
    return Response(core_of(request).metrics.text(), media_type=CONTENT_TYPE)
