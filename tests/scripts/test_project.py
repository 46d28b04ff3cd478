from __future__ import annotations

from pathlib import Path

import pytest

from scripts.errors import UserError
from scripts.project import Project, find_root

GOOD = """
title = "Some"
version = "1"
protocol = "predict"
port = 8000
predict_path = "/predict"
ready_path = "/health"
[local]
command = ["{python}", "server.py"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "services" / "some").mkdir(parents=True)
    (tmp_path / "services" / "model").mkdir()
    (tmp_path / "locustfiles").mkdir()
    (tmp_path / "locustfiles" / "some_user.py").write_text("")
    (tmp_path / "services" / "some" / "service.toml").write_text(GOOD)
    return Project(tmp_path)


class TestDiscovery:
    def test_finds_each_folder_with_a_service_toml(self, project: Project) -> None:
        assert list(project.services()) == ["some"]

    def test_runs_on_the_load_sides_python_without_requirements(self, project: Project) -> None:
        assert project.services()["some"].environment is None
        assert project.services()["some"].missing() is None

    def test_names_the_command_that_makes_an_environment(self, project: Project) -> None:
        (project.root / "services" / "some" / "requirements.txt").write_text("a==1")
        assert (
            project.services()["some"].missing() == "its environment is missing: run `modelswarm setup some`"
        )

    def test_names_the_user_file_that_is_missing(self, project: Project) -> None:
        (project.root / "locustfiles" / "some_user.py").unlink()
        assert project.services()["some"].missing() == "locustfiles/some_user.py is not there"

    def test_takes_the_python_that_service_toml_names(self, project: Project) -> None:
        folder = project.root / "services" / "some"
        (folder / "requirements.txt").write_text("a==1")
        (folder / "service.toml").write_text('python = "3.10"\n' + GOOD)
        environment = project.services()["some"].environment
        assert environment is not None
        assert environment.python == "3.10"

    def test_suggests_the_nearest_name(self, project: Project) -> None:
        with pytest.raises(UserError, match=r"There is no backend 'sme'; did you mean 'some'\?"):
            project.select(["sme"])


class TestAServiceTomlThatIsWrong:
    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("port = 8000", "prot = 8000", "there is no key 'prot'; did you mean"),
            ("port = 8000", 'port = "8000"', "port = '8000' must be of the kind int"),
            ('title = "Some"', "", "lacks"),
            ('title = "Some"', "", "'title'"),
            ('"/health"', '"health"', "the path 'health' must begin with a slash"),
            ("command", "comand", "[local]: there is no key 'comand'; did you mean 'command'?"),
            ('command = ["{python}", "server.py"]', "", "[local] needs `command`, for example"),
            ("port = 8000", "port = = 8000", "cannot be read"),
        ],
    )
    def test_is_named_with_the_key(self, project: Project, old: str, new: str, sentence: str) -> None:
        (project.root / "services" / "some" / "service.toml").write_text(GOOD.replace(old, new))
        with pytest.raises(UserError) as caught:
            project.services()
        assert "services/some/service.toml" in str(caught.value)
        assert sentence in str(caught.value)


class TestTheRoot:
    def test_is_the_option_then_the_variable_then_a_parent(self, project: Project, root: Path) -> None:
        inside = project.root / "services" / "some"
        assert find_root(project.root, {"MODELSWARM_ROOT": str(root)}, Path("/")) == project.root
        assert find_root(None, {"MODELSWARM_ROOT": str(project.root)}, root) == project.root
        assert find_root(None, {}, inside) == project.root

    def test_is_the_packages_own_elsewhere(self, root: Path) -> None:
        assert find_root(None, {}, Path("/")) == root

    def test_that_is_no_project_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="it must hold the folders services and locustfiles"):
            find_root(tmp_path, {}, Path("/"))
