"""Locust's web UI behind its own login page: one user, whose password is in the environment or in a file.

Given to Locust beside a user file, with --web-login:

    MODELSWARM_WEB_PASSWORD=… locust -f locustfiles/fastapi_user.py,locustfiles/web_login.py --web-login

In a cluster the password is a file of a Secret, which MODELSWARM_WEB_PASSWORD_FILE names.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from flask import Blueprint, redirect, request, session, url_for
from flask_login import UserMixin, login_user
from locust import events
from locust.env import Environment
from werkzeug.wrappers import Response

PASSWORD = "MODELSWARM_WEB_PASSWORD"
PASSWORD_FILE = "MODELSWARM_WEB_PASSWORD_FILE"
NAME = "locust"


class OneUser(UserMixin):  # type: ignore[misc]  # flask_login ships no types
    """The only one there is."""

    id = NAME


def protect(environment: Environment, **_: Any) -> None:
    """Ask for the password before anything of the web UI is shown."""
    web_ui, options = environment.web_ui, environment.parsed_options
    if web_ui is None or options is None or not options.web_login:
        return
    password = _password()
    assert web_ui.app is not None
    web_ui.app.config["SECRET_KEY"] = secrets.token_hex()
    web_ui.login_manager.user_loader(lambda name: OneUser() if name == NAME else None)
    pages = Blueprint("modelswarm_login", __name__)

    @pages.route("/check-login", methods=["POST"])
    def check_login() -> Response:
        name, given = request.form.get("username", ""), request.form.get("password", "")
        if name == NAME and hmac.compare_digest(given.encode(), password.encode()):
            login_user(OneUser())
            session.pop("auth_error", None)
            return redirect(url_for("locust.index"))
        session["auth_error"] = f"Wrong: the user is {NAME!r}, the password is in the Secret locust-web."
        return redirect(url_for("locust.login"))

    web_ui.app.register_blueprint(pages)
    web_ui.auth_args = {"username_password_callback": "/check-login"}


def _password() -> str:
    """Return the password; without one Locust ends, so that its web UI never stands open."""
    password, file = os.environ.get(PASSWORD, ""), os.environ.get(PASSWORD_FILE, "")
    if not password and file:
        try:
            password = Path(file).read_text().strip()
        except OSError as error:
            sys.exit(f"--web-login needs a password: {PASSWORD_FILE} names a file that is not read: {error}")
    if not password:
        sys.exit(f"--web-login needs a password: set the variable {PASSWORD}, or {PASSWORD_FILE}.")
    return password


events.init.add_listener(protect)
