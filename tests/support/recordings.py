"""Recordings that NEMS0 and NEMS wrote, and what these libraries read back from them."""

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from . import DATA

SELECTED = DATA / "recordings"
ALL = Path(__file__).parents[2] / "../shared/recordings"


class Case(NamedTuple):
    """One recording: its file, and what NEMS reads of its signals."""

    path: Path
    signals: dict[str, dict[str, Any]]
    data: dict[str, np.ndarray]  # by "signal", or "signal//channel or tile"

    def __str__(self) -> str:
        return f"{self.path.parent.name}-{self.path.stem}"


def cases(folder: Path) -> list[Case]:
    """The recordings below a folder; none if it is not there."""
    found = []
    for truth in sorted(folder.glob("*/truth.json")):
        arrays = np.load(truth.with_name("truth.npz"))
        for name, signals in json.loads(truth.read_text()).items():
            data = {k.partition("/")[2]: arrays[k] for k in arrays if k.split("/")[0] == name}
            found.append(Case(truth.with_name(f"{name}.tgz"), signals, data))
    return found


def assert_holds(rec: xr.Dataset, case: Case) -> None:
    """Compare all signals, channels and epochs with what NEMS reads.

    The parser of text that NEMS0 used could be off by one unit in the last place.
    """
    for name, signal in case.signals.items():
        variable = rec[f"{name}_signal" if name == "time" else name]
        assert variable.attrs["sampling_rate"] == signal["fs"]
        assert variable.attrs["signal_type"] == signal["kind"]
        channels = rec[f"{name}_channel"].values.tolist()
        if signal["kind"] == "RasterizedSignal":
            expected = case.data[name]
            assert variable.dtype == expected.dtype
            found = np.moveaxis(variable.values, 0, -1)
            np.testing.assert_allclose(found, expected, rtol=4e-16, atol=0)
            if signal["chans"] is not None and len(signal["chans"]) == len(expected):
                assert channels == signal["chans"]
        elif signal["kind"] == "PointProcess":
            assert channels == (signal["chans"] or signal["keys"])
            ends = np.cumsum(rec[f"{name}_row_size"].values)
            times = dict(zip(channels, np.split(variable.values, ends[:-1]), strict=True))
            for channel in channels:
                expected = case.data.get(f"{name}//{channel}", np.empty(0))
                np.testing.assert_array_equal(times[channel], expected)
        else:
            assert rec[f"{name}_tile"].values.tolist() == signal["keys"]
            for tile in signal["keys"]:
                found = variable.sel({f"{name}_tile": tile})
                np.testing.assert_array_equal(found, case.data[f"{name}//{tile}"])
        dim = f"{name}_epoch" if f"{name}_epoch_name" in rec else "epoch"
        names, starts, ends = zip(*signal["epochs"], strict=True)
        np.testing.assert_array_equal(rec[f"{dim}_start"], starts)
        np.testing.assert_array_equal(rec[f"{dim}_end"], ends)
        for found, expected in zip(rec[f"{dim}_name"].values, names, strict=True):
            # NEMS takes some names for missing values, and some for numbers.
            missing = expected != expected and found in ("", "NA", "nan", "None")
            assert missing or found == str(expected)


# --- recordings made for a test ------------------------------------------------------------------

EPOCHS = [("TRIAL", 0.0, 1.5), ("STIM_a", 0.25, 1.25), ("TRIAL", 1.5, 3.0)]
Members = dict[str, bytes]
Epochs = Sequence[tuple[str, float, float]]


def signal(
    name: str,
    data: NDArray[np.float64] | Mapping[str, Sequence[float]] | Mapping[str, NDArray[np.float64]],
    *,
    channels: Sequence[str],
    fs: float = 100,
    epochs: Epochs = EPOCHS,
    meta: Any = None,
    kind: str = "RasterizedSignal",
    recording: str = "demo",
) -> Members:
    """The three files of a signal."""
    about = {
        "name": name,
        "chans": list(channels),
        "fs": fs,
        "meta": meta,
        "signal_type": f"<class 'nems0.signal.{kind}'>",
    }
    table = io.StringIO()
    csv.writer(table).writerows([("name", "start", "end"), *epochs])
    stem = f"{recording}/{recording}.{name}"
    members = {f"{stem}.json": json.dumps(about).encode(), f"{stem}.epoch.csv": b""}
    members[f"{stem}.epoch.csv"] = table.getvalue().encode()
    content = io.BytesIO()
    if kind == "RasterizedSignal":
        np.savetxt(content, data, delimiter=",")
        members[f"{stem}.csv"] = content.getvalue()
    else:
        with h5py.File(content, "w") as file:
            for key, values in dict(data).items():  # type: ignore[arg-type]
                file.create_dataset(key, data=np.asarray(values, float))
        members[f"{stem}.h5"] = content.getvalue()
    return members


def raster(n_samples: int, n_channels: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.poisson(0.5, (n_samples, n_channels)) / np.array([1, 20])[rng.integers(0, 2)]


def pack(path: Path, members: Members, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
