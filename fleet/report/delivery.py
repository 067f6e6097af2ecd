"""What became of the frames, and what it took to deliver them.

Not here: the links (`roadbits.fleet.uplink`), the counting (`roadbits.fleet.results`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.charts import Looks, chart, over_time
from roadbits.fleet.report.markup import Cell, Column, Html, element, join, section, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.wording import number

_COLUMNS = (
    Column("frames", "captured"),
    Column("delivered", "arrived in time and whole"),
    Column("late", "arrived after the deadline"),
    Column("lost", "vanished on the way"),
    Column("rejected", "refused by the collector or undecodable"),
    Column("dropped", "never sent: encoder busy or send buffer full"),
    Column("backlog", "still waiting when the links closed"),
    Column("MB", "all bytes that travelled"),
    Column("MB per vehicle-hour"),
    Column("latency p50, s", "capture to arrival, median over delivered frames"),
    Column("p95, s", "capture to arrival, 95th percentile"),
    Column("J per frame", "energy of encoding and sending per delivered frame"),
)


def delivery_section(runs: Sequence[MeasuredRun], looks: Looks) -> Html:
    """Return the table of frames' fates and the charts of deliveries and backlog over virtual time."""
    rows: list[list[str | Cell]] = [[*arm_cells(runs, run, arm), *_cells(arm)] for run in runs for arm in run.arms]
    charts = [
        chart(
            "time-delivered",
            over_time(runs, looks, "delivered frames", lambda timeline: timeline.delivered_frames),
            "Frames delivered so far",
        ),
        chart(
            "time-backlog",
            over_time(runs, looks, "kB waiting", lambda timeline: [size / 1e3 for size in timeline.backlog_bytes]),
            "Backlog: kilobytes waiting in all send buffers",
        ),
    ]
    note = "A line per operating point, the cheaper the fainter; point at one for its name."
    return section(
        "delivery",
        "Delivery",
        table([*arm_columns(runs), *_COLUMNS], rows),
        element("div", legend(looks), class_="controls"),
        element("div", join(charts), class_="panels"),
        element("p", note, class_="note"),
    )


def _cells(arm: MeasuredArm) -> list[str]:
    row = arm.upload
    fates = (row.frames, row.delivered, row.late, row.lost, row.rejected, row.dropped, row.backlog)
    latencies = [row.latency_p50_s, row.latency_p95_s] if row.delivered else [None, None]
    return [
        *(number(count, 0) for count in fates),
        number(row.bytes / 1e6, 3),
        number(arm.megabytes_per_vehicle_hour, 1),
        *(number(latency, 2) for latency in latencies),
        number(arm.joules_per_delivered_frame, 2),
    ]
