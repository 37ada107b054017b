"""The results as JSON, as a figure and as the tables of the page."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.bench.simulation.contest import DEFAULTS, Result
from tests.bench.simulation.patterns import PATTERNS
from tests.docs.pages import ROOT

RESULTS = Path(__file__).with_name("results.json")
FIGURE = ROOT / "docs" / "images" / "scaling.svg"
PAGE = ROOT / "docs" / "explanation" / "scaling.md"
BEGIN, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"

_ROUND = 4


def save(results: Iterable[Result]) -> None:
    """Write the results."""
    rows = [
        {key: round(value, _ROUND) if isinstance(value, float) else value for key, value in asdict(each).items()}
        for each in results
    ]
    RESULTS.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n", encoding="utf-8")


def load() -> list[Result]:
    """Read them."""
    return [Result(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))]


def write() -> None:
    """Write the figure, and the tables into the page."""
    results = load()
    FIGURE.write_text(figure(results), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(page: str, results: list[Result]) -> str:
    """Give the page with the tables of these results."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}"


def best_of_keda(results: list[Result], pattern: str) -> Result:
    """Of KEDA's settings that cost no more than Bullpen's defaults the quickest; the cheapest where all cost more."""
    bullpen = defaults(results, pattern, "Bullpen")
    own = of(results, pattern, "KEDA")
    affordable = [each for each in own if each.pod_hours <= bullpen.pod_hours]
    if affordable:
        return min(affordable, key=lambda each: (each.mean_wait, each.pod_hours))
    return min(own, key=lambda each: each.pod_hours)


def defaults(results: list[Result], pattern: str, who: str) -> Result:
    """What came of the defaults."""
    return next(each for each in of(results, pattern, who) if each.settings == DEFAULTS)


def as_good(results: list[Result], rival: Result) -> Result | None:
    """The quickest of Bullpen's settings that is at least as quick and as cheap; None where there is none."""
    better = [each for each in of(results, rival.pattern, "Bullpen") if each.is_no_worse_than(rival)]
    return min(better, key=lambda each: each.mean_wait, default=None)


def of(results: list[Result], pattern: str, who: str) -> list[Result]:
    """The results of one of the two on one pattern."""
    return [each for each in results if (each.pattern, each.who) == (pattern, who)]


# -- tables ----------------------------------------------------------------------


def tables(results: list[Result]) -> str:
    """One table: for each pattern both defaults, KEDA's best, and what of Bullpen's is at least as good as that."""
    lines = [
        "| jobs | who scales | mean wait | p99 wait | replica-hours | busy pods told to go |",
        "|---|---|---|---|---|---|",
    ]
    for pattern in PATTERNS:
        keda = best_of_keda(results, pattern.name)
        rows = [
            ("KEDA, its defaults", defaults(results, pattern.name, "KEDA")),
            (f"KEDA at its best: {keda.settings}", keda),
            ("**Bullpen, its defaults**", defaults(results, pattern.name, "Bullpen")),
        ]
        better = as_good(results, keda)
        if better is not None and better.settings != DEFAULTS:
            rows.append((f"**Bullpen**, {better.settings}", better))
        for number, (who, each) in enumerate(rows):
            name = f"**{pattern.name}**: {pattern.says}" if not number else ""
            lines.append(
                f"| {name} | {who} | {_seconds(each.mean_wait)} | {_seconds(each.p99_wait)} | {each.pod_hours:.1f} | {each.cut:.0f} |"
            )
    rivals = [each for each in results if each.who == "KEDA"]
    beaten = [each for each in rivals if as_good(results, each) is not None]
    lines += [
        "",
        f"Of the {len(rivals)} outcomes with KEDA (five patterns, {len(rivals) // len(PATTERNS)} settings each) {len(beaten)} have one with Bullpen that waits no longer and costs no more.",
    ]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return "< 0.01 s" if value < 0.01 else f"{value:.2f} s" if value < 100 else f"{value:,.0f} s"


# -- figure ----------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 250, 170, 46, 58, 56
_COLUMNS = 3
_LOWEST = 0.01  # seconds: what is drawn as no wait
_STYLE = {"Bullpen": "#1a7f64", "KEDA": "#c2541b"}


def figure(results: list[Result]) -> str:
    """Give the figure as SVG: a panel for each pattern, waiting upwards, replica-hours to the right, less is better."""
    rows = -(-len(PATTERNS) // _COLUMNS)
    width = _LEFT + _COLUMNS * (_WIDTH + _GAP)
    height = _TOP + rows * (_HEIGHT + _GAP + 14)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        "<title>Waiting against replica-hours: Bullpen and KEDA on five patterns of jobs</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" fill="#222">Mean wait (s, logarithmic) against replica-hours: down and to the left is better</text>',
        *_legend(),
    ]
    for number, pattern in enumerate(PATTERNS):
        x = _LEFT + number % _COLUMNS * (_WIDTH + _GAP)
        y = _TOP + 14 + number // _COLUMNS * (_HEIGHT + _GAP + 14)
        parts += _panel([each for each in results if each.pattern == pattern.name], pattern.name, x, y)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend() -> Iterator[str]:
    x = _LEFT
    for who, colour in _STYLE.items():
        yield f'<circle cx="{x + 6}" cy="38" r="3.5" fill="{colour}"/>'
        yield f'<text x="{x + 14}" y="42" fill="#222">{who}, a setting</text>'
        yield f'<rect x="{x + 106}" y="32" width="11" height="11" fill="{colour}"/>'
        yield f'<text x="{x + 122}" y="42" fill="#222">{who}, its defaults</text>'
        x += 250


def _panel(results: list[Result], name: str, x: int, y: int) -> Iterator[str]:
    low, high = _range([each.pod_hours for each in results])
    waits = [max(each.mean_wait, _LOWEST) for each in results]
    bottom, top = math.floor(math.log10(min(waits))), math.ceil(math.log10(max(waits)))

    def at(each: Result) -> tuple[float, float]:
        across = (each.pod_hours - low) / (high - low)
        up = (math.log10(max(each.mean_wait, _LOWEST)) - bottom) / (top - bottom)
        return round(x + across * _WIDTH, 1), round(y + _HEIGHT - up * _HEIGHT, 1)

    yield f'<text x="{x}" y="{y - 8}" font-weight="bold" fill="#222">{name}</text>'
    yield f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>'
    for power in range(bottom, top + 1):
        line = round(y + _HEIGHT - (power - bottom) / (top - bottom) * _HEIGHT, 1)
        yield f'<line x1="{x}" y1="{line}" x2="{x + _WIDTH}" y2="{line}" stroke="#eee"/>'
        yield f'<text x="{x - 5}" y="{line + 4}" text-anchor="end" fill="#555">{10.0**power:g}</text>'
    for step in range(5):
        hours = low + (high - low) * step / 4
        across = x + _WIDTH * step / 4
        yield f'<text x="{across}" y="{y + _HEIGHT + 15}" text-anchor="middle" fill="#555">{hours:.0f}</text>'
    yield f'<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT + 30}" text-anchor="middle" fill="#555">replica-hours</text>'
    for who, colour in _STYLE.items():
        own = [each for each in results if each.who == who]
        line_points = " ".join(f"{a},{b}" for a, b in map(at, _frontier(own)))
        yield f'<polyline points="{line_points}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>'
        for each in own:
            a, b = at(each)
            said = f"<title>{who}, {each.settings}: {each.mean_wait:.2f} s, {each.pod_hours:.1f} replica-hours</title>"
            if each.settings == DEFAULTS:
                yield f'<rect x="{a - 5.5}" y="{b - 5.5}" width="11" height="11" fill="{colour}">{said}</rect>'
            else:
                yield f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}" opacity="0.8">{said}</circle>'


def _frontier(results: list[Result]) -> list[Result]:
    """Those that no other is both quicker and cheaper than, in the order of their cost."""
    kept: list[Result] = []
    for each in sorted(results, key=lambda each: (each.pod_hours, each.mean_wait)):
        if not kept or max(each.mean_wait, _LOWEST) < max(kept[-1].mean_wait, _LOWEST):
            kept.append(each)
    return kept


def _range(values: list[float]) -> tuple[float, float]:
    """A little more than what the values need."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 1
    return math.floor(max(low - room, 0)), math.ceil(high + room)
