"""Sounds and responses for PyTorch."""

from __future__ import annotations

import dask
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .learning import drop_empty_repeats
from .tables import check_dims


def torch_dataset(ds: xr.Dataset, *, stimulus: xr.DataArray | None = None) -> SoundDataset:
    """Give the sounds of a Dataset, and the responses to them, to PyTorch.

    Parameters
    ----------
    ds : Dataset
        With ``response`` (stim, rep, time, neuron): from `nat4xr.open_area`, whole or selected.
    stimulus : DataArray, optional
        What models are given, with the dim ``stim``, for these sounds or more: a spectrogram
        prepared by `nat4xr.preprocess`, or the waveforms of ``nat4xr.open_waveforms(stims=ds)``
        (without ``stims``, they have the names of the files, which can differ in letter case).
        Default: ``ds.spectrogram``.

    Returns
    -------
    torch.utils.data.Dataset
        An item a sound, in the order of ``ds``: three tensors,

        - the stimulus, float32 (1, freq, time), or (1, sample) of waveforms;
        - the responses, float32 (neuron, rep, time), spikes per bin, NaN where not recorded;
        - the valid mask, bool (neuron, rep, time), where they are not NaN.

        All items have one shape, so that a ``DataLoader`` makes batches of them. Repeats that
        no sound of ``ds`` has are left out: est sounds alone have one. The attributes ``stims``
        and ``neurons`` name what stands along the axes.

    Raises
    ------
    KeyError
        If ``stimulus`` does not have a sound of ``ds``.
    TypeError
        If ``stimulus`` is no DataArray.
    ValueError
        If a dim is missing, or there is no sound or no cell.

    Notes
    -----
    The responses are read when the Dataset is made, and held without the repeats that were not
    presented: 0.3 GB for the est sounds of A1, 0.5 GB for all its sounds. Workers that a
    ``DataLoader`` forks share that memory; spawned ones get a copy.

    Examples
    --------
    >>> import nat4xr
    >>> from torch.utils.data import DataLoader
    >>> train, validation = nat4xr.bridges.split_est(nat4xr.open_area("A1"))
    >>> sounds = nat4xr.bridges.torch_dataset(train.load())
    >>> for stim, response, valid in DataLoader(sounds, batch_size=4, shuffle=True):
    ...     error = (response - 0.1)[valid].square().mean()
    >>> stim.shape[1:], response.shape[1:]
    (torch.Size([1, 18, 150]), torch.Size([17, 1, 150]))
    """
    return SoundDataset(ds, ds["spectrogram"] if stimulus is None else stimulus)


class SoundDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stimulus, responses and valid mask of each sound: what `torch_dataset` returns."""

    def __init__(self, ds: xr.Dataset, stimulus: xr.DataArray) -> None:
        check_dims(ds["response"], "stim", "rep", "time", "neuron")
        response = drop_empty_repeats(ds)["response"]
        if not response.size:
            raise ValueError(f"there is no sound or no cell in the selection: {dict(ds.sizes)}")
        if not isinstance(stimulus, xr.DataArray):
            raise TypeError(f"stimulus must be a DataArray, not {type(stimulus).__name__}")
        if "stim" not in stimulus.dims:
            raise ValueError(f"the stimulus has no dim 'stim', but {stimulus.dims}")
        self.stims: list[str] = ds["stim"].values.tolist()
        self.neurons: list[str] = ds["neuron"].values.tolist()
        stimulus = stimulus.sel(stim=self.stims)
        channels = [dim for dim in ("freq",) if dim in stimulus.dims]
        # Variables: items need no labels.
        self._stimulus = stimulus.transpose("stim", *channels, ...).variable
        if "sample" not in stimulus.dims:  # waveforms are large, and are read one by one
            self._stimulus = self._stimulus.load()
        self._n_reps = response.sizes["rep"]
        self._responses = _read_presented(response, ds.get("n_reps"))

    def __len__(self) -> int:
        return len(self.stims)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        if not -len(self) <= item < len(self):  # what ends a loop over the items
            raise IndexError(f"there are {len(self)} sounds; not {item}")
        # Dask's threads do not survive the fork that starts a worker; it would wait forever.
        with dask.config.set(scheduler="synchronous"):
            stimulus = torch.from_numpy(
                np.array(self._stimulus[item].values, dtype=np.float32, order="C")
            )
        presented = torch.from_numpy(self._responses[item])
        missing = self._n_reps - presented.shape[1]
        response = torch.nn.functional.pad(presented, (0, 0, 0, missing), value=torch.nan)
        return stimulus.unsqueeze(0), response, ~response.isnan()


def _read_presented(
    response: xr.DataArray, n_reps: xr.DataArray | None
) -> list[NDArray[np.float32]]:
    """Read the repeats that any cell has of each sound, (neuron, rep, time)."""
    response = response.transpose("stim", "neuron", "rep", "time")
    held = np.full(response.sizes["stim"], response.sizes["rep"])
    if n_reps is not None and {"stim", "neuron"} == set(n_reps.dims):
        held = np.minimum(held, n_reps.max("neuron").values)
    sounds: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(held)
    for n in np.unique(held):  # sounds with as many repeats are read together
        stims = np.flatnonzero(held == n)
        block = response.isel(stim=stims, rep=slice(n)).astype(np.float32, copy=False).values
        for stim, one in zip(stims, block, strict=True):
            sounds[stim] = np.ascontiguousarray(one)
    return sounds
