"""The test server under load."""

from locustfiles.engine import PredictUser


class EchoXUser(PredictUser):
    """A caller of services/echo_x."""

    service = "echo_x"
