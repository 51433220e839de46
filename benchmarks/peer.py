"""Compare `open_area` with a plain script that reads the same arrays."""

from statistics import median

from .measure import cost, forget, machine, opening, release

LOAD = "ds.response.sel(subset='val').load(); ds.psth.load()"


def run(rounds: int) -> None:
    """Measure both, check that they read the same arrays, and print a table."""
    folder = release()
    script = f"arrays = plain_script.read(Path({str(folder)!r}))"
    imports = "from pathlib import Path; from benchmarks import plain_script"
    ways: dict[str, list[float]] = {"plain script": [], "nat4xr, cold": [], "nat4xr, warm": []}
    peaks: dict[str, list[float]] = {way: [] for way in ways}
    print(f"Val trials and PSTHs of full-size A1 in memory, {rounds} rounds; {machine()}")
    for _ in range(rounds):
        for way in ways:
            if way == "plain script":
                result = cost(script, imports)
            else:
                if way == "nat4xr, cold":
                    forget(folder)
                result = cost(f"{opening(folder)}; {LOAD}", "import nat4xr")
            ways[way].append(result.seconds)
            peaks[way].append(result.peak_mb)

    same = (
        "assert np.array_equal(arrays[0], ds.response.sel(subset='val'), equal_nan=True)\n"
        "assert np.array_equal(arrays[1], ds.psth)"
    )
    cost(same, f"import nat4xr; import numpy as np; {imports}; {script}; {opening(folder)}")
    print("All of them read exactly the same arrays.\n")
    print("|              |   min | median |   max |   | over script   | peak memory |")
    print("|--------------|------:|-------:|------:|---|--------------:|------------:|")
    for way, times in ways.items():
        share = median(a / b for a, b in zip(times, ways["plain script"], strict=True))
        spread = f"{min(times):5.2f} | {median(times):6.2f} | {max(times):5.2f} | s"
        print(f"| {way:12} | {spread} | {share:13.2f} | {median(peaks[way]):8.0f} MB |")
    print(f"\nAt the end: {machine()}")
