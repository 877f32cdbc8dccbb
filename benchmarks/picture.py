"""The CPU of a run as bars, one panel for each workload, as an SVG that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from benchmarks.report import Machine, Spread
from benchmarks.rounds import Record
from benchmarks.targets import Round, Workload, title_of
from benchmarks.workloads import Measurement

WIDTH = 760
LABELS = 190
"""Where the bars begin."""
LONGEST = 330
"""The longest bar; what is right of it is for its figures."""
TOO_FEW = 50
"""Percent of the runs; the cost of a run says nothing of a scheduler that achieves less."""
BAR, GAP = 16, 8
HEAD, TITLE = 54, 30

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .faint { fill: #59636e }
  .own { fill: #1a7f64 } .other { fill: #a8b3be } .reach { stroke: #59636e }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif } .title { font-weight: 600; font-size: 13px }
  .name { text-anchor: end } .ours { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d } .text { fill: #f0f6fc } .faint { fill: #9198a1 }
    .own { fill: #3fb68b } .other { fill: #4b5560 } .reach { stroke: #9198a1 }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One competitor in one workload."""

    title: str
    cost: Spread
    times_c: Spread | None
    achieved: Spread
    is_own: bool

    @property
    def figures(self) -> str:
        """What is written beside it."""
        texts = [] if self.is_hopeless else [f"{self.cost.middle:.1f}"]
        if self.times_c is not None and not self.is_hopeless:
            texts.append(f"{self.times_c.middle:.2f} x c")
        if self.achieved.middle < 99:
            texts.append(f"{self.achieved.middle:.0f} % of the runs")
        return " · ".join(texts)

    @property
    def is_hopeless(self) -> bool:
        return self.achieved.middle < TOO_FEW


def svg(machine: Machine, measured: list[tuple[Workload, Record]]) -> str:
    """The whole picture."""
    panels = [(workload, bars) for workload, record in measured if (bars := _bars(workload, record))]
    height = HEAD + sum(_height(bars) for _, bars in panels)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img" aria-label="CPU of a run, asyncmgr beside others">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            _text(16, 24, "CPU of a run in microseconds: less is better", "text title"),
            _text(16, 42, str(machine), "faint"),
            *_stacked(panels),
            "</svg>",
            "",
        ]
    )


def _bars(workload: Workload, record: Record) -> list[Bar]:
    found = (_bar(measurement, record) for measurement in _shown(workload))
    return sorted(filter(None, found), key=lambda bar: (bar.is_hopeless, bar.cost.middle))


def _shown(workload: Workload) -> list[Measurement]:
    """Those of the workload's own size on asyncio's own loop."""
    measurements = (*workload.needed, *workload.others)
    size = measurements[0].tasks
    return [one for one in measurements if one.tasks == size and one.loop == "asyncio"]


def _bar(measurement: Measurement, record: Record) -> Bar | None:
    def cost(results: Round) -> float:
        return results[measurement.name]["cpu_us"]

    spread = Spread.over(record.rounds, cost)
    achieved = Spread.over(record.rounds, lambda results: results[measurement.name]["achieved"])
    if spread is None or achieved is None:
        return None
    times_c = Spread.over(record.rounds, lambda results: cost(results) / results["c"]["cpu_us"])
    return Bar(title_of(measurement), spread, times_c, achieved, measurement.competitor == "asyncmgr")


def _height(bars: list[Bar]) -> int:
    return TITLE + len(bars) * (BAR + GAP) + 2 * GAP


def _stacked(panels: list[tuple[Workload, list[Bar]]]) -> Iterator[str]:
    top = HEAD
    for workload, bars in panels:
        yield _text(16, top + 18, workload.title.replace("`", ""), "text title")
        scale = LONGEST / max((bar.cost.most for bar in bars if not bar.is_hopeless), default=1)
        for number, bar in enumerate(bars):
            yield from _drawn(bar, top + TITLE + number * (BAR + GAP), scale)
        top += _height(bars)


def _drawn(bar: Bar, top: int, scale: float) -> Iterator[str]:
    """A bar as long as the median, a line from the smallest to the largest, and the figures."""
    baseline, centre = top + BAR - 4, top + BAR / 2
    yield _text(LABELS - 8, baseline, bar.title, f"text name{' ours' if bar.is_own else ''}")
    if bar.is_hopeless:
        yield _text(LABELS, baseline, bar.figures, "faint")
        return
    least, middle, most = (LABELS + part * scale for part in (bar.cost.least, bar.cost.middle, bar.cost.most))
    yield (
        f'<rect class="{"own" if bar.is_own else "other"}" x="{LABELS}" y="{top}" '
        f'width="{max(1.0, middle - LABELS):.1f}" height="{BAR}" rx="2"/>'
    )
    yield f'<line class="reach" x1="{least:.1f}" x2="{most:.1f}" y1="{centre:g}" y2="{centre:g}"/>'
    yield _text(most + 8, baseline, bar.figures, "text")


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:g}">{escape(text)}</text>'
