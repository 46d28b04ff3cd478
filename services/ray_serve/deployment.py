"""Ray Serve: the deployment. One replica is one process with the model; a FastAPI app routes to it.

Annotations are evaluated here: FastAPI cannot look up their names in a class that Ray has pickled.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve._private import replica

from services.model.runtime import (
    MAX_BATCH,
    MAX_BATCH_WAIT_S,
    BadInput,
    Classifier,
    Prediction,
    Settings,
    answer,
    decode_request,
)

app = FastAPI(title="modelswarm on Ray Serve")


@app.exception_handler(BadInput)
async def bad_input(_: Request, error: BadInput) -> JSONResponse:
    """Tell the client what to send instead."""
    return JSONResponse({"error": str(error)}, error.status)


def keep_to(host: str) -> None:
    """Let the port between replicas, which takes pickles, listen on the node's address, not on all there are.

    Serve opens it after the deployment's constructor, and has no option for it.
    """
    add = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", host))


@serve.deployment(
    # Beyond it, Ray's router holds requests back and asks again at growing intervals (5 is its default): a
    # burst then leaves the replica idle while requests wait.  The other servers queue in front of the model.
    max_ongoing_requests=100,
    graceful_shutdown_timeout_s=3,
    graceful_shutdown_wait_loop_s=0.5,
)
@serve.ingress(app)
class MobileNet:
    """Serve routes to a replica once its constructor has returned."""

    def __init__(self, settings: Settings) -> None:
        keep_to(ray.util.get_node_ip_address())
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.classifier = self.pool.submit(Classifier, settings.model_dir, settings.threads).result()
        self.infer = self._in_batches if settings.batching else self._singly

    @app.post("/predict")
    async def predict(self, request: Request) -> dict[str, Any]:
        """Return the top 5 of the JPEG or PNG in `image_base64`."""
        result = await self.infer(await request.body())
        if isinstance(result, BadInput):
            raise result
        return answer(result)

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Answer once a replica is there to answer."""
        return {"status": "ok"}

    async def _singly(self, body: bytes) -> list[Prediction]:
        return await asyncio.get_running_loop().run_in_executor(self.pool, self._predict, body)

    def _predict(self, body: bytes) -> list[Prediction]:
        return self.classifier.predict(decode_request(body))

    # A mistake is a result here: an exception would end the whole batch.
    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=MAX_BATCH_WAIT_S)
    async def _in_batches(self, bodies: list[bytes]) -> list[list[Prediction] | BadInput]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self.classifier.predict_batch, bodies)


def bound(settings: Settings) -> serve.Application:
    """Return the application with as many replicas and threads as asked for."""
    replicas = MobileNet.options(
        num_replicas=settings.workers, ray_actor_options={"num_cpus": settings.threads}
    )
    return replicas.bind(settings)


def application(_: dict[str, str]) -> serve.Application:
    """Return the application for a cluster that is there already; rayservice.yaml names this function."""
    return bound(Settings.from_env())
