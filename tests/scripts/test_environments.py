from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from scripts.environments import Environment, advice, pip_settings, run_step, uv_environment
from scripts.errors import CannotRun
from scripts.lock import portable


def environ_with(tmp_path: Path, config: str, **variables: str) -> dict[str, str]:
    file = tmp_path / "pip.conf"
    file.write_text(config)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_")) and k != "SSL_CERT_FILE"}
    return kept | {"PIP_CONFIG_FILE": str(file)} | variables


class TestPipsSettings:
    def test_are_read_from_its_files_and_variables_and_variables_win(self, tmp_path: Path) -> None:
        config = "[global]\nindex-url = https://one.invalid/simple\ncert = /ca.pem\n"
        environ = environ_with(tmp_path, config, PIP_INDEX_URL="https://two.invalid/simple")
        settings = pip_settings(environ)
        assert settings["index-url"] == "https://two.invalid/simple"
        assert settings["cert"] == "/ca.pem"

    def test_for_install_win_over_global_ones(self, tmp_path: Path) -> None:
        config = "[install]\nindex-url = https://one.invalid\n[global]\nindex-url = https://two.invalid\n"
        assert pip_settings(environ_with(tmp_path, config))["index-url"] == "https://one.invalid"

    def test_become_uvs_variables(self, tmp_path: Path) -> None:
        config = (
            "[global]\nfind-links = /wheels\n  /more wheels\nextra-index-url = https://a.invalid\n  https://b.invalid\n"
            "cert = /ca.pem\ntrusted-host = a.invalid\n"
        )
        environ = environ_with(tmp_path, config)
        variables = uv_environment(environ, pip_settings(environ))
        assert variables["UV_FIND_LINKS"] == "/wheels,/more,wheels"
        assert variables["UV_INDEX"] == "https://a.invalid https://b.invalid"
        assert variables["SSL_CERT_FILE"] == "/ca.pem"
        assert variables["UV_INSECURE_HOST"] == "a.invalid"
        assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"

    def test_do_not_override_what_the_user_set_for_uv(self) -> None:
        pip = {"index-url": "https://pip.invalid", "extra-index-url": "https://more.invalid"}
        environ = {"UV_DEFAULT_INDEX": "https://uv.invalid", "UV_EXTRA_INDEX_URL": "https://old-name.invalid"}
        variables = uv_environment(environ, pip)
        assert variables["UV_DEFAULT_INDEX"] == "https://uv.invalid"
        assert "UV_INDEX" not in variables

    def test_that_name_no_source_leave_torch_to_its_cpu_builds(self) -> None:
        assert uv_environment({}, {})["UV_TORCH_BACKEND"] == "cpu"
        assert uv_environment({"UV_TORCH_BACKEND": "auto"}, {})["UV_TORCH_BACKEND"] == "auto"

    @pytest.mark.parametrize("name", ["find-links", "index-url", "extra-index-url"])
    def test_that_name_a_source_are_trusted_for_torch_too(self, name: str) -> None:
        assert "UV_TORCH_BACKEND" not in uv_environment({}, {name: "https://mirror.invalid"})


class TestAnEnvironment:
    @pytest.fixture
    def environment(self, tmp_path: Path) -> Environment:
        (tmp_path / "requirements.txt").write_text("a==1\n")
        made = Environment("a", tmp_path / ".venvs" / "a", (tmp_path / "requirements.txt",))
        made.interpreter.parent.mkdir(parents=True)
        made.interpreter.symlink_to(sys.executable)
        (made.path / "pyvenv.cfg").write_text("version_info = 3.11.7\n")
        made.write_stamp()
        return made

    def test_with_a_stamp_is_fresh(self, environment: Environment) -> None:
        assert environment.state() == "fresh"

    def test_that_is_not_there_is_missing(self, tmp_path: Path) -> None:
        assert Environment("b", tmp_path / "b", ()).state() == "missing"

    def test_without_a_stamp_is_half_made(self, environment: Environment) -> None:
        (environment.path / "modelswarm.json").unlink()
        assert environment.state() == "half made"

    def test_with_half_a_stamp_is_half_made(self, environment: Environment) -> None:
        (environment.path / "modelswarm.json").write_text('{"digest": "')
        assert environment.state() == "half made"

    def test_is_outdated_after_its_requirements_changed(self, environment: Environment) -> None:
        environment.requirements[0].write_text("a==2\n")
        assert environment.state() == "outdated"

    def test_is_outdated_when_another_python_is_asked_for(self, environment: Environment) -> None:
        other = Environment("a", environment.path, environment.requirements, python="3.12")
        assert other.state() == "outdated"

    def test_is_outdated_when_its_python_was_replaced_or_removed(self, environment: Environment) -> None:
        (environment.path / "pyvenv.cfg").write_text("version = 3.12.1\n")
        assert environment.state() == "outdated"
        environment.write_stamp()
        environment.interpreter.unlink()
        environment.interpreter.symlink_to("/gone/python")
        assert environment.state() == "outdated"


class TestAStepThatFails:
    @pytest.mark.parametrize(
        ("output", "sentence"),
        [
            ("error: failed to write: No space left on device (os error 28)", "The disk is full."),
            ("No module named venv", "apt-get install python3-venv"),
            ("ensurepip is not available", "apt-get install python3-venv"),
            (
                "error: Request failed\n  Caused by: dns error: failed to lookup",
                "No package index could be reached.",
            ),
            ("error sending request for url (https://…)", "No package index could be reached."),
            ("No solution found when resolving dependencies", "`make lock`"),
            (
                "error: No interpreter found for Python 3.10",
                "The Python that service.toml names is not here.",
            ),
            ("error: Permission denied (os error 13)", "cannot be written by this user"),
            (
                'ERROR: failed to create cluster: failed to pull image "kindest/node@sha256:a1ed": …'
                "\ndial tcp: lookup registry-1.docker.io: no such host",
                "name one that is here (KIND_NODE_IMAGE=…)",
            ),
        ],
    )
    def test_says_what_to_do(self, output: str, sentence: str) -> None:
        assert sentence in advice(output)

    def test_quotes_the_tool(self) -> None:
        said: list[str] = []
        command = [sys.executable, "-c", "print('No space left on device'); raise SystemExit(2)"]
        with pytest.raises(
            CannotRun, match=r"(?s)The disk is full.*ended with 2 and said:\nNo space left"
        ) as caught:
            run_step(command, os.environ, said.append)
        assert caught.value.exit_code == 3
        assert said == ["No space left on device"]

    def test_names_a_tool_that_is_not_there(self) -> None:
        with pytest.raises(CannotRun, match="/no/such/uv"):
            run_step(["/no/such/uv"], os.environ, print)


class TestBootstrap:
    def test_tells_an_old_python_which_one_is_needed(self, root: Path) -> None:
        script = (
            "import sys, shutil; sys.version_info = (3, 9, 18); shutil.which = lambda name: None\n"
            "from scripts import bootstrap; sys.exit(bootstrap.main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 3
        assert "needs Python 3.11 or newer" in done.stderr
        assert "is 3.9" in done.stderr
        assert "make setup PYTHON=" in done.stderr


class TestPins:
    def test_drop_local_versions_only(self) -> None:
        pinned = "torch==2.13.0+cpu ; sys_platform == 'linux'\nnumpy==2.4.6\n"
        assert portable(pinned) == "torch==2.13.0 ; sys_platform == 'linux'\nnumpy==2.4.6\n"

    def test_hold_everything_that_pyproject_asks_for(self, root: Path) -> None:
        asked = tomllib.loads((root / "pyproject.toml").read_text())

        def names(lines: Iterable[str]) -> set[str]:
            return {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in lines}

        pinned = names((root / "requirements.txt").read_text().splitlines())
        assert names(asked["project"]["dependencies"]) <= pinned
        pinned_for_development = names((root / "requirements-dev.txt").read_text().splitlines())
        assert names(asked["dependency-groups"]["dev"]) <= pinned_for_development
