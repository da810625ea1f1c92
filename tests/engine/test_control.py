"""Requests wait until they are taken, each once, and the last word of a person counts."""

from engine.control import Control


def test_a_word_that_waits_is_taken_once():
    control = Control()
    for word in ("save", "save", "sample"):
        control.ask(word)
    assert control.asked("save")
    assert control.take() == ("save", "sample")
    assert control.take() == ()


def test_the_last_of_pause_and_continue_counts():
    control = Control()
    for word in ("pause", "continue", "pause"):
        control.ask(word)
    assert control.take() == ("continue", "pause")


def test_what_was_taken_and_not_obeyed_comes_before_what_was_asked_since():
    control = Control()
    control.ask("pause")
    control.ask("save")
    taken = control.take()
    control.ask("continue")
    control.ask("save")
    control.give_back(taken)
    assert control.wait(0)
    assert control.take() == ("pause", "continue", "save")
