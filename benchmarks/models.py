"""The tables of docs/models.md: how the reference models do on simulated releases, and how fast.

    python benchmarks/models.py scores             # a truth that adapts
    python benchmarks/models.py scores --truth linear
    python benchmarks/models.py speed              # full-size A1

``scores`` fits every model, with and without AdapTrans, to a simulated PEG release of 64 cells and
305 est sounds, and sets it beside the ridge STRF and the true rates. Fits run at the same time
(``--jobs``), are kept in benchmarks/data, and go on where they were when they are interrupted.
``speed`` times fits to a simulated A1 of 849 cells and 575 est sounds.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
import xarray as xr

import nat4xr
from nat4xr.models import MODELS, fit, run

DATA = Path(__file__).parent / "data"
FRONTS = (None, "adaptrans")


def release(area: str, **options: object) -> xr.Dataset:
    """Open a simulated release, which is made on first use."""
    folder = DATA / "-".join([area, *map(str, options.values())])
    if not folder.exists():
        nat4xr.simulate(folder, areas=[area], **options)
    return nat4xr.open_area(area, folder)


def small_release(truth: str) -> xr.Dataset:
    return release("PEG", scale=0.16, sound_scale=0.53, model=truth, seed=0)


def score(job: tuple[str, str, str | None, int]) -> dict[str, object]:
    """Fit a model with several seeds, in a process of its own."""
    truth, model, front, seeds = job
    torch.set_num_threads(1)
    start = perf_counter()
    out = DATA / f"results-{truth}"
    table = run(small_release(truth), model, front, seeds=seeds, out=out, progressbar=False)
    row = table[table["n_seeds"].notna()].iloc[0]
    print(f"{row['backbone']}: {perf_counter() - start:.0f} s", flush=True)
    columns = ["backbone", "params_per_neuron", "cc_raw", "cc_raw_sd", "cc_norm", "cc_norm_sd"]
    return row[columns].to_dict()


def references(truth: str) -> list[dict[str, object]]:
    """Score the true rates, which no model can beat but by chance, and the ridge STRF."""
    ds = small_release(truth)
    with xr.open_dataset(DATA / f"PEG-0.16-0.53-{truth}-0" / "truth.nc") as file:
        predictions = {"the true rates": file["rate"].load()}
    spectrogram = nat4xr.preprocess.log_minmax(ds["spectrogram"])
    est, val = ds.sel(subset="est"), spectrogram.sel(subset="val")
    for name, nonlinearity in (("ridge STRF", None), ("ridge STRF, isotonic", "isotonic")):
        strf = nat4xr.strf.fit(
            spectrogram.sel(subset="est"), est["psth"], nonlinearity=nonlinearity
        )
        predictions[name] = nat4xr.strf.predict(strf, val)
    rows = []
    for name, prediction in predictions.items():
        result = nat4xr.benchmark.evaluate(prediction, ds)
        scores = {s: round(100 * result.attrs[f"{s}_mean"], 1) for s in ("cc_raw", "cc_norm")}
        rows.append({"backbone": name, **scores})
    rows[1]["params_per_neuron"] = 18 * 25 + 1
    return rows


def scores(truth: str, seeds: int, jobs: int) -> None:
    rows = references(truth)
    todo = [(truth, model, front, seeds) for model, front in product(MODELS, FRONTS)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        rows += pool.map(score, todo)
    table = pd.DataFrame(rows)
    table["of_ceiling"] = (table["cc_norm"] / table["cc_norm"][0]).round(3)
    print(f"\nSIMULATED data, {truth} truth; {seeds} seeds; scores and spreads in percent\n")
    print(table.to_string(index=False))


def speed(device: str | None, area: str = "A1") -> None:
    ds = release(area, scale=1, sound_scale=1, model="linear", seed=0)
    ds = ds[["spectrogram", "psth"]].sel(subset="est").load()
    rows = []
    for model, front in product(MODELS, FRONTS):
        options = {"device": device, "progressbar": False}
        fit(ds, model, front, max_epochs=1, **options)  # what is done once only
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for n_epochs in (1, 11):
            start = perf_counter()
            fitted = fit(ds, model, front, max_epochs=n_epochs, **options)
            seconds.append(perf_counter() - start)
        n_sounds = round(0.9 * ds.sizes["stim"])
        memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        rows.append(
            {
                "model": fitted.name,
                "parameters": fitted.network.n_parameters,
                "sounds a second": round(10 * n_sounds / (seconds[1] - seconds[0])),
                "seconds an epoch": round((seconds[1] - seconds[0]) / 10, 2),
                "peak GPU memory, MiB": memory and round(memory),
            }
        )
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{where}, torch {torch.__version__}: fits to A1, {ds.sizes['neuron']} cells\n")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["scores", "speed"])
    parser.add_argument("--truth", choices=["adaptive", "linear"], default="adaptive")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    if arguments.what == "scores":
        scores(arguments.truth, arguments.seeds, arguments.jobs)
    else:
        speed(arguments.device)
