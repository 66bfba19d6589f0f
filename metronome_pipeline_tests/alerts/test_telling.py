"""What is due to be told: pure, over made-up problems."""

from dataclasses import replace
from datetime import timedelta

from metronome_pipeline.alerts.problems import Kind, Problem, in_order
from metronome_pipeline.alerts.samples import sample
from metronome_pipeline.alerts.telling import News, Report, Told, news
from metronome_pipeline_tests.loopback import START

DAY = timedelta(days=1)
PROBLEM = Problem("one", Kind.quarantine, "It broke.", "1", "Mend it.")
TOLD = Told("one", "Quarantine: It broke.", "1", START, START)


def test_a_problem_is_news_once() -> None:
    assert news([PROBLEM], [], START, DAY) == [News(PROBLEM, None)]
    assert news([PROBLEM], [TOLD], START + 10 * DAY, DAY) == []


def test_a_change_is_news_after_a_while() -> None:
    worse = replace(PROBLEM, state="2")
    assert news([worse], [TOLD], START + DAY - timedelta(seconds=1), DAY) == []
    assert news([worse], [TOLD], START + DAY, DAY) == [News(worse, TOLD)]


def test_the_end_is_news_and_comes_last() -> None:
    assert news([], [TOLD], START, DAY) == [News(None, TOLD)]
    other = replace(PROBLEM, key="two")
    assert news([other], [TOLD], START, DAY) == [News(other, None), News(None, TOLD)]


def test_problems_are_told_by_kind_the_worst_first() -> None:
    made = [sample(kind) for kind in reversed(Kind)]
    assert [problem.kind for problem in in_order(made)] == list(Kind)


def test_a_round_is_told_in_a_sentence() -> None:
    assert str(Report(open=3)) == "Open now: 3."
    assert str(Report(told=1, over=2, open=3)) == "Told 1, over 2. Open now: 3."
    down = Report(waiting=2, reasons=("The webhook is down.",), open=2)
    assert str(down) == "2 not taken, sent again by the next tick: The webhook is down. Open now: 2."
