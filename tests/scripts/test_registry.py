"""Images in a registry: pushed, named there, and taken from there by a run."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from scripts.cluster import images, registry
from scripts.errors import CannotRun, UserError
from scripts.places import Wish, furnish, labelled
from tests.scripts.docker_machine import Machine

TAG = images.version()


def push(machine: Machine, to: str, names: Sequence[str] = ("a",)) -> dict[str, str]:
    machine.build(*names)
    return registry.push(machine.project, images.find_images(machine.project, names), to, machine.console)


def place_images(machine: Machine, of: str) -> dict[str, str]:
    """What a run of backend `a` takes from a registry."""
    services = [machine.project.services()["a"]]
    place = furnish(machine.project, "cluster", Wish("cluster", "c", of), services, machine.console)
    return dict(place.images)


class TestTheNameInARegistry:
    @pytest.mark.parametrize(
        ("where", "name"),
        [
            ("registry.example/lab", "registry.example/lab/modelswarm/x:1"),
            ("registry.example:5000/", "registry.example:5000/modelswarm/x:1"),
            ("localhost", "localhost/modelswarm/x:1"),
            ("docker.io/me", "docker.io/me/modelswarm-x:1"),
            ("index.docker.io/me/", "docker.io/me/modelswarm-x:1"),
            ("me", "docker.io/me/modelswarm-x:1"),
        ],
    )
    def test_keeps_folders_where_there_are_any(self, where: str, name: str) -> None:
        assert registry.named(where, "modelswarm/x:1") == name

    @pytest.mark.parametrize("where", ["docker.io", "docker.io/me/further"])
    def test_on_docker_hub_needs_an_account(self, where: str) -> None:
        with pytest.raises(UserError, match=f"{where} is not an account on Docker Hub; write docker.io/ACC"):
            registry.named(where, "modelswarm/x:1")


class TestPushing:
    def test_gives_the_reference_by_digest(self, machine: Machine) -> None:
        references = push(machine, "registry.example/lab/")
        assert references["a"] == "registry.example/lab/team/a@sha256:abc"

    def test_to_docker_hub_gives_the_reference_with_its_host(self, machine: Machine) -> None:
        # Docker itself leaves the host out, as kubelets of other makes must not.
        assert push(machine, "docker.io/me")["a"] == "docker.io/me/team-a@sha256:abc"

    def test_of_what_is_not_built_says_what_builds_it(self, machine: Machine) -> None:
        chosen = images.find_images(machine.project, ["a"])
        with pytest.raises(CannotRun, match="is not built: run `modelswarm images build` first"):
            registry.push(machine.project, chosen, "registry.example", machine.console)

    def test_that_is_refused_says_to_log_in(self, machine: Machine) -> None:
        machine.build("a")
        (machine.state / "fault").touch()
        chosen = images.find_images(machine.project, ["a"])
        with pytest.raises(CannotRun, match="The registry refused: `docker login` to it first"):
            registry.push(machine.project, chosen, "registry.example", machine.console)


class TestARunInACluster:
    def test_takes_what_was_pushed_by_its_digest(self, machine: Machine) -> None:
        push(machine, "registry.example/lab")
        assert place_images(machine, "registry.example/lab/") == {
            f"modelswarm/locust:{TAG}": "registry.example/lab/modelswarm/locust@sha256:abc",
            f"team/a:{TAG}": "registry.example/lab/team/a@sha256:abc",
        }
        assert "By tag" not in machine.output.getvalue()

    def test_keeps_what_was_pushed_to_several_registries_apart(self, machine: Machine) -> None:
        push(machine, "one.example")
        push(machine, "two.example")
        assert place_images(machine, "one.example")[f"team/a:{TAG}"] == "one.example/team/a@sha256:abc"

    def test_takes_what_was_pushed_elsewhere_by_its_tag_and_says_so(self, machine: Machine) -> None:
        assert place_images(machine, "registry.example")[f"team/a:{TAG}"] == f"registry.example/team/a:{TAG}"
        assert "By tag, the model inside not verified: locust, a." in machine.output.getvalue()

    def test_refuses_what_was_pushed_with_another_model(self, machine: Machine) -> None:
        push(machine, "registry.example")
        manifest = machine.project.model_dir / "manifest.json"
        manifest.write_text(json.dumps({"digest": "sha256:456"}))
        sentence = (
            "was pushed with the model sha256:123, and the export is sha256:456: run `modelswarm images"
        )
        with pytest.raises(CannotRun, match=sentence):
            place_images(machine, "registry.example")


class TestAFrameworkThatHasAStandIn:
    @pytest.mark.parametrize("official", [False, True])
    @pytest.mark.parametrize("target", ["kind", "cluster"])
    def test_is_told_and_ranked_by_the_label_of_its_image(
        self, machine: Machine, target: str, official: bool
    ) -> None:
        folder = machine.project.root / "services" / "a"
        (folder / "Dockerfile").write_text("FROM x\nLABEL stand_in=true\n")
        (folder / images.OFFICIAL).write_text("FROM y\nLABEL stand_in=false\n")
        facts = (folder / "service.toml").read_text()
        (folder / "service.toml").write_text(facts.replace("port = 8000", "port = 8000\nstand_in = true"))
        chosen = images.find_images(machine.project, ["a"])
        images.build(machine.project, chosen, machine.console, official=official)
        wish = Wish(target, registry="registry.example")
        if target == "cluster":
            registry.push(machine.project, chosen, "registry.example", machine.console)
        [service] = labelled(machine.project, target, wish, [machine.project.services()["a"]])
        assert service.is_stand_in(target) is not official
