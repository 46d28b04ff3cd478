"""BentoML: a service class; BentoML itself runs it, limits its threads and measures it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import bentoml
from aiohttp import ClientOSError, ServerDisconnectedError
from bentoml.validators import ContentType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.model import runtime

settings = runtime.Settings.from_env()
manners: dict[str, Any] = {
    "workers": settings.workers,
    "threads": 1,  # one inference at a time and process: it takes its own cores
    "traffic": {"timeout": 60},
    "logging": {"access": {"enabled": False}},
}


KEPT_CONNECTIONS = 100
"""So many may lie idle in the pool of BentoML's client: aiohttp's limit."""
READY_WITHIN_S = 3
"""A process that does not answer for so long is not ready; who asks waits 5 s."""
T = TypeVar("T")


class AlwaysJson:
    """Drop the content type, so that BentoML does not parse a form out of a body that is always JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"content-type"]
        await self.app(scope, receive, send)


async def health(_: Request) -> JSONResponse:
    """Answer like the other servers, beside BentoML's own /readyz.

    No request comes in before what answers it is loaded; a process behind it may load still.
    """
    service = bentoml.get_current_service()
    if isinstance(service, Batching) and not await service.can_predict():
        return JSONResponse({"error": "the model is not loaded yet"}, HTTPStatus.SERVICE_UNAVAILABLE)
    return JSONResponse({"status": "ok"})


def served(inner: type[Any]) -> bentoml.Service[Any]:
    """Make a class the service that answers on the port, with the manners of the other servers."""
    service = bentoml.service(inner, name="modelswarm", **manners)
    service.mount_asgi_app(Starlette(routes=[Route("/health", health)]))
    service.add_asgi_middleware(AlwaysJson)
    return service


# The whole body, not its field: BentoML's own validation would not say what to send instead.
Body = Annotated[bytes, ContentType("application/json")]


class Single:
    """Each worker loads the model when it starts, and infers one image at a time."""

    def __init__(self) -> None:
        self.classifier = runtime.Classifier(settings.model_dir, settings.threads)

    @bentoml.api(route="/predict")
    def predict(self, body: Body, /, ctx: bentoml.Context) -> dict[str, Any]:
        """Return the top 5 of the JPEG or PNG in `image_base64`."""
        try:
            return runtime.answer(self.classifier.predict(runtime.decode_request(body)))
        except runtime.BadInput as error:  # a BentoMLException would put the sentence into a list
            ctx.response.status_code = error.status
            return {"error": str(error)}


@bentoml.service(name="batches", **manners)
class Batches:
    """Infers what BentoML has gathered; it decides itself how long to wait for more."""

    def __init__(self) -> None:
        self.classifier = runtime.Classifier(settings.model_dir, settings.threads)

    @bentoml.api(batchable=True, max_batch_size=runtime.MAX_BATCH)
    def predict(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        """Return the body and status of each request's answer."""
        results = map(runtime.answer_or_error, self.classifier.predict_batch(bodies))
        return [{"body": body, "status": int(status)} for body, status in results]


class Batching:
    """Passes single requests on to a service of batches, as BentoML's documentation has it."""

    batches = bentoml.depends(Batches)

    @bentoml.api(route="/predict")
    async def predict(self, body: Body, /, ctx: bentoml.Context) -> dict[str, Any]:
        """Return the top 5 of the JPEG or PNG in `image_base64`."""
        answer = await self._batched(body)
        ctx.response.status_code = answer["status"]
        result: dict[str, Any] = answer["body"]
        return result

    async def can_predict(self) -> bool:
        """Tell whether the other service has its model."""
        try:
            return await self._asked(lambda: self.batches.is_ready(READY_WITHIN_S))
        except (TimeoutError, bentoml.exceptions.ServiceUnavailable):
            return False

    async def _batched(self, body: bytes) -> dict[str, Any]:
        [answer] = await self._asked(lambda: self.batches.to_async.predict([body]))
        return dict(answer)

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Let the other service answer.

        BentoML's client keeps idle connections for 15 s and its server for 5 s: what is sent over one that
        was closed meanwhile did not arrive, and is sent again over the next. After every 100 requests it
        renews its pool, which cuts off those under way: they are sent again too, and inferred twice.
        """
        for _ in range(KEPT_CONNECTIONS):
            with suppress(ClientOSError, ServerDisconnectedError):
                return await ask()
        raise bentoml.exceptions.ServiceUnavailable("the service that infers batches does not answer")


MobileNet = served(Batching if settings.batching else Single)
