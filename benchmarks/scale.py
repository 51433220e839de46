"""Cost of the cold open against the numbers of cells and of sounds."""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import POPULATION, converted_mb, cost, forget, gunzip, machine, opening, release

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "scale.png"
CELLS = [(0.5, 1), (1, 1), (2, 1), (4, 1)]
SOUNDS = [(1, 0.25), (1, 0.5), (1, 0.75), (1, 1)]


class Point(NamedTuple):
    cells: float
    sounds: float
    seconds: float
    gunzips: float  # of this release's own population recording
    peak_mb: float
    file_mb: float
    tgz_mb: float


def measured(cells: float, sounds: float, rounds: int) -> Point:
    folder = release(cells, sounds)
    times, ratios, peaks = [], [], []
    for _ in range(rounds):
        forget(folder)
        unit = gunzip(folder).seconds
        cold = cost(opening(folder), "import nat4xr")
        times.append(cold.seconds)
        ratios.append(cold.seconds / unit)
        peaks.append(cold.peak_mb)
    tgz = (folder / POPULATION).stat().st_size / 1e6
    return Point(
        cells, sounds, median(times), median(ratios), median(peaks), converted_mb(folder), tgz
    )


def run(rounds: int) -> None:
    """Measure, print a table and draw it."""
    print(f"Cold open of multiples of A1, median of {rounds} rounds; {machine()}\n")
    print("| cells | sounds | time (s) | gunzips | peak (MB) | file (MB) | of the tgz |")
    print("|------:|-------:|---------:|--------:|----------:|----------:|-----------:|")
    points = []
    for cells, sounds in dict.fromkeys([*CELLS, *SOUNDS]):
        points.append(point := measured(cells, sounds, rounds))
        print(
            f"| {849 * cells:5.0f} | {593 * sounds:6.0f} | {point.seconds:8.2f} "
            f"| {point.gunzips:7.2f} | {point.peak_mb:9.0f} | {point.file_mb:9.1f} "
            f"| {point.file_mb / point.tgz_mb:10.2f} |",
            flush=True,
        )
    draw(points)
    print(f"\nDrawn in {FIGURE}. At the end: {machine()}")


def draw(points: list[Point]) -> None:
    import matplotlib.pyplot as plt

    quantities = {"seconds": "cold open (s)", "peak_mb": "peak memory (MB)", "file_mb": "file (MB)"}
    figure, axes = plt.subplots(2, 3, figsize=(8, 4.5), sharey="col", layout="constrained")
    for row, places, along, unit in zip(
        axes, (CELLS, SOUNDS), ("cells", "sounds"), (849, 593), strict=True
    ):
        line = sorted(p for p in points if (p.cells, p.sounds) in places)
        for ax, (quantity, label) in zip(row, quantities.items(), strict=True):
            ax.plot(
                [unit * getattr(p, along) for p in line], [getattr(p, quantity) for p in line], "o-"
            )
            ax.set(xlabel=along, ylabel=label, xlim=(0, None), ylim=(0, None))
            ax.spines[["top", "right"]].set_visible(False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=100)
