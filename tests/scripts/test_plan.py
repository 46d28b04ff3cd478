from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.errors import UserError
from scripts.plan import Plan, read_plan, shipped_plans, steps

GOOD = """
trials = 2
objectives = ["p95 < 500ms"]
[[scenario]]
name = "steady"
rate = 20
run_time = "30s"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        read_plan(written(folder, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


class TestAPlanThatIsWrong:
    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("tirals = 3", "there is no key 'tirals'; did you mean 'trials'?"),
            ("trials = 0", "trials = 0: write 1 or more"),
            ('trials = "many"', "trials = 'many': write a whole number"),
            ("seed = -1", "seed = -1: write 0 or more"),
            (
                "seed = 9223372036854775807",
                "seed = 9223372036854775807: write 9223372036854774 or less",
            ),
            ("threads = 0", "threads = 0: write 1 or more"),
            ("price_cpu = inf", "price_cpu = inf: write a number that is finite"),
            ('warmup = "soon"', "warmup: 'soon' is not a time span: write 20, 1.5s, 250ms, 2m or 1h20m"),
            ("warmup = true", "warmup = True: write a text in quotes"),
            ('margin = "five"', "margin: 'five' is not a share: write for example \"5%\""),
            ('name = "my plan"', "name = 'my plan': write letters, digits, `.`, `_` and `-`, the first a"),
            ('objectives = ["p95 is fine"]', "'p95 is fine' is not an objective: write METRIC < VALUE"),
            ('objectives = ["p95 < 500"]', "the value has no unit; write p95 with a value such as 200ms"),
            ('objectives = ["errors < 1%"]', "did you mean error_rate?"),
            ("backends = 3", 'backends = 3: write a list: ["…"]'),
            ('backends = "fastapi"', "backends = 'fastapi': write a list: [\"…\"]"),
            ('objectives = "p95 < 1s"', "objectives = 'p95 < 1s': write a list: [\"…\"]"),
            ("backends = [3]", "backends.0 = 3: write a text in quotes"),
            ("backends = [{}]", "a backend has a name and a table of options; write for example {backend = "),
            (
                'backends = [{name = "a"}]',
                "there is no key 'name' in a backend; write for example {backend =",
            ),
            (
                'backends = [{backend = "a", options = {x = []}}]',
                "the option x = [] must be a number, a text, true or false",
            ),
        ],
    )
    def test_is_refused_with_what_to_write_instead(self, tmp_path: Path, line: str, sentence: str) -> None:
        good = "\n".join(each for each in GOOD.splitlines() if not each.startswith(line.split(" ")[0]))
        assert sentence in refusal(tmp_path, f"{line}\n{good}")

    @pytest.mark.parametrize("key", set(Plan.model_fields) - {"scenario"})
    @pytest.mark.parametrize("value", ['"?"', '""', "-1", "1.5", "10e99", "inf", "true", "[]", "{}", "[[]]"])
    def test_is_told_so_in_our_words(self, tmp_path: Path, key: str, value: str) -> None:
        scenario = GOOD.partition("\n[[")[2]
        try:
            read_plan(written(tmp_path, f"{key} = {value}\n[[{scenario}"))
        except UserError as error:
            assert re.match(rf"Plan \S+mine.toml: {key}\b", str(error))  # noqa: PT017  # it may be valid
            assert not re.search("[Ii]nput|should|unable", str(error))  # noqa: PT017  # pydantic's words

    @pytest.mark.parametrize(
        ("keys", "sentence"),
        [
            (
                'name = "a"\nrte = 5\nrun_time = "5s"',
                "scenario a: there is no key 'rte'; did you mean 'rate'?",
            ),
            (
                'name = "a"\nshape = "stepp"\nrun_time = "5s"',
                "scenario a: shape: 'stepp' is not known: did you mean",
            ),
            ('name = "a"\nrate = "fast"\nrun_time = "5s"', "scenario a: rate: 'fast' is not an arrival rate"),
            ('name = "a"\nrate = 0\nrun_time = "5s"', 'write a rate above 0, such as rate = "10"'),
            ('name = "a"\nrun_time = "5 parsecs"', "scenario a: run_time: '5 parsecs' is not a time span"),
            ('name = "a"\nrun_time = "1.5s"', "run_time must be whole seconds"),
            ('name = "a"\nrate = 5', 'scenario a: it would never end: write run_time = "30s"'),
            ('name = "a"\nshape = "closed"\narrivals = 5', "it would never end"),
            ('name = "a"\nusers = 0\nrun_time = "5s"', "users must be 1 or more"),
            ('name = "a"\nrecord = "x"\nrun_time = "5s"', "there is no key 'record'"),
            ('name = "a/b"\nrun_time = "5s"', "scenario a/b name = 'a/b': write letters, digits"),
            (
                'rate = 5\nrun_time = "5s"',
                'scenario number 1: `name` is missing: write for example name = "constant"',
            ),
            ('name = "a"\nshape = "spike"\nspike_at = "9s"\nrun_time = "5s"', "write a smaller spike_at"),
        ],
    )
    def test_scenario_is_refused_with_what_to_write_instead(
        self, tmp_path: Path, keys: str, sentence: str
    ) -> None:
        assert sentence in refusal(tmp_path, f"[[scenario]]\n{keys}\n")

    def test_scenario_is_told_once(self, tmp_path: Path) -> None:
        assert "\n" not in refusal(tmp_path, '[[scenario]]\nname = "a"\nrate = 0\nrun_time = "5s"')

    def test_scenario_that_is_no_table_is_refused_with_the_form(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, "scenario = 5").endswith("scenario = 5: write it as a [[scenario]] table")

    def test_without_scenarios_is_refused(self, tmp_path: Path) -> None:
        assert "scenario is missing: write a [[scenario]] table" in refusal(tmp_path, "trials = 1")

    def test_with_two_scenarios_of_one_name_is_refused(self, tmp_path: Path) -> None:
        assert "two scenarios are called 'steady'" in refusal(tmp_path, GOOD + GOOD.partition('ms"]\n')[2])

    def test_that_is_no_toml_is_refused_with_the_line(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(tmp_path, "trials = = 2")
        assert "line 1" in refusal(tmp_path, "trials = = 2")

    def test_that_is_not_there_is_answered_with_the_nearest_name(self) -> None:
        with pytest.raises(UserError, match=r"There is no plan 'quik'; did you mean 'quick'\?"):
            read_plan("quik")
        with pytest.raises(UserError, match=r"There is no plan file nowhere/x.toml"):
            read_plan("nowhere/x.toml")


class TestABackendWithOptions:
    def test_is_written_as_a_table_or_as_on_the_command_line(self, tmp_path: Path) -> None:
        table = '{backend = "a", options = {batching = true, workers = 2}}'
        plan = read_plan(written(tmp_path, f'backends = ["a", {table}, "a+batching"]\n{GOOD}'))
        assert plan.backends == ("a", "a+batching=true+workers=2", "a+batching")

    def test_has_a_folder_of_its_own(self) -> None:
        plan = read_plan("quick", {"trials": 1})
        paths = {step.path for step in steps(plan, ["a", "a+batching"])}
        assert {"a/constant/1", "a+batching/constant/1"} <= paths


class TestAValue:
    def test_may_be_written_as_on_the_command_line(self, tmp_path: Path) -> None:
        plan = read_plan(written(tmp_path, 'margin = "3 %"\nwarmup = 5\n' + GOOD))
        assert (plan.margin, plan.warmup_s) == (0.03, 5)


class TestAPlanFile:
    def test_is_meant_where_its_name_lacks_the_ending(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written(tmp_path, GOOD)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"There is no plan 'mine'; did you mean the file mine\.toml\?"):
            read_plan("mine")

    def test_that_the_system_does_not_give_is_told_in_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        path = written(tmp_path, GOOD)
        monkeypatch.setattr(Path, "read_text", refused)
        with pytest.raises(UserError, match=r"cannot be read: Permission denied\.$"):
            read_plan(path)


class TestTheCommandLine:
    def test_is_named_for_what_is_wrong_in_it(self, tmp_path: Path) -> None:
        path = written(tmp_path, GOOD)
        with pytest.raises(UserError, match=r"^--trials 0: write 1 or more$"):
            read_plan(path, {"trials": 0})
        with pytest.raises(UserError, match=r"^--objective: 'fast' is not an objective"):
            read_plan(path, {"objectives": ["fast"]})

    def test_wins_over_the_plan(self, tmp_path: Path) -> None:
        plan = read_plan(written(tmp_path, GOOD), {"trials": 5, "seed": None, "objectives": ("p99 < 1s",)})
        assert (plan.trials, plan.seed, plan.objectives) == (5, 1, ("p99 < 1s",))

    def test_is_checked_like_the_plan(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not an objective"):
            read_plan(written(tmp_path, GOOD), {"objectives": ["fast"]})

    def test_chooses_scenarios_by_name(self) -> None:
        plan = read_plan("shapes").with_scenarios(["spike"])
        assert [scenario.name for scenario in plan.scenario] == ["spike"]
        with pytest.raises(UserError, match=r"has no scenario 'spkie'; did you mean 'spike'\?"):
            read_plan("shapes").with_scenarios(["spkie"])


class TestARecording:
    def test_is_looked_for_beside_the_plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "times.csv").write_text("0.5\n2.5\n")
        lines = ('name = "a"', 'shape = "replay"', 'replay = "times.csv"', 'run_time = "4s"')
        path = written(tmp_path, "\n".join(["[[scenario]]", *lines]))
        monkeypatch.chdir("/")
        (scenario,) = read_plan(path).scenario
        assert scenario.options["replay"] == str(tmp_path / "times.csv")


class TestALoadThatManyArrivalsEnd:
    LINES = '[[scenario]]\nname = "a"\nrate = 5\nshape = "poisson"\narrivals = {}'

    def test_lasts_as_long_as_they_do(self, tmp_path: Path) -> None:
        (scenario,) = read_plan(written(tmp_path, self.LINES.format(2_000_000))).scenario
        last_s = scenario.load(seed=1).arrivals().times()[-1]
        assert last_s <= scenario.length_s() <= 1.005 * last_s

    def test_is_not_counted_where_that_would_take_for_ever(self, tmp_path: Path) -> None:
        (scenario,) = read_plan(written(tmp_path, self.LINES.format(100_000_000_000))).scenario
        assert scenario.length_s() == pytest.approx(2e10, rel=1e-3)


class TestTheOrderOfTrials:
    def order(self, seed: int) -> list[tuple[str, str, int]]:
        plan = read_plan("shapes", {"trials": 3, "seed": seed})
        return [(step.backend, step.scenario.name, step.trial) for step in steps(plan, ["a", "b", "c"])]

    def test_is_the_same_for_the_same_seed_and_another_for_another(self) -> None:
        assert self.order(7) == self.order(7)
        assert self.order(7) != self.order(8)

    def test_has_everything_once_in_each_block(self) -> None:
        order = self.order(7)
        for trial in (1, 2, 3):
            block = order[(trial - 1) * 12 : trial * 12]
            assert {each[2] for each in block} == {trial}
            assert len(set(block)) == 12

    def test_differs_from_block_to_block(self) -> None:
        order = self.order(7)
        assert [each[:2] for each in order[:12]] != [each[:2] for each in order[12:24]]

    def test_gives_all_backends_of_a_block_the_same_arrivals(self) -> None:
        plan = read_plan("quick", {"trials": 2})
        seeds = {(step.trial, step.seed) for step in steps(plan, ["a", "b"])}
        assert len(seeds) == 2


class TestTheShippedPlans:
    @pytest.mark.parametrize("name", shipped_plans())
    def test_are_valid_and_say_what_they_do(self, name: str) -> None:
        plan = read_plan(name)
        assert plan.name == name
        assert plan.description

    def test_quick_takes_less_than_five_minutes_for_three_backends(self) -> None:
        from scripts.run import estimate_s

        plan = read_plan("quick")
        assert sum(estimate_s(plan, step) for step in steps(plan, ["a", "b", "c"])) < 290

    def test_ci_has_objectives_on_p95_and_errors(self) -> None:
        assert [text.split()[0] for text in read_plan("ci").objectives] == ["p95", "error_rate"]

    def test_are_what_locust_is_given(self) -> None:
        spike = next(each for each in read_plan("shapes").scenario if each.name == "spike")
        assert " ".join(spike.arguments(seed=7, warmup="5s")) == (
            "--shape spike --rate 10 --peak-rate 50 --spike-at 10s --spike-for 5s --run-time 30s "
            "--seed 7 --warmup 5s"
        )

    def test_last_as_long_as_their_arrivals(self) -> None:
        lengths = {each.name: each.length_s() for each in read_plan("sequential-sustained-burst").scenario}
        assert lengths == {
            "sequential": 120.0,
            "sustained": pytest.approx(50, abs=0.2),
            "burst": pytest.approx(4, abs=0.1),
        }
