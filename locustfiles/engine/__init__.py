"""Open-loop load for Locust: planned arrivals, honest latency, exact percentiles.

Importing this package adds the engine's options to Locust; deriving a user from `ArrivalUser` paces it.
"""

from locustfiles.engine import plugin as _plugin  # noqa: F401  # registers the options and event listeners
from locustfiles.engine.protocols import GrpcProtocol, HttpProtocol
from locustfiles.engine.users import ArrivalUser, ModelUser, PredictUser

__all__ = ["ArrivalUser", "GrpcProtocol", "HttpProtocol", "ModelUser", "PredictUser"]
