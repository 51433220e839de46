"""Measure the first `open_area` for different numbers of cells and of sounds."""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import POPULATION, converted_mb, cost, forget, gunzip, machine, opening, release

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "scale.png"
N_CELLS, N_SOUNDS = 849, 593  # of A1
CELLS = [(0.5, 1), (1, 1), (2, 1), (4, 1)]
SOUNDS = [(1, 0.25), (1, 0.5), (1, 0.75), (1, 1)]


class Point(NamedTuple):
    cells: int
    sounds: int
    seconds: float
    peak_mb: float
    file_mb: float
    tgz_mb: float


def measured(cells: float, sounds: float, rounds: int) -> Point:
    folder = release(cells, sounds)
    opens = []
    for _ in range(rounds):
        forget(folder)
        opens.append(cost(opening(folder), "import nat4xr"))
    return Point(
        round(cells * N_CELLS),
        round(sounds * N_SOUNDS),
        median(one.seconds for one in opens),
        median(one.peak_mb for one in opens),
        converted_mb(folder),
        (folder / POPULATION).stat().st_size / 1e6,
    )


def run(rounds: int) -> None:
    """Measure, print a table and draw it."""
    sizes = list(dict.fromkeys([*CELLS, *SOUNDS]))
    points, units = {}, []
    for size in sizes:
        points[size] = measured(*size, rounds)
        units.append(gunzip(release()).seconds)
    unit = median(units)  # the same for all sizes, because single measurements vary much

    print(f"Cold open of multiples of A1, medians of {rounds} rounds; {machine()}")
    print(f"A gunzip of A1 took {unit:.1f} s ({min(units):.1f} to {max(units):.1f} s)\n")
    print("| cells | sounds | time    | gunzips of A1 | peak memory | file     | of the tgz |")
    print("|------:|-------:|--------:|--------------:|------------:|---------:|-----------:|")
    for point in points.values():
        print(
            f"| {point.cells:5} | {point.sounds:6} | {point.seconds:5.1f} s "
            f"| {point.seconds / unit:13.2f} | {point.peak_mb:8.0f} MB | {point.file_mb:5.1f} MB "
            f"| {point.file_mb / point.tgz_mb:10.2f} |"
        )
    draw([points[size] for size in CELLS], [points[size] for size in SOUNDS])
    print(f"\nThe figure is in {FIGURE}")


def draw(by_cells: list[Point], by_sounds: list[Point]) -> None:
    import matplotlib.pyplot as plt

    labels = {"seconds": "time (s)", "peak_mb": "peak memory (MB)", "file_mb": "file (MB)"}
    figure, axes = plt.subplots(2, 3, figsize=(8, 4.5), layout="constrained")
    for row, along, points in zip(axes, ("cells", "sounds"), (by_cells, by_sounds), strict=True):
        for ax, (quantity, label) in zip(row, labels.items(), strict=True):
            x, y = zip(*((getattr(p, along), getattr(p, quantity)) for p in points), strict=True)
            ax.plot(x, y, "o-", color="black", clip_on=False)
            ax.set(xlabel=along, ylabel=label, xlim=(0, None), ylim=(0, None))
            ax.spines[["top", "right"]].set_visible(False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=100)
