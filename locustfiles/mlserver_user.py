"""MLServer under load: `locust -f locustfiles/mlserver_user.py --rate 50 [--protocol grpc]`."""

from collections.abc import Mapping
from typing import ClassVar

from locustfiles.engine import ModelUser
from locustfiles.engine.protocols import Protocol
from locustfiles.engine.v2 import V2Grpc, V2Json


class MlserverUser(V2Json, ModelUser):
    """A caller of services/mlserver."""

    service = "mlserver"
    protocols: ClassVar[Mapping[str, Protocol]] = {"grpc": V2Grpc}
