"""FastAPI under load: `locust -f locustfiles/fastapi_user.py --shape poisson --rate 50`."""

from locustfiles.engine import PredictUser


class FastapiUser(PredictUser):
    """A caller of services/fastapi."""

    service = "fastapi"
