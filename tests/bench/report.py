"""What a benchmark found beside what it is to show: one line a figure, red where a target was missed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is in words; `met` is None where there is none."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None


@dataclass
class Report:
    """All figures of one run."""

    figures: list[Figure] = field(default_factory=list)

    def at_least(self, name: str, value: float, target: float, form: Callable[[float], str]) -> None:
        """Add a figure that is to be this large or larger."""
        self.figures.append(Figure(name, form(value), f"≥ {form(target)}", value >= target))

    def below(self, name: str, value: float, target: float, form: Callable[[float], str]) -> None:
        """Add a figure that is to be smaller."""
        self.figures.append(Figure(name, form(value), f"< {form(target)}", value < target))

    def note(self, name: str, value: str) -> None:
        """Add a figure without a target."""
        self.figures.append(Figure(name, value))

    @property
    def missed(self) -> list[Figure]:
        """The figures that miss their target."""
        return [figure for figure in self.figures if figure.met is False]

    def print(self, title: str) -> None:
        """Draw the table."""
        table = Table(title=title, title_justify="left")
        for heading in ("what", "measured", "target", ""):
            table.add_column(heading, justify="left" if heading == "what" else "right")
        for figure in self.figures:
            mark = "" if figure.met is None else "[green]met[/green]" if figure.met else "[red]MISSED[/red]"
            table.add_row(figure.name, figure.value, figure.target, mark)
        Console(width=150).print(table)


def times(value: float) -> str:
    """Write a ratio."""
    return f"{value:.2f} ×"


def percent(value: float) -> str:
    """Write a share."""
    return f"{value:.0%}"


def milliseconds(value: float) -> str:
    """Write a time that is given in ms."""
    return f"{value:.2f} ms"


def megabytes(value: float) -> str:
    """Write a size that is given in MB."""
    return f"{value:.0f} MB"


def per_second(value: float) -> str:
    """Write a rate."""
    return f"{value:.2f}/s" if value < 100 else f"{value:,.0f}/s"


def paired(ours: list[float], theirs: list[float]) -> float:
    """Give the median of the ratios within each repetition: the machine's speed drifts, a pair's ratio holds."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def quantile(values: list[float], q: float) -> float:
    """Give the value below which a share `q` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
