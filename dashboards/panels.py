"""What Foundray's Grafana dashboards are made of: queries, panels, and a board of them.

Several drivers may have exported one run's numbers, one after another, so every query combines them.
"""

from __future__ import annotations

from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import BigValueGraphMode, GraphDrawStyle, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOW = "$__rate_interval"
RECENT = "10m"
"""Over which shares of the run's time are taken."""

Query = tuple[str, str]
"""(legend, PromQL)"""
Panel = timeseries.Panel | stat.Panel


def last(name: str, *by: str, **labels: str) -> str:
    """The latest value of one of a run's numbers."""
    return f"max by ({', '.join(('run', *by))}) ({series(name, **labels)})"


def series(name: str, **labels: str) -> str:
    chosen = "".join(f', {label}=~"{value}"' for label, value in labels.items())
    return f'ray_foundray_{name}{{run=~"$run"{chosen}}}'


def rate(name: str, *by: str) -> str:
    """Growth per second of one of a run's counters."""
    return f"sum by ({', '.join(('run', *by))}) (rate({series(f'{name}_total')}[{WINDOW}]))"


def quantile(part: float, name: str) -> str:
    """Recent quantile of one of a run's histograms."""
    return f"histogram_quantile({part}, sum by (run, le) (rate({series(f'{name}_bucket')}[{WINDOW}])))"


def share(part: str, of: str = ".+") -> str:
    """Fraction of the run's recent time."""
    grown = [f"sum by (run) (delta({series('time_seconds', part=some)}[{RECENT}]))" for some in (part, of)]
    return " / ".join(grown)


def curve(title: str, what: str, unit: str, *queries: Query, stacked: bool = False, width: int = 8) -> timeseries.Panel:
    """`what` is said under the panel's title."""
    panel = timeseries.Panel().title(title).description(what).unit(unit).datasource(SOURCE).height(8).span(width)
    legend = common.VizLegendOptions().placement(LegendPlacement.BOTTOM).show_legend(True)
    panel.legend(legend).draw_style(GraphDrawStyle.LINE).line_width(1).fill_opacity(30 if stacked else 5)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return panel.targets(targets(queries))


def number(title: str, what: str, unit: str, *queries: Query, width: int = 3) -> stat.Panel:
    panel = stat.Panel().title(title).description(what).unit(unit).datasource(SOURCE).height(4).span(width)
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
    now = [target.instant() for target in targets(queries)]
    return panel.graph_mode(BigValueGraphMode.NONE).reduce_options(reduced).targets(now)


def targets(queries: tuple[Query, ...]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index)).range()
        for index, (legend, expression) in enumerate(queries)
    ]


def board(name: str, title: str, what: str, rows: dict[str, list[Panel]], several: bool) -> dashboard.Dashboard:
    """`several` runs at once, or one."""
    made = dashboard.Dashboard(title).uid(f"foundray-{name}").description(what).tags(["foundray"]).editable()
    made.time("now-1h", "now").refresh("10s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    runs = dashboard.QueryVariable("run").label("Run").datasource(SOURCE).query("label_values(ray_foundray_target_steps, run)")
    runs.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    made.with_variable(runs.multi(several).include_all(several))
    for mark, colour, changed in (
        ("Faults", "red", series("faults")),
        ("Groups that formed again", "orange", series("restarts")),
        ("Checkpoints", "green", series("checkpoint_step")),
    ):
        query = dashboard.AnnotationQuery().name(mark).datasource(SOURCE).enable(mark != "Checkpoints").icon_color(colour)
        made.annotation(query.expr(f"changes({changed}[1m]) > 0"))
    made.link(dashboard.DashboardLink("Foundray").tags(["foundray"]).as_dropdown(True).include_vars(True).keep_time(True))
    ids = count(1)
    for row, panels in rows.items():
        made.with_row(dashboard.Row(row).id(next(ids)))
        for panel in panels:
            made.with_panel(panel.id(next(ids)))
    return made
