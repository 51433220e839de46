"""Measure time, memory and size for full-size A1, relative to a gunzip of the same round."""

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
    process,
    release,
)


class Figure(NamedTuple):
    name: str
    unit: str
    divisor: str | None = None  # the ratio is to this figure of the same round
    must: float | None = None
    aim: float | None = None


GUNZIP = "gunzip: a process that streams the population tgz"
CPU = "CPU time of the gunzip"
PLAIN = "xr.open_dataset(file, chunks={}) of it, process"
TGZ = "size of the population tgz"
FIGURES = [
    Figure(GUNZIP, "s"),
    Figure(CPU, "s"),
    Figure("first open_area, process", "s", GUNZIP, 1.1, 0.8),
    Figure("CPU time of it", "s", CPU, 1.4, 1.0),
    Figure("peak memory of it", "MB", None, 400, 300),
    Figure(PLAIN, "s"),
    Figure("later open_area, process", "s", PLAIN, 1.10, 1.05),
    Figure("import nat4xr, process", "s", PLAIN),
    Figure("ds.to_netcdf of the whole", "s", GUNZIP, 5, 4),
    Figure("peak memory of it, process", "MB", None, 800, 600),
    Figure("nat4xr export A1 whole.nc, process", "s", GUNZIP, 0.7, 0.45),
    Figure("ds.psth.load()", "s", GUNZIP, 0.2, 0.12),
    Figure("first open_spikes after open_area", "s", GUNZIP, 0.5, 0.3),
    Figure("open_area(subset='est').response.load()", "s", GUNZIP, 0.4, 0.25),
    Figure("peak memory of it, process", "MB", None, 800, 400),
    Figure("all val trials, loaded", "s", GUNZIP),
    Figure("one cell, all est sounds, loaded", "s", GUNZIP),
    Figure("benchmark.evaluate of all cells, loaded", "s", GUNZIP, 0.3, 0.15),
    Figure("an epoch of a DataLoader over est, 2 workers", "s", GUNZIP, 0.7, 0.2),
    Figure(TGZ, "MB"),
    Figure("size of the converted file", "MB", TGZ),
]


def measured(folder: Path) -> Iterator[float]:
    """Measure all figures once, in the order of `FIGURES`."""
    open_all = opening(folder)
    opened = f"import nat4xr; {open_all}; ds.n_reps.load()"
    export = folder / "export.nc"

    unit = gunzip(folder)
    yield from (unit.seconds, unit.cpu_s)
    forget(folder)
    cold = process(f"import nat4xr; {open_all}")
    yield from (cold.seconds, cold.cpu_s, cold.peak_mb)
    (converted,) = folder.glob("A1_nat4xr-*.nc")
    plain = f"import xarray as xr; xr.open_dataset({str(converted)!r}, chunks={{}})"
    turns = [(process(plain), process(f"import nat4xr; {open_all}")) for _ in range(5)]
    yield from (median(turn.seconds for turn in kind) for kind in zip(*turns, strict=True))
    yield process("import nat4xr").seconds
    whole = cost(f"ds.to_netcdf({str(export)!r})", opened)
    yield from (whole.seconds, whole.peak_mb)
    export.unlink()
    arguments = ["export", "A1", str(export), "--path", str(folder)]
    yield process(f"from nat4xr.cli import main; main({arguments!r})").seconds
    export.unlink()
    yield cost("ds.psth.load()", opened).seconds
    spikes = open_all.replace("open_area", "open_spikes")
    yield cost(spikes, opened).seconds
    only_est = opening(folder, options="subset='est'")
    est = cost(f"{only_est}; ds.response.load()", "import nat4xr")
    yield from (est.seconds, est.peak_mb)
    yield cost("ds.response.sel(subset='val').load()", opened).seconds
    yield cost(
        "ds.response.sel(cell_id=ds.neuron.values[400], subset='est').load()", opened
    ).seconds
    val = opening(folder, options="subset='val'")
    scored = f"import nat4xr; {val}; ds.load(); pred = ds.psth + 0.01"
    yield cost("nat4xr.benchmark.evaluate(pred, ds)", scored).seconds
    sounds = (
        f"import nat4xr; {open_all}; from torch.utils.data import DataLoader; "
        "sounds = nat4xr.bridges.torch_dataset(ds.sel(subset='est'))"
    )
    yield _epoch(sounds)
    yield (folder / POPULATION).stat().st_size / 1e6
    yield converted_mb(folder)


def _epoch(sounds: str) -> float:
    try:
        import torch  # noqa: F401
    except ImportError:
        return float("nan")
    return cost(
        "for batch in DataLoader(sounds, batch_size=16, num_workers=2): pass", sounds
    ).seconds


def run(rounds: int) -> None:
    """Measure and print the table."""
    folder = release()
    print(f"Full-size A1, {rounds} rounds; {machine()}", flush=True)
    process(f"import nat4xr; {opening(folder)}")  # compiles the package
    results = []
    for number in range(rounds):
        results.append(dict(zip(range(len(FIGURES)), measured(folder), strict=True)))
        print(f"round {number + 1}: a gunzip took {results[-1][0]:.2f} s", flush=True)
    row_of = {figure.name: row for row, figure in enumerate(FIGURES)}
    print(f"\n| {'':53} |    min | median |    max |    | ratio | must be | aim  | met  |")
    print(f"|{'-' * 55}|-------:|-------:|-------:|----|------:|--------:|-----:|------|")
    for row, (name, unit, divisor, must, aim) in enumerate(FIGURES):
        values = [result[row] for result in results]
        spread = " | ".join(f"{v:6.3g}" for v in (min(values), median(values), max(values)))
        ratio = divisor and median(result[row] / result[row_of[divisor]] for result in results)
        limits = " | ".join(f"{limit or '':>{w}}" for limit, w in ((must, 7), (aim, 4)))
        met = verdict(ratio or median(values), must, aim)
        shown = f"{ratio:.3f}" if ratio else ""
        print(f"| {name:53} | {spread} | {unit:2} | {shown:>5} | {limits} | {met:4} |")
    print(f"\nRatios are medians over rounds. At the end: {machine()}")


def verdict(value: float, must: float | None, aim: float | None) -> str:
    if must is None or aim is None:
        return ""
    return "aim" if value <= aim else "must" if value <= must else "NO"
