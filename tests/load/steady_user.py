"""Calls steady_server.py as if it were a model server of the code-based frameworks."""

from typing import Any

from locustfiles.engine import PredictUser


class SteadyUser(PredictUser):
    """Its port always comes from --host."""

    @classmethod
    def facts(cls) -> dict[str, Any]:
        return {"port": 1, "predict_path": "/predict"}
