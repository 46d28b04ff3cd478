"""Ray Serve under load: `locust -f locustfiles/ray_serve_user.py --shape poisson --rate 50`."""

from locustfiles.engine import PredictUser


class RayServeUser(PredictUser):
    """A caller of services/ray_serve."""

    service = "ray_serve"
