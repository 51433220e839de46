"""Measure the speed of the models, and their scores on simulated releases.

    python benchmarks/models.py speed              # a minute or two, on the GPU if there is one
    python benchmarks/models.py scores             # adaptive encoding model; hours on a CPU
    python benchmarks/models.py scores --truth linear

``scores`` fits all models, with and without AdapTrans, to a simulated PEG release, and compares
them with the ridge STRF and the true rates. The release has 64 cells (``--cell-scale`` times 398)
and 305 est sounds (``--sound-scale`` times 575). ``--jobs`` is the number of fits that run in
parallel. Fits are saved in benchmarks/data, and continue after an interruption. ``speed`` measures
steps of a fit (forward and backward passes, and the change of the weights) to 16 sounds of 150 bins
and the 849 cells of A1. If deepSTRF is installed, its modules are measured too.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr

import nat4xr
from nat4xr.models import MODELS, Network, mse, run
from nat4xr.models.steps import GraphedStep, adam, plain_step

DATA = Path(__file__).parent / "data"
FRONTS = (None, "adaptrans")


COLUMNS = ["params_per_neuron", "epochs"]
for name in ("cc_norm", "r_ceiling", "cc_raw"):
    COLUMNS += [name, f"{name}_se"]


class Release(NamedTuple):
    """What to simulate: the encoding model, and the numbers of cells and sounds."""

    truth: str
    cell_scale: float
    sound_scale: float

    def __str__(self) -> str:
        return "-".join(map(str, self))


def simulated(release: Release) -> Path:
    """Return the folder of a simulated release, which is made on first use."""
    path = DATA / f"PEG-{release}"
    if not path.exists():
        truth, scale, sound_scale = release
        options = {"scale": scale, "sound_scale": sound_scale, "model": truth, "seed": 0}
        nat4xr.simulate(path, areas=["PEG"], progressbar=False, **options)
    return path


def score(
    model: str, front: str | None, *, release: Release, seeds: int, epochs: int
) -> pd.DataFrame:
    """Fit a model with several seeds. Each job runs in a separate process."""
    torch.set_num_threads(1)
    start = perf_counter()
    ds = nat4xr.open_area("PEG", simulated(release), progressbar=False)
    numbers: list[int] = []
    table = run(
        *(ds, model, front),
        seeds=seeds,
        out=DATA / f"results-{release}-{epochs}",
        max_epochs=epochs,
        monitor=lambda number, *_: numbers.append(number),
        progressbar=False,
    )
    row = table[table["n_seeds"].notna()].assign(epochs=round(len(numbers) / seeds))
    seconds = perf_counter() - start
    print(f"{row['backbone'].item()}: {len(numbers)} epochs, {seconds:.0f} s", flush=True)
    return row


def references(release: Release) -> pd.DataFrame:
    """Score the ridge STRF, and the true rates, which a model can only exceed by chance."""
    path = simulated(release)
    ds = nat4xr.open_area("PEG", path, progressbar=False)
    with xr.open_dataset(path / "truth.nc") as file:
        predictions = {"the true rates": file["rate"].load()}
    spectrogram = nat4xr.preprocess.log_minmax(ds["spectrogram"])
    est, val = ds.sel(subset="est"), spectrogram.sel(subset="val")
    for name, nonlinearity in (("ridge STRF", None), ("ridge STRF, isotonic", "isotonic")):
        strf = nat4xr.strf.fit(
            spectrogram.sel(subset="est"), est["psth"], nonlinearity=nonlinearity
        )
        predictions[name] = nat4xr.strf.predict(strf, val)
    results = {name: nat4xr.benchmark.evaluate(pred, ds) for name, pred in predictions.items()}
    table = nat4xr.benchmark.leaderboard(results)
    table.loc[table["backbone"] == "ridge STRF", "params_per_neuron"] = 18 * 25 + 1
    return table[table["simulated"]]


def scores(
    release: Release, seeds: int, epochs: int, fronts: Sequence[str | None], jobs: int
) -> None:
    fit = partial(score, release=release, seeds=seeds, epochs=epochs)
    fits = list(product(fronts, MODELS))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        ours = pool.map(fit, [model for _, model in fits], [front for front, _ in fits])
        rows = [references(release), *ours]
    columns = [*COLUMNS, "cc_norm_sd"] if seeds > 1 else COLUMNS
    table = pd.concat(rows).set_index("backbone")[columns]
    print(f"\nSIMULATED data: {release._asdict()}, {seeds} seeds, at most {epochs} epochs")
    print("Scores, standard errors over sounds (_se) and deviations over seeds (_sd) in percent\n")
    print(table.to_string())


def speed(device: str | None, threads: int | None) -> None:
    """Time the steps of a fit: forward and backward passes, and the changes of the weights."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if threads:
        torch.set_num_threads(threads)
    on_gpu = where.type == "cuda"
    sounds = torch.rand(518, 1, 18, 150, device=where)
    counts = torch.rand(518, 849, 150, device=where)
    batch = torch.randperm(518, device=where)[:16]
    ours = {
        "+".join(filter(None, [model, front])): partial(
            Network, model, front, torch.full((849,), 0.1), 18, 0.01
        )
        for model, front in product(MODELS, FRONTS)
    }
    rows = []
    for model, make in (ours | peers()).items():
        network = make().to(where)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if on_gpu else 0
        if model in ours:
            optimizer: torch.optim.Optimizer = adam(network, 1e-3, on_gpu=on_gpu)
            step = plain_step(network, mse, optimizer, sounds, counts, 1.0)
            step = GraphedStep(step, len(batch)) if on_gpu else step
        else:
            optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0)
            step = plain_step(network, squared_error, optimizer, sounds, counts, None)
        seconds = seconds_per_call(partial(step, batch), torch.cuda.synchronize if on_gpu else None)
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else None
        rows.append(
            {
                "model": model,
                "parameters": sum(p.numel() for p in network.parameters()),
                "sounds a second": round(len(batch) / seconds),
                "seconds an epoch of 518 sounds": round(518 / len(batch) * seconds, 3),
                "peak GPU memory, MiB": memory and round(memory),
            }
        )
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}: steps of a fit, 16 sounds of 150 bins\n")
    print(pd.DataFrame(rows).dropna(axis=1).to_string(index=False))


def squared_error(rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(rate.reshape(counts.shape), counts)


def peers() -> dict[str, Callable[[], torch.nn.Module]]:
    """Return the modules of deepSTRF that correspond to ours, if it is installed."""
    try:
        from deepSTRF.models.audio import ConvNet2D, StateNet, Transformer
    except ImportError:
        return {}
    common = {"n_frequency_bands": 18, "out_neurons": 849}
    return {
        "deepSTRF StateNet": lambda: StateNet(
            kernel_size=5,
            stride=2,
            hidden_channels=10,
            connectivity="LC",
            rnn_type="LSTM",
            **common,
        ),
        "deepSTRF Transformer": lambda: Transformer(
            time_patch_size=1, context_window=41, embedding_dim=48, n_layers=2, **common
        ),
        "deepSTRF ConvNet2D": lambda: ConvNet2D(
            kernel_size=(3, 7), c_hidden=10, n_hidden=90, **common
        ),
    }


def seconds_per_call(step: Callable[[], None], wait: Callable[[], None] | None) -> float:
    """Return the time of a call in the fastest of five runs of half a second, after a warm-up."""
    n_calls, best = 1, float("inf")
    for repeat in range(6):
        start = perf_counter()
        for _ in range(n_calls):
            step()
        if wait:
            wait()
        seconds = (perf_counter() - start) / n_calls
        if repeat > 0:
            best = min(best, seconds)
        n_calls = max(1, round(0.5 / seconds))
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["scores", "speed"])
    parser.add_argument("--truth", choices=["adaptive", "linear"], default="adaptive")
    parser.add_argument("--cell-scale", type=float, default=0.16)
    parser.add_argument("--sound-scale", type=float, default=0.53)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--no-adaptrans", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.what == "scores":
        release = Release(arguments.truth, arguments.cell_scale, arguments.sound_scale)
        fronts = FRONTS[:1] if arguments.no_adaptrans else FRONTS
        scores(release, arguments.seeds, arguments.epochs, fronts, arguments.jobs)
    else:
        speed(arguments.device, arguments.threads)
