"""Triton under load: `locust -f locustfiles/triton_user.py --shape poisson --rate 50 [--protocol grpc]`."""

from locustfiles.engine import ModelUser
from locustfiles.engine.v2 import V2Binary, V2Grpc


class Grpc(V2Grpc):
    """The image in a batch of one."""

    shape = (1, 1)


class TritonUser(V2Binary, ModelUser):
    """A caller of services/triton: binary tensors over HTTP, or gRPC."""

    service = "triton"
    shape = (1, 1)
    protocols = {"grpc": Grpc}  # noqa: RUF012  # as Locust users have their settings
