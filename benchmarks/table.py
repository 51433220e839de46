"""The table of full-size A1: each figure as a ratio to the gunzip of the same round."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import (
    POPULATION,
    converted_mb,
    cost,
    forget,
    gunzip,
    machine,
    opening,
    release,
    streamed_gunzip,
)


class Figure(NamedTuple):
    name: str
    unit: str
    divisor: str | None = None  # the figure of the same round that it is a ratio to
    must: float | None = None
    aim: float | None = None


GUNZIP = "gzip.decompress of the population tgz: 1 gunzip"
FIGURES = [
    Figure(GUNZIP, "s"),
    Figure("the same, streamed by gzip.open", "s", GUNZIP),
    Figure("first open_area (cold)", "s", GUNZIP, 1.5, 1.0),
    Figure("first open_area of a process (warm, with imports)", "s", GUNZIP),
    Figure("later open_area (warm)", "s", GUNZIP, 0.05, 0.01),
    Figure("one cell, all est sounds", "s", GUNZIP, 0.05, 0.01),
    Figure("all val trials", "s", GUNZIP, 0.25, 0.1),
    Figure("all val trials, chunks=None", "s", GUNZIP, 0.25, 0.1),
    Figure("import nat4xr", "s", None, 1.0, 0.3),
    Figure("peak memory of the cold open", "MB", None, 1000, 500),
    Figure("peak memory of to_netcdf of the whole", "MB", None, 1500, 800),
    Figure("time of to_netcdf of the whole", "s", GUNZIP),
    Figure("size of the population tgz", "MB"),
    Figure("size of the converted file", "MB", "size of the population tgz", 1.5, 1.0),
]


def measured(folder: Path) -> Iterator[tuple[str, float]]:
    """One round: every figure once."""
    opened = f"import nat4xr; {opening(folder)}; ds.n_reps.load()"
    plain = f"import nat4xr; {opening(folder, options='chunks=None')}; ds.n_reps.load()"
    cell = "ds.response.sel(neuron=ds.neuron.values[400], subset='est').load()"
    val = "ds.response.sel(subset='val').load()"
    export = folder / "export.nc"

    yield GUNZIP, gunzip(folder).seconds
    yield "the same, streamed by gzip.open", streamed_gunzip(folder).seconds
    forget(folder)
    cold = cost(opening(folder), "import nat4xr")
    yield "first open_area (cold)", cold.seconds
    yield "peak memory of the cold open", cold.peak_mb
    warm = cost(opening(folder), "import nat4xr")
    yield "first open_area of a process (warm, with imports)", warm.seconds
    yield "later open_area (warm)", cost(opening(folder), opened).seconds
    yield "one cell, all est sounds", cost(cell, opened).seconds
    yield "all val trials", cost(val, opened).seconds
    yield "all val trials, chunks=None", cost(val, plain).seconds
    yield "import nat4xr", cost("import nat4xr").seconds
    whole = cost(f"ds.to_netcdf({str(export)!r})", opened)
    export.unlink()
    yield "peak memory of to_netcdf of the whole", whole.peak_mb
    yield "time of to_netcdf of the whole", whole.seconds
    yield "size of the population tgz", (folder / POPULATION).stat().st_size / 1e6
    yield "size of the converted file", converted_mb(folder)


def run(rounds: int) -> None:
    """Measure and print the table."""
    folder = release()
    print(f"Full-size A1, {rounds} rounds; {machine()}", flush=True)
    results = []
    for number in range(rounds):
        results.append(dict(measured(folder)))
        print(f"round {number + 1}: a gunzip took {results[-1][GUNZIP]:.2f} s", flush=True)
    print(f"\n| {'':49} |    min | median |    max |    | ratio | must be | aim  | met  |")
    print(f"|{'-' * 51}|-------:|-------:|-------:|----|------:|--------:|-----:|------|")
    for name, unit, divisor, must, aim in FIGURES:
        values = [result[name] for result in results]
        spread = " | ".join(f"{v:6.3g}" for v in (min(values), median(values), max(values)))
        ratio = divisor and median(result[name] / result[divisor] for result in results)
        limits = " | ".join(f"{limit or '':>{w}}" for limit, w in ((must, 7), (aim, 4)))
        met = verdict(ratio or median(values), must, aim)
        shown = f"{ratio:.3f}" if ratio else ""
        print(f"| {name:49} | {spread} | {unit:2} | {shown:>5} | {limits} | {met:4} |")
    print(f"\nRatios are medians over rounds. At the end: {machine()}")


def verdict(value: float, must: float | None, aim: float | None) -> str:
    if must is None or aim is None:
        return ""
    return "aim" if value <= aim else "must" if value <= must else "NO"
