import os
import signal
import threading

import pytest

from roadbits.fleet.interrupts import postponed_interrupts


def test_an_interrupt_is_postponed_to_the_next_check_or_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), postponed_interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("work")
        interrupts.check()
        reached.append("more work")
    with pytest.raises(KeyboardInterrupt), postponed_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["work", "the end"]


def test_the_handlers_from_before_are_back_after_the_block() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with postponed_interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) == interrupts.note
        interrupts.check()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_comes_through_before_an_interrupt() -> None:
    with pytest.raises(ValueError, match="wrong"), postponed_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("wrong")


def test_another_thread_leaves_the_signals_alone() -> None:
    before, inside = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with postponed_interrupts() as interrupts:
            interrupts.check()
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
