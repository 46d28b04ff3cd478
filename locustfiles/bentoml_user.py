"""BentoML under load: `locust -f locustfiles/bentoml_user.py --shape poisson --rate 50`."""

from locustfiles.engine import PredictUser


class BentomlUser(PredictUser):
    """A caller of services/bentoml."""

    service = "bentoml"
