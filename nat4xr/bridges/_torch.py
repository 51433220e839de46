"""Sounds and responses for PyTorch."""

from __future__ import annotations

import dask
import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..schema import check_not_empty
from .learning import drop_empty_repeats
from .tables import check_dims


def torch_dataset(ds: xr.Dataset, *, stimulus: xr.DataArray | None = None) -> SoundDataset:
    """Convert sounds and the responses to them to a Dataset of PyTorch.

    Parameters
    ----------
    ds : Dataset
        What `nat4xr.open_area` returns, or a selection of it, with ``response`` (stim, rep, time,
        neuron).
    stimulus : DataArray, optional
        The input of the model, with a dim ``stim`` that has at least the sounds of ``ds``. For
        example a spectrogram from `nat4xr.preprocess`, or ``nat4xr.open_waveforms(stims=ds)``.
        (Without ``stims``, waveforms have the names of the files, which can differ in letter
        case.) Default: ``ds.spectrogram``.

    Returns
    -------
    torch.utils.data.Dataset
        One item per sound, in the order of ``ds``. An item is a tuple of three tensors:

        - the stimulus, float32, (1, freq, time), or (1, sample) for waveforms;
        - the response, float32, (neuron, rep, time), in spikes per bin; NaN where nothing was
          recorded;
        - the valid mask, bool, (neuron, rep, time), which is False where the response is NaN.

        All items have the same shape, so that a ``DataLoader`` can combine them into batches.
        Repeats that no sound of ``ds`` has are left out; for est sounds, this leaves one repeat.
        The attributes ``stims`` and ``neurons`` list the names along these axes.

    Raises
    ------
    KeyError
        If ``stimulus`` lacks a sound of ``ds``.
    TypeError
        If ``stimulus`` is not a DataArray.
    ValueError
        If a dim is missing, or there are no sounds or no cells.

    Notes
    -----
    This function reads the responses into memory, without the repeats that were not presented:
    0.3 GB for the est sounds of A1, 0.5 GB for all its sounds. Forked workers of a ``DataLoader``
    share this memory; spawned workers get copies.

    Examples
    --------
    >>> import nat4xr
    >>> from torch.utils.data import DataLoader
    >>> train, validation = nat4xr.bridges.split_est(nat4xr.open_area("A1"))
    >>> sounds = nat4xr.bridges.torch_dataset(train)
    >>> for stim, response, valid in DataLoader(sounds, batch_size=4, shuffle=True):
    ...     error = (response - 0.1)[valid].square().mean()
    >>> stim.shape[1:], response.shape[1:]
    (torch.Size([1, 18, 150]), torch.Size([17, 1, 150]))
    """
    return SoundDataset(ds, ds["spectrogram"] if stimulus is None else stimulus)


class SoundDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Stimulus, response and valid mask of each sound. `torch_dataset` returns it."""

    def __init__(self, ds: xr.Dataset, stimulus: xr.DataArray) -> None:
        check_dims(ds["response"], "stim", "rep", "time", "neuron")
        response = drop_empty_repeats(ds)["response"]
        check_not_empty(response, "ds")
        if not isinstance(stimulus, xr.DataArray):
            raise TypeError(f"stimulus must be a DataArray, not {type(stimulus).__name__}")
        if "stim" not in stimulus.dims:
            raise ValueError(f"stimulus needs a dim 'stim': its dims are {stimulus.dims}")
        self.stims: list[str] = ds["stim"].values.tolist()
        self.neurons: list[str] = ds["neuron"].values.tolist()
        stimulus = stimulus.sel(stim=self.stims)
        channels = [dim for dim in ("freq",) if dim in stimulus.dims]
        self._stimulus = stimulus.transpose("stim", *channels, ...).variable
        if "sample" not in stimulus.dims:  # waveforms are large, so they are read one by one
            self._stimulus = self._stimulus.load()
        self._n_reps = response.sizes["rep"]
        self._responses = _read_presented(response, ds.get("n_reps"))

    def __len__(self) -> int:
        return len(self.stims)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        if not -len(self) <= item < len(self):  # a loop over the items ends by this error
            raise IndexError(f"item {item} does not exist: there are {len(self)} sounds")
        # Dask's threads do not survive the fork that starts a worker, which would wait forever.
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
    """Read the responses to each sound, (neuron, rep, time), without repeats that no cell has."""
    response = response.transpose("stim", "neuron", "rep", "time")
    presented = np.full(response.sizes["stim"], response.sizes["rep"])
    if n_reps is not None and {"stim", "neuron"} == set(n_reps.dims):
        presented = np.minimum(presented, n_reps.max("neuron").values)
    responses: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(presented)
    for n in np.unique(presented):  # sounds with the same number of repeats are read together
        stims = np.flatnonzero(presented == n)
        block = response.isel(stim=stims, rep=slice(n)).astype(np.float32, copy=False).values
        for stim, of_sound in zip(stims, block, strict=True):
            responses[stim] = np.ascontiguousarray(of_sound)
    return responses
