"""The networks, which map spectrograms to the spikes per bin of all cells.

The input has the shape (batch, 1, freq, time), and the output (batch, neuron, time). A network
consists of an optional front end, a core that all cells share, and a read-out and an output
nonlinearity for each cell. All networks are causal and accept sounds of any length.
:data:`MODELS` contains the published architectures with their sizes. The numbers of parameters
below are for 18 bands and one cell.

====================  ===========================================================  ===========
model                 core                                                         parameters
====================  ===========================================================  ===========
``"ln"``              none: each cell has a kernel of rank 4 over 25 bins          113
``"ln-pop"``          120 kernels of rank 1 over 25 bins                           3,365
``"cnn1d"``           100 kernels of rank 1 over 25 bins, dense layer              14,825
``"cnn1dx2"``         70 kernels of rank 1 over 15 bins, 80 over 10, dense layer   15,795
``"cnn"``             three 2-D convolutions, dense layer                          21,455
``"cnn-deepstrf"``    three 2-D convolutions with normalisation, dense layer       15,481
``"statenet"``        locally connected layer, LSTM                                40,271
``"transformer"``     self-attention in a window of 41 bins                        28,437
====================  ===========================================================  ===========
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MODELS", "AdapTrans", "Network"]

MODELS: dict[str, dict[str, Any]] = {
    "ln": {"rank": 4, "lags": 25, "output": "dexp"},
    "ln-pop": {"channels": 120, "lags": 25, "output": "dexp"},
    "cnn1d": {"channels": 100, "lags": 25, "dense": 120, "output": "dexp"},
    "cnn1dx2": {"channels": [70, 80], "lags": [15, 10], "dense": 100, "output": "dexp"},
    "cnn": {"filters": 10, "bands": 3, "lags": 8, "dense": 90, "output": "dexp"},
    "cnn-deepstrf": {"filters": 10, "bands": 3, "lags": 7, "dense": 90, "output": "linear"},
    "statenet": {
        "channels": 10, "bands": 5, "stride": 2, "cell": "lstm", "dropout": 0.0, "output": "linear"
    },
    "transformer": {
        "width": 48, "window": 41, "layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.1,
        "output": "dexp",
    },
}  # fmt: skip
"""The sizes of each model. ``nat4xr.models.fit(..., sizes=)`` can replace them."""


# --- the front end -----------------------------------------------------------------------------


class AdapTrans(nn.Module):
    r"""Adaptive ON and OFF responses of each frequency band.

    Let :math:`m_f(t; \tau)` be the mean of band :math:`f` over the second before the present bin,
    with exponential weights of time constant :math:`\tau`. The responses are

    .. math:: \mathrm{on}_f(t) = [x_f(t) - w_f\,m_f(t; \tau^{on}_f)]_+, \qquad
              \mathrm{off}_f(t) = [m_f(t; \tau^{off}_f) - w_f\,x_f(t)]_+

    Each band learns a time constant for ON, one for OFF, and a weight :math:`w_f` from 0 to 1.

    Parameters
    ----------
    n_freq : int
        Number of frequency bands.
    bin_s : float
        Width of a time bin in s.

    Notes
    -----
    With bins of width :math:`\Delta t`, :math:`L` bins in a second, and
    :math:`a = e^{-\Delta t / \tau}`, the mean is

    .. math:: m_f(t; \tau) = \frac{\sum_{l=1}^{L} a^{l-1}\, x_f(t - l)}{\sum_{l=1}^{L} a^{l-1}}

    Before the first bin, the value of the first bin is used. The learnt parameters are :math:`d`
    and :math:`p`, with :math:`a = 1 / (1 + d^2)` and :math:`w = 1 / (1 + p^2)`.

    References
    ----------
    Rançon U, Masquelier T, Cottereau BR (2024). A general model unifying the adaptive, transient
    and sustained properties of ON and OFF auditory neural responses. PLOS Comput. Biol.
    20:e1012288. doi:10.1371/journal.pcbi.1012288

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import AdapTrans
    >>> sound = torch.zeros(1, 1, 1, 60)
    >>> sound[..., 20:40] = 1
    >>> on, off = AdapTrans(n_freq=1, bin_s=0.01)(sound)[0, :, 0]
    >>> int(on.argmax()), int(off.argmax())
    (20, 40)
    """

    def __init__(self, n_freq: int, bin_s: float) -> None:
        super().__init__()
        self.bin_s = bin_s
        self.n_lags = round(1 / bin_s)
        decay = math.exp(-bin_s / 0.1)  # a time constant of 0.1 s
        self.d = nn.Parameter(torch.full((2, n_freq), math.sqrt(1 / decay - 1)))  # ON and OFF
        self.p = nn.Parameter(torch.full((n_freq,), math.sqrt(1 / 0.75 - 1)))

    def tau(self) -> Tensor:
        """Return the time constants (polarity, freq) in s; ON comes before OFF."""
        return self.bin_s / torch.log1p(self.d**2)

    def weight(self) -> Tensor:
        """Return the weights (freq)."""
        return 1 / (1 + self.p**2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, freq, time) to (batch, 2, freq, time); ON comes before OFF."""
        past = functional.pad(x[:, 0], (self.n_lags, 0), mode="replicate")[..., :-1]
        lags = torch.arange(self.n_lags, 0, -1, device=x.device)
        recency = torch.softmax(-lags * torch.log1p(self.d**2)[..., None], dim=-1)
        kernels = recency.transpose(0, 1).flatten(0, 1)[:, None]  # ON and OFF of each band
        means = functional.conv1d(past, kernels, groups=recency.shape[1])
        mean_on, mean_off = means[:, ::2], means[:, 1::2]
        weight = self.weight()[:, None]
        on, off = x[:, 0] - weight * mean_on, mean_off - weight * x[:, 0]
        return torch.stack([on, off], dim=1).relu()


# --- layers ------------------------------------------------------------------------------------


class GaussianWeights(nn.Module):
    """Weighted sums over frequency, with Gaussian weights that sum to 1.

    Maps (batch, channel, freq, time) to (batch, output, time). Each output has a centre and a
    width, in fractions of the frequency axis. If there are ON and OFF channels, it also has a gain
    for each of them.
    """

    def __init__(self, n_channels: int, n_freq: int, n_outputs: int) -> None:
        super().__init__()
        self.n_freq = n_freq
        self.centre = nn.Parameter(torch.rand(n_outputs))
        self.log_width = nn.Parameter(torch.empty(n_outputs).uniform_(-3, -1))
        self.gain = nn.Parameter(torch.randn(n_outputs, n_channels)) if n_channels > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        weights = _gaussian(self.centre, self.log_width, self.n_freq)[:, None]
        if self.gain is not None:
            weights = self.gain[..., None] * weights
        bins = x.flatten(1, 2).transpose(1, 2)
        return functional.linear(bins, weights.flatten(1)).transpose(1, 2)


def _gaussian(centre: Tensor, log_width: Tensor, n_freq: int) -> Tensor:
    """Return Gaussians (..., freq) over the frequency axis that sum to 1."""
    axis = torch.arange(n_freq, device=centre.device) / n_freq
    distance = (axis - centre[..., None]) / log_width.exp()[..., None]
    return torch.softmax(-(distance**2) / 2, dim=-1)


class Lags(nn.Conv1d):
    """A causal filter for each channel of (batch, channel, time)."""

    def __init__(self, n_channels: int, n_lags: int) -> None:
        super().__init__(n_channels, n_channels, n_lags, groups=n_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x.transpose(1, 2), (0, 0, self.kernel_size[0] - 1, 0))
        # As a 2-D convolution of one row, because only this has a fast path for channels last.
        rows = padded.transpose(1, 2)[:, :, None]
        return functional.conv2d(rows, self.weight[:, :, None], groups=self.groups)[:, :, 0]


class Dense(nn.Linear):
    """A dense layer that is applied at each time bin of (batch, feature, time).

    The result has the features of a bin side by side in memory, which is the fastest layout for
    small layers.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Readout(nn.Linear):
    """A dense layer whose result has the bins of a cell side by side in memory.

    Spike counts have this layout, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.expand(len(x), -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x)


class ChannelsLastConv2d(nn.Conv2d):
    """A 2-D convolution that has the channels of a band and bin side by side in memory.

    With few channels, this is the fastest layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class CausalConv2d(ChannelsLastConv2d):
    """A causal 2-D convolution of (batch, channel, freq, time), padded to keep all bands."""

    def __init__(self, n_inputs: int, n_outputs: int, bands: int, lags: int) -> None:
        super().__init__(n_inputs, n_outputs, (bands, lags))
        self.pad = (lags - 1, 0, (bands - 1) // 2, bands // 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.pad))


class ChannelNorm(nn.LayerNorm):
    """Normalisation of (batch, channel, ...) over the channels, separately at each band and bin."""

    def forward(self, x: Tensor) -> Tensor:
        # For as few channels, LayerNorm is faster on a CPU, and several times slower on a GPU.
        if x.is_cuda:
            return self.by_moments(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    def by_moments(self, x: Tensor) -> Tensor:
        weight, bias = (p.view(-1, *[1] * (x.dim() - 2)) for p in (self.weight, self.bias))
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return torch.addcmul(bias, (x - mean) * torch.rsqrt(variance + self.eps), weight)


# --- the cores: (batch, channel, freq, time) to (batch, feature, time) -------------------------


class PopulationLN(nn.Sequential):
    """Kernels of rank 1; each cell is a weighted sum of them."""

    def __init__(self, n_channels: int, n_freq: int, *, channels: int, lags: int) -> None:
        super().__init__(GaussianWeights(n_channels, n_freq, channels), Lags(channels, lags))


class CNN1D(nn.Sequential):
    """Kernels of rank 1 with rectification, then a dense layer."""

    def __init__(
        self, n_channels: int, n_freq: int, *, channels: int, lags: int, dense: int
    ) -> None:
        super().__init__(
            *(GaussianWeights(n_channels, n_freq, channels), Lags(channels, lags), nn.ReLU()),
            *(Dense(channels, dense, bias=False), nn.ReLU()),
        )


class CNN1Dx2(nn.Sequential):
    """Two layers of kernels of rank 1 with rectification, then a dense layer."""

    def __init__(
        self, n_channels: int, n_freq: int, *, channels: list[int], lags: list[int], dense: int
    ) -> None:
        first, second = channels
        super().__init__(
            *(GaussianWeights(n_channels, n_freq, first), Lags(first, lags[0]), nn.ReLU()),
            *(Dense(first, second, bias=False), Lags(second, lags[1]), nn.ReLU()),
            *(Dense(second, dense), nn.ReLU()),
        )


class CNN2D(nn.Sequential):
    """Three causal 2-D convolutions that are padded to keep all bands, then a dense layer."""

    def __init__(
        self, n_channels: int, n_freq: int, *, filters: int, bands: int, lags: int, dense: int
    ) -> None:
        layers: list[nn.Module] = []
        for n_inputs in (n_channels, filters, filters):
            layers += [CausalConv2d(n_inputs, filters, bands, lags), nn.ReLU()]
        layers += [nn.Flatten(1, 2), Dense(filters * n_freq, dense), nn.ReLU()]
        super().__init__(*layers)


class DeepSTRFCNN2D(nn.Sequential):
    """Padding in time, three 2-D convolutions with normalisation, then a dense layer."""

    def __init__(
        self, n_channels: int, n_freq: int, *, filters: int, bands: int, lags: int, dense: int
    ) -> None:
        layers: list[nn.Module] = [nn.ZeroPad2d((3 * (lags - 1), 0, 0, 0))]
        for n_inputs in (n_channels, filters, filters):
            layers.append(ChannelsLastConv2d(n_inputs, filters, (bands, lags)))
            layers += [ChannelNorm(filters), nn.LeakyReLU(0.1)]
        n_places = n_freq - 3 * (bands - 1)
        if n_places < 1:
            raise ValueError(
                f"three layers of {bands} bands do not fit into {n_freq} bands: choose fewer bands "
                "by sizes={'bands': ...}"
            )
        layers += [nn.Flatten(1, 2), Dense(filters * n_places, dense), nn.LeakyReLU(0.1)]
        super().__init__(*layers)


class StateNet(nn.Module):
    """A locally connected layer over frequency, then a recurrent layer."""

    bands_of_place: Tensor

    def __init__(
        self,
        n_channels: int,
        n_freq: int,
        *,
        channels: int,
        bands: int,
        stride: int,
        cell: str,
        dropout: float,
    ) -> None:
        super().__init__()
        n_places = (n_freq - bands) // stride + 1
        if n_places < 1:
            raise ValueError(
                f"a layer of {bands} bands does not fit into {n_freq} bands: choose fewer bands by "
                "sizes={'bands': ...}"
            )
        bands_of_place = stride * torch.arange(n_places)[:, None] + torch.arange(bands)
        self.register_buffer("bands_of_place", bands_of_place, persistent=False)
        n_features = channels * n_places
        bound = 1 / math.sqrt(n_channels * bands)
        weights = torch.empty(channels, n_channels, bands, n_places)
        self.weight = nn.Parameter(weights.uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels, n_places).uniform_(-bound, bound))
        self.norm = ChannelNorm(channels)
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.recurrent = layer(n_features, n_features, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        places = x[:, :, self.bands_of_place]  # (batch, channel, place, band, time)
        encoded = torch.einsum("bcpkt,ockp->bopt", places, self.weight) + self.bias[..., None]
        features = self.norm(encoded).sigmoid().flatten(1, 2)  # place varies fastest
        states: Tensor = self.recurrent(self.dropout(features.transpose(1, 2)))[0]
        return self.dropout(states).transpose(1, 2)


class AttentionLayer(nn.Module):
    """Self-attention, then a feed-forward layer, with residual connections and normalisation.

    It computes the same as torch.nn.TransformerEncoderLayer, except for dropout, which is only
    applied before each addition, as in the original Transformer.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, bin, width) to the same shape."""
        projected = self.query_key_value(x).view(*x.shape[:2], 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (batch, head, bin, feature)
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended = self.attended(attended.transpose(1, 2).flatten(2))
        x = self.norms[0](x + self.dropout(attended))
        normed: Tensor = self.norms[1](x + self.dropout(self.feedforward(x)))
        return normed


class Transformer(nn.Module):
    """Self-attention within a window of bins that ends at the present bin, then the mean."""

    def __init__(
        self,
        n_channels: int,
        n_freq: int,
        *,
        width: int,
        window: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.token = Dense(n_channels * n_freq, width)
        self.positions = nn.Parameter(torch.rand(window, width))
        self.layers = nn.Sequential(
            *(AttentionLayer(width, heads, feedforward, dropout) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.token(functional.pad(x.flatten(1, 2), (self.window - 1, 0)))
        windows = tokens.unfold(2, self.window, 1).permute(0, 2, 3, 1)  # (batch, time, bin, width)
        attended = self.layers((windows + self.positions).flatten(0, 1)).mean(1)
        return attended.view(*windows.shape[:2], -1).transpose(1, 2)


# --- read-outs and output nonlinearities of the cells ------------------------------------------


class KernelReadout(nn.Module):
    """A causal kernel over (channel, freq, lag) for each cell.

    A kernel of rank n is a sum of n products, each of a Gaussian over frequency and a filter over
    the lags of each channel.
    """

    def __init__(
        self, n_channels: int, n_freq: int, n_neurons: int, *, rank: int, lags: int
    ) -> None:
        super().__init__()
        self.n_freq = n_freq
        self.centre = nn.Parameter(torch.rand(n_neurons, rank))
        self.log_width = nn.Parameter(torch.empty(n_neurons, rank).uniform_(-3, -1))
        bound = 1 / math.sqrt(rank * lags)
        filters = torch.empty(n_neurons, n_channels, rank, lags)
        self.filters = nn.Parameter(filters.uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_neurons))

    def kernel(self) -> Tensor:
        """Return the kernels (neuron, channel, freq, lag); lag 0 is the present bin."""
        weights = _gaussian(self.centre, self.log_width, self.n_freq)
        return torch.einsum("nrf,ncrl->ncfl", weights, self.filters)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel().flatten(1, 2).flip(-1)
        padded = functional.pad(x.flatten(1, 2), (kernel.shape[-1] - 1, 0))
        return functional.conv1d(padded, kernel, self.bias)


class Softplus(nn.Module):
    """The rate base + log(1 + exp(slope * x)) / slope, with a base and a slope for each cell."""

    def __init__(self, mean_rate: Tensor) -> None:
        super().__init__()
        # The softplus of these keeps both above 0. At first, the rate at x = 0 is the mean rate.
        self.raw_base = nn.Parameter(_inverse_softplus(0.1 * mean_rate)[:, None])
        self.raw_slope = nn.Parameter(_inverse_softplus(math.log(2) / (0.9 * mean_rate))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        base, slope = functional.softplus(self.raw_base), functional.softplus(self.raw_slope)
        return base + functional.softplus(slope * x) / slope


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


class DoubleExponential(nn.Module):
    """The rate base + amplitude * exp(-exp(-slope * (x - shift))), with all four for each cell."""

    def __init__(self, mean_rate: Tensor) -> None:
        super().__init__()
        one = torch.ones(len(mean_rate), 1)
        # At first, the rate at x = 0 is the mean rate: 0.1 of it, and a tenth of 9 times it.
        self.log_base = nn.Parameter((0.1 * mean_rate).log()[:, None])
        self.log_amplitude = nn.Parameter((9 * mean_rate).log()[:, None])
        self.log_slope = nn.Parameter(0 * one)
        self.shift = nn.Parameter(math.log(math.log(10)) * one)

    def forward(self, x: Tensor) -> Tensor:
        slope = self.log_slope.exp()
        drive = torch.addcmul(slope * self.shift, x, -slope)  # one pass, because x is large
        saturating = torch.exp(-torch.exp(drive))
        return torch.addcmul(self.log_base.exp(), self.log_amplitude.exp(), saturating)


# --- the whole network -------------------------------------------------------------------------

CORES: dict[str, type[nn.Module]] = {
    "ln-pop": PopulationLN,
    "cnn1d": CNN1D,
    "cnn1dx2": CNN1Dx2,
    "cnn": CNN2D,
    "cnn-deepstrf": DeepSTRFCNN2D,
    "statenet": StateNet,
    "transformer": Transformer,
}
OUTPUTS = {"linear": nn.Identity, "softplus": Softplus, "dexp": DoubleExponential}


class Network(nn.Module):
    """A population model, which predicts the rates of all cells from a spectrogram.

    Parameters
    ----------
    model : str
        The core and the read-out: a name in ``MODELS``.
    prefilter : {None, "adaptrans"}
        The front end.
    mean_rate : torch.Tensor
        Mean spikes per bin of each cell (neuron), above 0. Before the fit, the network predicts
        about this rate.
    n_freq : int
        Number of frequency bands.
    bin_s : float
        Width of a time bin in s.
    **sizes
        Sizes that replace those of ``MODELS[model]``. ``output`` is the output nonlinearity:
        ``"linear"`` (where rates can be negative), ``"softplus"`` or ``"dexp"`` (the double
        exponential).

    Raises
    ------
    ValueError
        If a model, a prefilter or a size is unknown, or if there are too few frequency bands.

    References
    ----------
    LN, 1D-CNN, 1Dx2-CNN, 2D-CNN: Pennington JR, David SV (2023). A convolutional neural network
    provides a generalizable model of natural sound coding by neural populations in auditory cortex.
    PLOS Comput. Biol. 19:e1011110. doi:10.1371/journal.pcbi.1011110

    StateNet, Transformer and the 2D-CNN of deepSTRF: Rançon U, Masquelier T, Cottereau BR (2025).
    Temporal recurrence as a general mechanism to explain neural responses in the auditory system.
    Commun. Biol. 8:1456. doi:10.1038/s42003-025-08858-3

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import Network
    >>> network = Network("cnn", None, torch.ones(5), n_freq=18, bin_s=0.01)
    >>> network(torch.zeros(2, 1, 18, 70)).shape
    torch.Size([2, 5, 70])
    >>> network.n_parameters, network.n_parameters_per_neuron
    (21835, 21455)
    """

    def __init__(
        self,
        model: str,
        prefilter: str | None,
        mean_rate: Tensor,
        n_freq: int,
        bin_s: float,
        **sizes: Any,
    ) -> None:
        super().__init__()
        check_options(model, prefilter, sizes)
        sizes = {**MODELS[model], **sizes}
        output = OUTPUTS[sizes.pop("output")]
        self.n_neurons = len(mean_rate)
        self.prefilter = AdapTrans(n_freq, bin_s) if prefilter == "adaptrans" else nn.Identity()
        n_channels = 2 if prefilter == "adaptrans" else 1
        if model == "ln":
            self.core: nn.Module = nn.Identity()
            self.readout: KernelReadout | Readout = KernelReadout(
                n_channels, n_freq, self.n_neurons, **sizes
            )
        else:
            self.core = CORES[model](n_channels, n_freq, **sizes)
            n_features = self.core(torch.zeros(1, n_channels, n_freq, 1)).shape[1]
            self.readout = Readout(n_features, self.n_neurons)
        self.output = output(mean_rate)
        if output is nn.Identity:
            self.readout.bias.data.copy_(mean_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Predict spikes per bin (batch, neuron, time) from (batch, 1, freq, time)."""
        rate: Tensor = self.output(self.readout(self.core(self.prefilter(x))))
        return rate

    @property
    def n_parameters(self) -> int:
        """Number of learnt parameters for all cells together."""
        return sum(p.numel() for p in self.parameters())

    @property
    def n_parameters_per_neuron(self) -> int:
        """Number of learnt parameters for one cell, including all shared parameters."""
        per_cell = sum(p.numel() for part in (self.readout, self.output) for p in part.parameters())
        return self.n_parameters - per_cell + per_cell // self.n_neurons


def check_options(model: str, prefilter: str | None, sizes: dict[str, Any]) -> None:
    """Raise an error for an unknown model, front end or size."""
    if model not in MODELS:
        raise ValueError(f"model must be one of {list(MODELS)}, not {model!r}")
    if prefilter not in (None, "adaptrans"):
        raise ValueError(f"prefilter must be None or 'adaptrans', not {prefilter!r}")
    if unknown := sorted(sizes.keys() - MODELS[model].keys()):
        raise ValueError(f"the sizes of {model!r} are {list(MODELS[model])}, not {unknown}")
    for name, options in (("output", OUTPUTS), ("cell", ("lstm", "gru"))):
        if name in sizes and sizes[name] not in options:
            raise ValueError(f"{name} must be one of {list(options)}, not {sizes[name]!r}")
