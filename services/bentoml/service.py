"""BentoML: a service class; BentoML itself runs it, limits its threads and measures it."""

from __future__ import annotations

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.model import runtime

settings = runtime.Settings.from_env()


class AlwaysJson:
    """Drop the content type, so that BentoML does not parse a form out of a body that is always JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"content-type"]
        await self.app(scope, receive, send)


def health(_: Request) -> JSONResponse:
    """Answer like the other servers, beside BentoML's own /readyz: no request comes in before the model."""
    return JSONResponse({"status": "ok"})


@bentoml.asgi_app(Starlette(routes=[Route("/health", health)]))
@bentoml.service(
    name="modelswarm",
    workers=settings.workers,
    threads=1,  # one inference at a time and process: it takes its own cores
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class MobileNet:
    """Each worker loads the model when it starts."""

    def __init__(self) -> None:
        self.classifier = runtime.Classifier(settings.model_dir, settings.threads)

    # The whole body, not its field: BentoML's own validation would not say what to send instead.
    @bentoml.api(route="/predict")
    def predict(
        self, body: Annotated[bytes, ContentType("application/json")], /, ctx: bentoml.Context
    ) -> dict[str, Any]:
        """Return the top 5 of the JPEG or PNG in `image_base64`."""
        try:
            return runtime.answer(self.classifier.predict(runtime.decode_request(body)))
        except runtime.BadInput as error:  # a BentoMLException would put the sentence into a list
            ctx.response.status_code = error.status
            return {"error": str(error)}


MobileNet.add_asgi_middleware(AlwaysJson)
