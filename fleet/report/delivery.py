"""What became of the frames, and what it took to deliver them.

Not here: the links (`roadbits.fleet.uplink`), the counting (`roadbits.fleet.results`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.charts import Looks, chart, over_time
from roadbits.fleet.report.markup import Cell, Column, Html, element, join, section, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.policies import policy_tables
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.wording import median_point, number
from roadbits.fleet.results import GroupRow

_COLUMNS = (
    Column("frames", "captured"),
    Column("delivered", "arrived in time and whole"),
    Column("late", "arrived after the deadline"),
    Column("lost", "vanished on the way"),
    Column("rejected", "refused by the collector or undecodable"),
    Column("dropped", "never sent: encoder busy, send buffer full, or skipped"),
    Column("encoder busy", "dropped while the encoder was busy with earlier frames"),
    Column("buffer full", "dropped since the send buffer would have overflown"),
    Column("skipped", "left out by a policy: too late to be of use, or no energy left"),
    Column("backlog", "still waiting when the links closed"),
    Column("MB", "all bytes that travelled"),
    Column("MB per vehicle-hour"),
    Column("latency p50, s", "capture to arrival, median over delivered frames"),
    Column("p95, s", "capture to arrival, 95th percentile"),
    Column("J per frame", "energy of encoding, sending and adapting per delivered frame"),
    Column("GMAC per delivered frame", "multiply-accumulates of all encodings"),
)
_GROUP_COLUMNS = (
    Column("group", is_text=True),
    Column("vehicles"),
    Column("frames", "captured"),
    Column("delivered", "arrived in time and whole"),
    Column("encoder busy"),
    Column("buffer full"),
    Column("skipped"),
    Column("bpp"),
    Column("latency, s", "capture to arrival, mean over delivered frames"),
    Column("J per frame"),
    Column("GMAC per frame"),
    Column("median point", "of the frames encoded, by rate", is_text=True),
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
        *policy_tables(runs),
        *_by_group(runs),
        element("div", legend(looks), class_="controls"),
        element("div", join(charts), class_="panels"),
        element("p", note, class_="note"),
    )


def _by_group(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return a table with a row per arm and group, where a fleet has groups."""
    rows: list[list[str | Cell]] = [
        [*arm_cells(runs, run, arm), *_group_cells(group)]
        for run in runs
        for arm in run.arms
        for group in arm.upload.groups
    ]
    return [element("h3", "By group"), table([*arm_columns(runs), *_GROUP_COLUMNS], rows)] if rows else []


def _group_cells(group: GroupRow) -> list[str]:
    counts = (group.vehicles, group.frames, group.delivered)
    dropped = (group.dropped_encoder_busy, group.dropped_buffer_full, group.dropped_skipped)
    means = [
        value if group.delivered else None
        for value in (
            group.latency_mean_s,
            group.energy_j / max(1, group.delivered),
            group.encode_gmac / max(1, group.delivered),
        )
    ]
    return [
        group.group,
        *(number(count, 0) for count in (*counts, *dropped)),
        number(group.bpp, 3),
        *(number(mean, 2) for mean in means),
        median_point(group.points_used),
    ]


def _cells(arm: MeasuredArm) -> list[str]:
    row = arm.upload
    dropped = (row.dropped, row.dropped_encoder_busy, row.dropped_buffer_full, row.dropped_skipped)
    fates = (row.frames, row.delivered, row.late, row.lost, row.rejected, *dropped, row.backlog)
    latencies = [row.latency_p50_s, row.latency_p95_s] if row.delivered else [None, None]
    return [
        *(number(count, 0) for count in fates),
        number(row.bytes / 1e6, 3),
        number(arm.megabytes_per_vehicle_hour, 1),
        *(number(latency, 2) for latency in latencies),
        number(arm.joules_per_delivered_frame, 2),
        number(row.gmac_per_delivered_frame if row.delivered else None, 2),
    ]
