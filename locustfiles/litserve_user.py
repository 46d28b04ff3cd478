"""LitServe under load: `locust -f locustfiles/litserve_user.py --shape poisson --rate 50`."""

from locustfiles.engine import PredictUser


class LitserveUser(PredictUser):
    """A caller of services/litserve."""

    service = "litserve"
