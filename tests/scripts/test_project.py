from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.errors import UserError
from scripts.project import Project, Service, find_root

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

    @pytest.mark.parametrize(
        ("version", "wanted"),
        [((3, 11), None), ((3, 12), None), ((3, 13), ">=3.11,<3.13"), ((3, 14), ">=3.11,<3.13")],
    )
    def test_takes_an_older_python_where_there_are_no_wheels_for_the_current_one(
        self, project: Project, version: tuple[int, int], wanted: str | None
    ) -> None:
        (project.root / "services" / "some" / "service.toml").write_text('python_below = "3.13"\n' + GOOD)
        assert project.services()["some"].facts.wanted_python(version) == wanted

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
            ("[local]", "[protocols.predict]\n[local]", "is the framework's own protocol: leave it out"),
            ("[local]", "[protocols.v2]\npath = 'v2'\n[local]", "the path 'v2' must begin with a slash"),
            ("[local]", "[protocols.v2]\nprt = 1\n[local]", "[protocols.v2]: there is no key 'prt'; did you"),
            ("[local]", "[protocols.V2]\n[local]", "'V2' must be of small letters, digits and underscores"),
            ("[local]", "protocols = 3\n[local]", "protocols = 3 must be a table [protocols]"),
            ("port = 8000", "port = 8000\npython_below = '4'", 'must be a version such as "3.13"'),
            ("[local]", "[options]\nfast = true\n[local]", "[options.fast] must be a table"),
            ("[local]", "[options.fast]\ndefault = true\n[local]", "[options.fast] lacks"),
            (
                "[local]",
                "[options.fast]\ndefault = []\nhelp = 'x'\nenv = 'X'\n[local]",
                "[options.fast]: default = [] must be of the kind OptionValue",
            ),
            (
                "[local]",
                "[options.protocol]\ndefault = 1\nhelp = 'x'\nenv = 'X'\n[local]",
                "every framework has the option 'protocol'",
            ),
            (
                "[local]",
                "[options.mode]\ndefault = 'a'\nhelp = 'x'\nenv = 'X'\nchoices = ['b', 'c']\n[local]",
                "[options.mode] takes b or c, not 'a'",
            ),
            (
                "[local]",
                "[options.workers]\ndefault = 1\nhelp = 'x'\nenv = 'X'\nmemory_each = '400M'\n[local]",
                "[options.workers]: memory_each = '400M' must be such as",
            ),
            (
                "[local]",
                "[options.fast]\ndefault = true\nhelp = 'x'\nenv = 'X'\nmemory_each = '1Gi'\n[local]",
                '[options.fast]: memory_each = \'1Gi\' must be such as "512Mi" or "1Gi", and goes with',
            ),
            ("port = 8000", "port = 8000\nready_port = 'inner'", "ready_port = 'inner'; there are none here"),
        ],
    )
    def test_is_named_with_the_key(self, project: Project, old: str, new: str, sentence: str) -> None:
        (project.root / "services" / "some" / "service.toml").write_text(GOOD.replace(old, new))
        with pytest.raises(UserError) as caught:
            project.services()
        assert "services/some/service.toml" in str(caught.value)
        assert sentence in str(caught.value)


OPTIONS = """
[protocols.grpc]
port = 8001
[protocols.v2]
path = "/v2/infer"
[options.batching]
default = false
help = "Batch."
env = "MODELSWARM_BATCHING"
[options.workers]
default = 1
help = "Processes."
env = "MODELSWARM_WORKERS"
not_held = "ran {value} processes on the cores of one"
[options.mode]
default = "fast"
help = "How."
env = "MODE"
choices = ["fast", "safe"]
"""


@pytest.fixture
def some(project: Project) -> Service:
    (project.root / "services" / "some" / "service.toml").write_text(GOOD + OPTIONS)
    return project.services()["some"]


class TestAVariant:
    def test_is_named_after_what_was_chosen(self, project: Project, some: Service) -> None:
        asked = ["some", "some+batching", "some+workers=2+batching=true", "some+mode=safe+protocol=grpc"]
        chosen = project.select(asked)
        assert [service.key for service in chosen] == [
            "some",
            "some+batching",
            "some+batching+workers=2",
            "some+mode=safe+protocol=grpc",
        ]
        assert [service.title for service in chosen] == [
            "Some",
            "Some (batching)",
            "Some (batching, workers=2)",
            "Some (mode=safe, grpc)",
        ]

    def test_that_chooses_the_defaults_is_the_framework_itself(self, project: Project, some: Service) -> None:
        same = "some+batching=false+workers=1+mode=fast+protocol=predict"
        assert [service.key for service in project.select([same, "some"])] == ["some"]

    def test_tells_the_server_every_option(self, some: Service) -> None:
        assert some.variables == {
            "MODELSWARM_BATCHING": "false",
            "MODELSWARM_WORKERS": "1",
            "MODE": "fast",
        }
        chosen = some.variant({"batching": True, "workers": 3})
        assert chosen.variables == {"MODELSWARM_BATCHING": "true", "MODELSWARM_WORKERS": "3", "MODE": "fast"}

    def test_speaks_the_frameworks_own_protocol_unless_told_otherwise(self, some: Service) -> None:
        assert (some.protocol, some.user_protocol) == ("predict", "")
        grpc = some.variant({"protocol": "grpc"})
        assert (grpc.protocol, grpc.user_protocol) == ("grpc", "grpc")

    def test_says_what_its_options_make_unequal(self, some: Service) -> None:
        assert some.not_held == []
        assert some.variant({"batching": True}).not_held == []
        assert some.variant({"workers": 2, "protocol": "v2"}).not_held == [
            "Some (workers=2, v2) ran 2 processes on the cores of one."
        ]

    def test_is_told_by_run_json_with_its_options(self, some: Service) -> None:
        told = some.variant({"workers": "2", "protocol": "v2"}).describe()
        assert told["backend"] == "some"
        assert told["options"] == {"workers": 2, "protocol": "v2"}
        assert (told["title"], told["protocol"], told["kind"], told["note"]) == (
            "Some (workers=2, v2)",
            "v2",
            "image",
            "",
        )

    @pytest.mark.parametrize(
        ("key", "sentence"),
        [
            ("some+batchin", "some has no option 'batchin'; did you mean 'batching'?"),
            ("some+xyz", "some has no option 'xyz'; valid are: batching, mode, protocol, workers"),
            ("some+protocol=grcp", "some does not speak 'grcp'; did you mean 'grpc'?"),
            ("some+protocol=soap!", "some does not speak 'soap!'; valid are: grpc, predict, v2"),
            ("some+protocol", "some does not speak True; valid are: grpc, predict, v2"),
            ("some+workers=many", "option workers of some takes a whole number from 1, not 'many'"),
            ("some+workers=0", "option workers of some takes a whole number from 1, not '0'"),
            ("some+workers", "option workers of some takes a whole number from 1, not True"),
            ("some+batching=2", "option batching of some takes true or false, not '2'"),
            ("some+mode=slow", "option mode of some takes fast or safe, not 'slow'"),
            ("some+", "some has no option ''; valid are"),
        ],
    )
    def test_that_is_not_there_is_refused(
        self, project: Project, some: Service, key: str, sentence: str
    ) -> None:
        with pytest.raises(UserError) as caught:
            project.select([key])
        assert sentence in str(caught.value)
        assert caught.value.exit_code == 2


class TestAStandIn:
    def test_is_none_where_the_real_program_is_on_path(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = 'stand_in = true\nstand_in_unless = "real-server"\n'
        (project.root / "services" / "some" / "service.toml").write_text(lines + GOOD)
        assert project.services()["some"].describe()["stand_in"]
        program = project.root / "real-server"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(project.root))
        assert not project.services()["some"].describe()["stand_in"]
        assert project.services()["some"].describe("kind")["stand_in"]  # its image does not hold the program


class TestAProgramThatIsNeeded:
    def test_and_not_there_is_named_with_what_to_install(self, project: Project) -> None:
        needs = 'needs = { no-such-java = "Java 17 (`apt-get install openjdk-17-jre-headless`)" }'
        (project.root / "services" / "some" / "service.toml").write_text(GOOD + needs)
        assert project.services()["some"].missing() == (
            "`no-such-java` is not on PATH: install Java 17 (`apt-get install openjdk-17-jre-headless`)"
        )

    def test_by_an_option_alone_is_missed_where_that_is_chosen(self, project: Project) -> None:
        option = '[options.batching]\ndefault = false\nhelp = "x"\nenv = "X"\nneeds = { no-such = "such" }\n'
        (project.root / "services" / "some" / "service.toml").write_text(GOOD + option)
        assert project.services()["some"].missing() is None
        (batching,) = project.select(["some+batching"])
        assert batching.missing() == "`no-such` is not on PATH: install such"

    @pytest.fixture
    def java(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
        """Puts a Java of some version into a folder, and has `some` ask for 17."""
        table = '[local.needs.java]\ninstall = "Java 17"\nhome = "SOME_HOME"\nversion = 17\n'
        (project.root / "services" / "some" / "service.toml").write_text(GOOD + table)
        monkeypatch.delenv("SOME_HOME", raising=False)

        def put(folder: str, says: str) -> Path:
            program = project.root / folder / "bin" / "java"
            program.parent.mkdir(parents=True)
            program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
            program.chmod(0o755)
            monkeypatch.setenv("PATH", str(program.parent))
            return program

        return put

    @pytest.mark.parametrize(
        ("says", "found"),
        [
            ('openjdk version "17.0.2" 2022-01-18', None),
            ('java version "21" 2023-09-19', None),
            ('openjdk version "11.0.22" 2024-01-16', "is of version 11"),
            ('java version "1.8.0_392"', "is of version 8"),
            ("No Java runtime present", "names no version"),
        ],
    )
    def test_and_too_old_is_named_with_its_version(
        self, project: Project, java: Callable[[str, str], Path], says: str, found: str | None
    ) -> None:
        program = java("some", says)
        reason = project.services()["some"].missing()
        assert (reason is None) == (found is None)
        assert found is None or (found in str(reason) and str(program) in str(reason))
        assert found is None or str(reason).endswith(": install Java 17")

    def test_is_looked_for_where_its_own_variable_says(
        self, project: Project, java: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new = java("old", 'version "11.0.1"'), java("new", 'version "17.0.1"')
        assert project.services()["some"].missing() is None
        monkeypatch.setenv("SOME_HOME", str(old.parents[1]))
        assert project.services()["some"].missing() == f"`{old}` is of version 11: install Java 17"
        monkeypatch.setenv("PATH", str(old.parent))
        monkeypatch.setenv("SOME_HOME", str(new.parents[1]))
        assert project.services()["some"].missing() is None
        monkeypatch.setenv("SOME_HOME", "/nowhere")
        assert project.services()["some"].missing() == "SOME_HOME=/nowhere has no `bin/java`: install Java 17"

    def test_is_told_in_words_or_in_a_table(self, project: Project) -> None:
        (project.root / "services" / "some" / "service.toml").write_text(GOOD + "needs = { java = 17 }")
        with pytest.raises(UserError, match=r"\[local\.needs\.java\] must be"):
            project.services()


class TestALibraryThatIsNeeded:
    @pytest.mark.parametrize(
        ("library", "reason"),
        [
            ("libc.so.6", None),
            (
                "libno-such.so.1",
                "libno-such.so.1 is not here: install Debian's such (`apt-get install such`)",
            ),
        ],
    )
    @pytest.mark.skipif(sys.platform != "linux", reason="libraries have other names elsewhere")
    def test_and_not_there_is_named_with_what_to_install(
        self, project: Project, library: str, reason: str | None
    ) -> None:
        libraries = f'libraries = {{ "{library}" = "Debian\'s such (`apt-get install such`)" }}'
        (project.root / "services" / "some" / "service.toml").write_text(GOOD + libraries)
        assert project.services()["some"].missing() == reason


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
