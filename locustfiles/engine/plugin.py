"""Hooks the engine into Locust: its options, and a coordinator and a generator where they belong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, jsonify, request
from locust import LoadTestShape, User, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, WorkerRunner
from locust.util.timespan import parse_timespan

from locustfiles.engine.coordinator import Coordinator
from locustfiles.engine.generator import Generator
from locustfiles.engine.options import BAD_INPUT, OPTIONS, LoadPlan, read_by_shape
from locustfiles.engine.users import ArrivalUser, note_request_failure, refuse_unpaced

STOP_TIMEOUT_S = 10.0


def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Add the engine's options to Locust's command line and web form."""
    for option in OPTIONS:
        parser.add_argument(
            option.flag, type=option.check, default=option.default, choices=option.choices, help=option.help
        )


def _plan(environment: Environment) -> LoadPlan:
    options = environment.parsed_options
    assert options is not None
    return LoadPlan.from_options(read_by_shape(vars(options)), options.load_run_time)


def set_up(environment: Environment, **_: Any) -> None:
    """Called once when Locust is ready to start: check the plan, then make the engine's parts."""
    runner, options = environment.runner, environment.parsed_options
    if (
        runner is None
        or options is None
        or not any(issubclass(c, ArrivalUser) for c in environment.user_classes)
    ):
        return
    logging.getLogger("locust.runners").addFilter(_is_not_about_spawn_rate)
    logging.getLogger("locust.main").addFilter(_is_not_about_run_time)
    environment.events.request.add_listener(note_request_failure)
    if not isinstance(runner, WorkerRunner):
        _check_options(environment)
        Coordinator(environment, lambda: _plan(environment))
        if environment.web_ui is not None:
            _check_form(environment)
    if isinstance(runner, LocalRunner | WorkerRunner):
        Generator(environment)


def _check_options(environment: Environment) -> None:
    """Refuse a bad plan before anything starts, and fill in what Locust asks for and the plan knows."""
    options = environment.parsed_options
    assert options is not None
    options.load_run_time = options.run_time
    if options.headless or options.autostart:
        options.run_time = (
            None  # Locust's timer starts before the first arrival and cuts off the last answers
        )
    try:
        if not options.class_picker:
            refuse_unpaced(environment.user_classes)
            _refuse_shape_class(environment.shape_class)
        plan = LoadPlan.from_options(vars(options), options.load_run_time)
        _refuse_nobody(options.num_users)
    except ValueError as error:
        sys.stderr.write(f"locust: error: {error}\n")
        sys.exit(BAD_INPUT)
    if options.num_users is None:
        options.num_users = plan.default_users()
    if options.spawn_rate is None:
        options.spawn_rate = max(1, options.num_users)
    if not environment.stop_timeout:
        environment.stop_timeout = STOP_TIMEOUT_S


def _refuse_nobody(users: int | None) -> None:
    if users is not None and users < 1:
        raise ValueError(f"--users {users} leaves nobody to send: write 1 or more, or leave it out")


def _refuse_shape_class(shape: LoadTestShape | None) -> None:
    """Raise ValueError for Locust's own shapes: they set users, which are only the in-flight cap here."""
    if shape is not None:
        raise ValueError(
            f"{type(shape).__name__} is a LoadTestShape, which would set users and not arrivals: remove it, "
            "and write the rate as --shape, such as --shape step --steps 1:10s,5:10s,20:10s"
        )


def _check_form(environment: Environment) -> None:
    """Let the web form's start button say what is wrong with the plan, and the form show its run time."""
    web_ui = environment.web_ui
    assert web_ui is not None
    assert web_ui.app is not None
    options = environment.parsed_options
    assert options is not None
    environment.events.test_start.add_listener(
        lambda **_: setattr(options, "run_time", options.load_run_time)
    )

    @web_ui.app.before_request
    def check() -> Response | None:
        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        form = request.form.to_dict()
        wanted = {**vars(options), **form}
        changed = [name for name, text in form.items() if text != str(vars(options).get(name))]
        try:
            refuse_unpaced(_picked(environment))
            _refuse_shape_class((environment.available_shape_classes or {}).get(form.get("shape_class", "")))
            _refuse_nobody(request.form.get("user_count", type=int))  # Locust refuses what is no number
            if "run_time" in form:  # not in that of a running test, which goes on as long as it was to
                wanted["load_run_time"] = parse_timespan(form["run_time"]) if form["run_time"] else None
            LoadPlan.from_options(read_by_shape(wanted, keep=changed), wanted["load_run_time"])
        except ValueError as error:
            return jsonify({"success": False, "message": str(error), "host": environment.host})
        options.load_run_time = wanted["load_run_time"]
        return None


def _picked(environment: Environment) -> Sequence[type[User]]:
    """The user classes that the form asks for; without a picker all of them."""
    names = request.form.getlist("user_classes")
    available: Mapping[str, Any] = environment.available_user_classes or {}
    return [c for name, c in available.items() if name in names] or environment.user_classes


def _is_not_about_spawn_rate(record: logging.LogRecord) -> bool:
    """Locust warns of high spawn rates because its users start to work at once; ours wait for the clock."""
    return "spawn rate is very high" not in record.getMessage()


def _is_not_about_run_time(record: logging.LogRecord) -> bool:
    """Locust sees no run time since the engine keeps it: the last answer ends the run, no timer does."""
    return "No run time limit set" not in record.getMessage()


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(set_up)
