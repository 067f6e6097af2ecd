"""The answer first: a run's outcome in one paragraph.

Not here: the tables and charts behind it (`segmentation`, `rates`, `delivery`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.adaptation import adaptation_sentence
from roadbits.fleet.report.markup import Html, element, join
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, Spread, best_arm, cheapest_first, setups_of
from roadbits.fleet.report.wording import number, points, spread
from roadbits.fleet.results import RestorationRow

_CLOSE_TO_IDEAL = 0.01
_PRACTICE = ("CO", "CC", "OC")
"""The price of compression is told of the first of these that was measured."""


def headline(run: MeasuredRun) -> Html:
    """Return a run's outcome as one paragraph of computed sentences."""
    arms = cheapest_first(run.arms)
    if not arms:
        return element("p", "Nothing travelled: no rate, no distortion and no mIoU to report.", class_="headline")
    sentences = _of_segmentation(run, arms) if setups_of(arms) else _of_distortion(arms)
    adapted = adaptation_sentence(run)
    sentences += [_sentence(adapted)] if adapted else []
    sentences += _of_traffic(arms)
    return element("p", join([*sentences, *_of_ranges(run)], " "), class_="headline")


def _of_ranges(run: MeasuredRun) -> list[Html]:
    """Say what the ranges of the sentences before are."""
    told = ["± is half the range over seeds"] * (len(run.seeds) > 1)
    if run.results.restoration:
        of_frames = ", of test frames alone: with one seed nothing is known of another training"
        told.append("ranges in brackets are intervals of 90 %" + of_frames * (len(run.seeds) == 1))
    return [Html(f"({', '.join(told)}.)")] if told else []


def _of_segmentation(run: MeasuredRun, arms: Sequence[MeasuredArm]) -> list[Html]:
    sentences = []
    if run.ideal is not None:
        sentences.append(_sentence("On originals throughout (OO) the segmenter reaches", _miou(run.ideal)))
    best = [_best(arms, setup) for setup in setups_of(arms) if setup != "OO"]
    if best:
        sentences.append(_sentence("Best of all arms:", join(best, "; ")))
    setup = next((setup for setup in _PRACTICE if setup in setups_of(arms)), None)
    if setup is not None and run.ideal is not None:
        sentences += _of_price([arm for arm in arms if setup in arm.miou], setup, run.ideal)
    return sentences + _of_restoration(run)


def _of_restoration(run: MeasuredRun) -> list[Html]:
    """Say which restorer gains most, and whether a remedy without one gains more."""
    rows = [row for row in run.results.restoration if row.treatment != "none"]
    restored, remedied = ([row for row in rows if (row.psnr_db is None) == is_remedy] for is_remedy in (False, True))
    if not restored:
        return []
    best = max(restored, key=lambda row: row.gain)
    told = [f"Restored by {best.treatment}, {best.codec} {best.point} gains", _gain(best)]
    if best.gap_closed is not None:
        told.append(f"of mIoU in the car, {number(100 * best.gap_closed, 0)} % of what it had lost{_gap_range(best)}")
    others = [row for row in remedied if (row.codec, row.point) == (best.codec, best.point)]
    if others and (rival := max(others, key=lambda row: row.gain)).gain > best.gain:
        told += [f"and, without a restorer, {rival.treatment}", _gain(rival)]
    return [_sentence(*told)]


def _gain(row: RestorationRow) -> Html:
    return element("b", f"{points(row.gain)} points ({points(row.gain_low)} to {points(row.gain_high)})")


def _gap_range(row: RestorationRow) -> str:
    """Return the share's interval of 90 % in brackets; nothing where there is none."""
    if row.gap_low is None or row.gap_high is None:
        return ""
    return f" ({number(100 * row.gap_low, 0)} to {number(100 * row.gap_high, 0)} %)"


def _best(arms: Sequence[MeasuredArm], setup: str) -> Html:
    arm = best_arm(arms, setup)
    assert arm is not None
    return join([setup, _miou(arm.miou[setup]), "with", _arm(arm)], " ")


def _of_price(arms: Sequence[MeasuredArm], setup: str, ideal: Spread) -> list[Html]:
    """Say what the cheapest arm costs against OO, and which is the cheapest that costs next to nothing."""
    cheapest = arms[0]
    loss = ideal.less(cheapest.miou[setup])
    below = loss.mean >= 0
    gap = element("b", f"{spread(loss if below else cheapest.miou[setup].less(ideal))} points")
    price = _sentence(f"The cheapest, {_arm(cheapest)}, is", gap, f"{'below' if below else 'above'} OO in {setup}")
    close = [arm for arm in arms if ideal.less(arm.miou[setup]).mean <= _CLOSE_TO_IDEAL]
    if not close:
        return [price, _sentence("No arm comes within one point of OO")]
    if close[0] is cheapest:
        return [price]
    return [price, _sentence("The fewest bits within one point of OO:", _arm(close[0]))]


def _of_distortion(arms: Sequence[MeasuredArm]) -> list[Html]:
    delivered = [arm for arm in arms if arm.upload.delivered]
    if not delivered:
        return [_sentence("No arm delivered a frame")]
    best = max(delivered, key=lambda arm: arm.upload.psnr_db)
    low, high = (element("b", f"{number(arm.upload.psnr_db, 2)} dB") for arm in (delivered[0], best))
    return [
        _sentence("Rates and distortions only: from", low, "with", _arm(delivered[0]), "to", high, "with", _arm(best))
    ]


def _of_traffic(arms: Sequence[MeasuredArm]) -> list[Html]:
    """Say how much traffic the cheapest and the dearest arm made."""
    traffic = [rate for arm in (arms[0], arms[-1]) if (rate := arm.megabytes_per_vehicle_hour) is not None]
    if not traffic:
        return []
    if len(arms) == 1:
        return [_sentence("It sends", element("b", f"{number(traffic[0], 1)} MB"), "per vehicle-hour")]
    range_ = element("b", f"{number(traffic[0], 1)} to {number(traffic[1], 1)} MB")
    return [_sentence("From the cheapest arm to the dearest,", range_, "travel per vehicle-hour")]


def _sentence(*parts: str) -> Html:
    return Html(join(parts, " ") + ".")


def _miou(miou: Spread) -> Html:
    return element("b", f"{spread(miou)} %")


def _arm(arm: MeasuredArm) -> str:
    return f"{arm.name} ({number(arm.upload.bpp, 3)} bpp)"
