from collections.abc import Iterator

import pytest

from roadbits.fleet.backend import LocalBackend, Report


def test_results_come_in_order_each_when_it_is_asked_for() -> None:
    computed = []

    def square(number: int) -> int:
        computed.append(number)
        return number**2

    def numbers() -> Iterator[int]:
        yield from (3, 1, 2)

    results = LocalBackend().map(square, numbers())
    assert (next(results), computed) == (9, [3])
    assert (list(results), computed) == ([1, 4], [3, 1, 2])


def test_trainings_come_with_their_positions_and_progress() -> None:
    seen: list[tuple[int, int, float]] = []

    def train(item: str, report: Report) -> str:
        for step in (1, 2):
            report(step, len(item) / step)
        return item.upper()

    trained = LocalBackend().train(train, ["a", "bcd"], 1, lambda *told: seen.append(told))
    assert next(trained) == (0, "A")
    assert seen == [(0, 1, 1.0), (0, 2, 0.5)]
    assert list(trained) == [(1, "BCD")]
    assert seen[2:] == [(1, 1, 3.0), (1, 2, 1.5)]


def test_an_error_in_a_job_reaches_the_caller() -> None:
    def fail(number: int) -> int:
        raise LookupError(number)

    with pytest.raises(LookupError, match="3"):
        list(LocalBackend().map(fail, [3]))


def test_a_shared_value_is_the_value() -> None:
    value = [1, 2]
    assert LocalBackend().share(value).get() is value
    LocalBackend().close()


def test_a_training_is_asked_for_when_it_can_begin() -> None:
    asked = []

    def items() -> Iterator[int]:
        for number in (1, 2):
            asked.append(number)
            yield number

    trained = LocalBackend().train(lambda item, report: item, items(), 1, lambda *told: None)
    assert (next(trained), asked) == ((0, 1), [1])
    assert (list(trained), asked) == ([(1, 2)], [1, 2])
