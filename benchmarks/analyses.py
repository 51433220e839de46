"""What each analysis of the page on populations costs, on both areas at full size."""

import os
import re
from pathlib import Path

from .measure import DATA, cost, machine, process

PAGE = Path(__file__).parents[1] / "docs" / "population_analyses.md"
_CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTIONS = re.compile(r"\A(---\n.*?^---\n|(:[^\n]*\n)+)", re.MULTILINE | re.DOTALL)


def recipes(*, truth: bool) -> dict[str, str]:
    """The code of each section of the page, after its imports; with that of the truth, or not."""

    def code(text: str) -> str:
        cells = (cell for cell in _CELL.findall(text) if truth or "hide-input" not in cell)
        return "\n".join(_OPTIONS.sub("", cell) for cell in cells)

    head, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    codes = {section.split("\n", 1)[0]: code(section) for section in sections}
    return {title: code(head) + "\n" + body for title, body in codes.items() if body}


def run(rounds: int) -> None:
    """Print a table; the first call simulates the areas and converts them."""
    folder = DATA / "both-areas"
    if not folder.exists():
        print("Simulating both areas (once; some minutes) ...", flush=True)
        cost(f"nat4xr.simulate({str(folder.with_suffix('.part'))!r}, scale=1)", "import nat4xr")
        folder.with_suffix(".part").rename(folder)
    os.environ.update(NAT4XR_DATA_DIR=str(folder), MPLBACKEND="agg")
    opened = "; ".join(f"nat4xr.open_area({a!r}); nat4xr.open_spikes({a!r})" for a in ("A1", "PEG"))
    cost(opened, "import nat4xr")
    print(f"The best of {rounds} rounds; {machine()}\n")
    print("| analysis | time | processor time | peak memory |")
    print("|---|--:|--:|--:|")
    for title, code in recipes(truth=False).items():
        costs = [process(code) for _ in range(rounds)]
        seconds, peak_mb, cpu_s = (min(values) for values in zip(*costs, strict=True))
        print(
            f"| {title} | {seconds:.0f} s | {cpu_s:.0f} s | {peak_mb / 1000:.1f} GB |", flush=True
        )
