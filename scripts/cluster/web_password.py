"""The password of the web UI in a cluster."""

from __future__ import annotations

import json
import os
import secrets

from scripts.project import Project

USER = "locust"


def web_password(project: Project) -> str:
    """Return the web UI's password, made on the first call; it lies where only this user reads it."""
    file = project.root / "artifacts" / "web-login.json"
    try:
        return str(json.loads(file.read_text())["password"])
    except (OSError, ValueError, KeyError):
        file.parent.mkdir(exist_ok=True)
        password = secrets.token_urlsafe(12)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump({"user": USER, "password": password}, stream)
        return password
