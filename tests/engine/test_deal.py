"""One plan dealt over many workers, played on a made-up clock."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import msgpack
import pytest

from locustfiles.engine.deal import Deal, Share
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.pacing import Arrival

HORIZON_S = 1.0
REPORT_S = 1.0
LEAD_S = 0.4
SILENT_S = 2.0

PLANS = {
    "constant": {"rate": "300"},
    "poisson": {"shape": "poisson", "rate": "300"},
    "step": {"shape": "step", "steps": "20:5s,500:5s,0:5s,100:5s", "gaps": "poisson"},
    "spike": {"shape": "spike", "rate": "50", "peak_rate": "2000", "spike_at": "8s", "spike_for": "3s"},
    "ramp": {"shape": "ramp", "rate": "0", "peak_rate": "600"},
    "limited": {"rate": "300", "arrivals": "1234"},
}
plans = pytest.mark.parametrize("options", [pytest.param(o, id=name) for name, o in PLANS.items()])
counts = pytest.mark.parametrize("count", [1, 2, 3, 7, 100])


def plan_of(options: dict[str, str], run_time_s: float = 20, warmup: str = "2s") -> LoadPlan:
    return LoadPlan.from_options({"warmup": warmup, "seed": "3", **options}, run_time_s)


def whole(plan: LoadPlan) -> list[Arrival]:
    """Every arrival of a plan, the warm-up with negative indices."""
    warmup = [(t - plan.warmup_s, -1 - k) for k, t in enumerate(plan.warmup().times().tolist())]
    return warmup + [(t, k) for k, t in enumerate(plan.arrivals().times().tolist())]


def first_deals(plan: LoadPlan, count: int) -> list[Deal]:
    return [Deal(1, index, count, -plan.warmup_s, 0.0, plan) for index in range(count)]


def arrivals(share: Share, until_s: float) -> list[Arrival]:
    """What a share gives out next, as pairs."""
    times, indices = share.until(until_s)
    return list(zip(times.tolist(), indices.tolist(), strict=True))


@dataclass
class Worker:
    """Fills, withdraws and sends as a generator does, on plan time."""

    deal: Deal
    share: Share = field(init=False)
    pending: list[Arrival] = field(default_factory=list)
    sent: list[Arrival] = field(default_factory=list)
    filled_s: float = -math.inf
    reported: int = 0
    accounted_s: float = 0.0

    def __post_init__(self) -> None:
        self.share, self.filled_s = Share(self.deal), self.deal.since_s

    def fill(self, until_s: float) -> None:
        if until_s > self.filled_s:
            self.pending += arrivals(self.share, until_s)
            self.filled_s = until_s

    def run_until(self, now_s: float) -> None:
        self.fill(now_s + HORIZON_S)
        self.sent += [a for a in self.pending if a[0] <= now_s]
        self.pending = [a for a in self.pending if a[0] > now_s]

    def report(self) -> None:
        self.reported = len(self.sent)
        self.accounted_s = self.pending[0][0] if self.pending else self.filled_s

    def take(self, deal: Deal) -> None:
        self.fill(deal.since_s)
        self.pending = [a for a in self.pending if a[0] < deal.since_s]
        self.deal, self.share, self.filled_s = deal, Share(deal), deal.since_s
        self.fill(deal.since_s)


class Game:
    """Workers that come and are lost while a plan is played."""

    def __init__(self, plan: LoadPlan, count: int) -> None:
        self.plan = plan
        self.now_s = -plan.warmup_s
        self.generation = 1
        self.workers = [Worker(deal) for deal in first_deals(plan, count)]
        self.gone: list[Worker] = []
        self.dropped = 0

    def play_until(self, now_s: float) -> None:
        while self.now_s < now_s:
            self.now_s = min(now_s, self.now_s + 0.25)
            for worker in self.workers:
                worker.run_until(self.now_s)

    def report(self) -> None:
        for worker in self.workers:
            worker.report()

    def deal_again(self, joining: int = 0) -> float:
        """Deal to the workers that are there, and to some that join."""
        since_s = self.now_s + LEAD_S
        self.generation += 1
        count = len(self.workers) + joining
        deals = [Deal(self.generation, k, count, since_s, 0.0, self.plan) for k in range(count)]
        for worker, deal in zip(self.workers, deals, strict=False):
            worker.take(deal)
        self.workers += [Worker(deal) for deal in deals[len(self.workers) :]]
        return since_s

    def lose(self, worker: Worker) -> None:
        """`worker` dies now; that is noticed two seconds later, and the others take over."""
        self.workers.remove(worker)
        self.gone.append(worker)
        self.play_until(self.now_s + SILENT_S)
        since_s = self.deal_again()
        self.dropped += worker.deal.dealt_between(worker.accounted_s, since_s)

    def finish(self) -> list[Arrival]:
        """Play to the end; returns what was sent and reported."""
        self.play_until(self.plan.run_time_s + HORIZON_S)
        self.report()
        return [a for worker in self.workers + self.gone for a in worker.sent[: worker.reported]]


class TestWorkersTogether:
    @plans
    @counts
    def test_send_the_plan_exactly_whatever_their_number(self, options: dict[str, str], count: int) -> None:
        plan = plan_of(options)
        assert sorted(Game(plan, count).finish()) == sorted(whole(plan))

    @plans
    @counts
    def test_share_it_evenly(self, options: dict[str, str], count: int) -> None:
        shares = [len(arrivals(Share(deal), math.inf)) for deal in first_deals(plan_of(options), count)]
        assert max(shares) - min(shares) <= 2  # one of the warm-up, one of the rest

    @plans
    @pytest.mark.parametrize("seed", range(5))
    def test_send_the_plan_exactly_while_others_join(self, options: dict[str, str], seed: int) -> None:
        rng, plan = random.Random(seed), plan_of(options)
        game = Game(plan, rng.choice([1, 2, 3, 7]))
        for at_s in sorted(rng.uniform(0, 19) for _ in range(6)):
            game.play_until(max(at_s, game.now_s))
            game.deal_again(joining=rng.choice([0, 1, 3]))
            game.play_until(game.now_s + LEAD_S)
        assert sorted(game.finish()) == sorted(whole(plan))

    def test_send_the_warm_up_once_when_one_joins_in_the_middle_of_it(self) -> None:
        plan = plan_of({"rate": "50"}, warmup="5s")
        game = Game(plan, 2)
        game.play_until(-3.0)
        game.deal_again(joining=1)
        assert sorted(game.finish()) == sorted(whole(plan))

    def test_send_each_arrival_in_the_same_order_as_the_plan(self) -> None:
        for deal in first_deals(plan_of(PLANS["spike"]), 3):
            share = Share(deal)
            sent = [a for edge in range(-2, 21) for a in arrivals(share, edge + 0.5)]
            assert sent == sorted(sent)
            assert share.exhausted

    def test_get_what_the_windows_hold_and_nothing_twice(self) -> None:
        deal = first_deals(plan_of(PLANS["poisson"]), 2)[1]
        share = Share(deal)
        for edge in (-1.0, -1.0, 0.0, 0.5, 19.9, 50.0):
            assert all(t < edge for t, _ in arrivals(share, edge))
        assert arrivals(share, 100.0) == []


class TestALostWorker:
    @plans
    @pytest.mark.parametrize("seed", range(5))
    def test_takes_with_it_exactly_what_is_counted_as_dropped(
        self, options: dict[str, str], seed: int
    ) -> None:
        rng, plan = random.Random(seed), plan_of(options)
        game = Game(plan, rng.choice([2, 3, 7]))
        game.play_until(rng.uniform(0, 12))
        game.report()
        game.play_until(game.now_s + rng.uniform(0, REPORT_S))
        game.lose(rng.choice(game.workers))
        sent = game.finish()
        missing = Counter(whole(plan)) - Counter(sent)
        assert not Counter(sent) - Counter(whole(plan))  # nothing twice, nothing else
        assert game.dropped == sum(missing.values())

    def test_leaves_everything_after_the_new_deal_to_the_others(self) -> None:
        plan = plan_of(PLANS["constant"])
        game = Game(plan, 4)
        game.play_until(5.0)
        game.report()
        game.lose(game.workers[2])
        since_s = game.now_s + LEAD_S
        missing = Counter(whole(plan)) - Counter(game.finish())
        assert missing
        assert all(5.0 <= t < since_s for t, _ in missing)
        assert since_s <= 5.0 + SILENT_S + LEAD_S  # the full rate again within 3 s

    def test_takes_nothing_when_it_had_nothing_to_send(self) -> None:
        plan = plan_of({"arrivals": "10", "rate": "10"}, warmup="0s")
        deal = first_deals(plan, 2)[0]
        assert deal.dealt_between(1.0, 5.0) == 0
        assert deal.dealt_between(0.0, 5.0) == 5

    def test_is_not_charged_with_what_an_earlier_deal_gave_it(self) -> None:
        plan = plan_of({"rate": "10"})
        later = Deal(2, 0, 2, 4.0, 0.0, plan)
        assert later.dealt_between(-math.inf, 6.0) == later.dealt_between(4.0, 6.0) == 10

    def test_takes_nothing_of_the_record_while_the_load_warms_up(self) -> None:
        deal = first_deals(plan_of({"rate": "50"}, warmup="5s"), 2)[0]
        assert deal.dealt_between(-4.0, -1.0) == 0
        assert deal.dealt_between(-4.0, 1.0) == 25

    @pytest.mark.parametrize("start", [12_345.678, 987_654.321, 3.3e6])
    def test_takes_no_less_for_its_clock_that_rounds(self, start: float) -> None:
        (deal,) = first_deals(plan_of({"rate": "300"}, warmup="0s"), 1)
        for t, k in arrivals(Share(deal), 5.0)[::7]:
            assert deal.dealt_between((start + t) - start, 5.0) == 1500 - k

    def test_takes_no_arrivals_of_closed_load(self) -> None:
        plan = LoadPlan.from_options({"shape": "closed"}, 20)
        assert Deal(1, 0, 2, 0.0, 0.0, plan).dealt_between(0.0, 10.0) == 0


class TestAnEditedPlan:
    def test_begins_afresh_at_its_own_origin(self) -> None:
        plan = plan_of({"shape": "step", "steps": "10:10s,50:10s"})
        deals = [Deal(2, k, 3, 7.5, 7.5, plan) for k in range(3)]
        sent = sorted(a for deal in deals for a in arrivals(Share(deal), math.inf))
        assert sent == [(t + 7.5, k) for t, k in whole(plan) if k >= 0]
        assert deals[0].end_s == 27.5

    def test_is_not_warmed_up_again(self) -> None:
        deal = Deal(2, 0, 1, 7.5, 7.5, plan_of({"rate": "10"}, warmup="5s"))
        assert min(k for _, k in arrivals(Share(deal), math.inf)) == 0


class TestClosedLoad:
    @counts
    @pytest.mark.parametrize("calls", [0, 1, 2, 99, 100, 101, 12_345])
    def test_shares_its_calls_exactly(self, calls: int, count: int) -> None:
        plan = LoadPlan.from_options({"shape": "closed"}, 20)
        shares = [Deal(1, k, count, 0.0, 0.0, plan).share_of(calls) for k in range(count)]
        assert sum(shares) == calls
        assert max(shares) - min(shares) <= 1

    def test_without_a_number_of_calls_goes_on_for_everybody(self) -> None:
        plan = LoadPlan.from_options({"shape": "closed"}, 20)
        assert math.isinf(Deal(1, 0, 3, 0.0, 0.0, plan).share_of(plan.limit))


class TestMessages:
    @plans
    def test_carry_a_deal_unchanged_past_what_else_is_in_them(self, options: dict[str, str]) -> None:
        sent = Deal(4, 2, 3, 5.25, 1.5, plan_of(options))
        message = {**sent.to_message(), "start": 123.4, "afresh": True}
        received = Deal.from_message(msgpack.unpackb(msgpack.packb(message)))
        assert received == sent
        assert arrivals(Share(received), 9.0) == arrivals(Share(sent), 9.0)

    def test_hold_every_field(self) -> None:
        deal = Deal(1, 0, 1, 0.0, 0.0, plan_of({}))
        assert set(deal.to_message()) == {f.name for f in dataclasses.fields(Deal)}
