"""Sounds and responses for PyTorch."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import torch
import xarray as xr
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
    An item of a lazy ``ds`` is read when it is asked for. The Dataset is pickled as names of files,
    in some ten kilobytes, and each worker of a ``DataLoader`` reads for itself. That spares memory,
    but takes time: for PEG some 10 ms an item if the area was opened with ``chunks=None``, and ten
    times as much through dask. To pass over the sounds many times, give a ``ds`` in memory: what
    `split_est` gives for training takes 0.5 GB of A1, after ``.load()``.

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
        self._response = response.transpose("stim", "neuron", "rep", "time").variable

    def __len__(self) -> int:
        return len(self.stims)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        if not -len(self) <= item < len(self):  # what ends a loop over the items
            raise IndexError(f"there are {len(self)} sounds; not {item}")
        # Dask's threads do not survive the fork that starts a worker; it would wait forever.
        with dask.config.set(scheduler="synchronous"):
            stimulus = _tensor(self._stimulus[item])
            response = _tensor(self._response[item])
        return stimulus.unsqueeze(0), response, ~response.isnan()


def _tensor(variable: Any) -> Tensor:
    return torch.from_numpy(np.array(variable.values, dtype=np.float32, order="C"))
