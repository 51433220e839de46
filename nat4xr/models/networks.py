"""The networks: spectrograms (batch, 1, freq, time) to spike rates (batch, neuron, time).

A network is a front end (or none), a core that the cells share, and for each cell a read-out and
an output nonlinearity. All are causal, and take sounds of any length:

=================  =========================================  ====================  ==============
model              core                                       read-out              output
=================  =========================================  ====================  ==============
``"ln"``           none                                       25 lags of all bands  softplus
``"cnn"``          three 2-D convolutions and a dense layer   dense                 double exp.
``"statenet"``     locally connected and recurrent layer      dense                 softplus
``"transformer"``  causal self-attention                      dense                 softplus
=================  =========================================  ====================  ==============
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MODELS", "AdapTrans", "Network"]

MODELS: dict[str, dict[str, Any]] = {
    "ln": {"n_lags": 25, "separable": False},
    "cnn": {"filters": 10, "dense": 90},
    "statenet": dict(cell="lstm", bands=4, stride=2, filters=8, hidden=64, dropout=0.2),
    "transformer": dict(width=32, heads=4, layers=2, window=None, dropout=0.2),
}
"""The models, each with its sizes (which ``nat4xr.models.fit(..., sizes=)`` replaces)."""


# --- the front end -----------------------------------------------------------------------------


class AdapTrans(nn.Module):
    r"""ON and OFF responses of each frequency band, adapting to its recent past.

    With the exponentially weighted mean :math:`m_f(t)` of band :math:`f` over the second before
    the present bin,

    .. math:: \mathrm{on}_f(t) = [x_f(t) - v_f\,m_f(t)]_+, \qquad
              \mathrm{off}_f(t) = [w_f\,m_f(t) - x_f(t)]_+

    The time constant of the mean and the weights :math:`v_f, w_f` (from 0 to 1) are learnt.

    Parameters
    ----------
    n_freq : int
        Number of frequency bands.
    bin_s : float
        Width of a time bin, s.

    Notes
    -----
    With time constant :math:`\tau_f`, bins of :math:`\Delta t`, and :math:`L` of them in a second,

    .. math:: m_f(t) = \frac{\sum_{l=1}^{L} e^{-l\,\Delta t / \tau_f}\, x_f(t - l)}
                           {\sum_{l=1}^{L} e^{-l\,\Delta t / \tau_f}}

    What comes before the first bin is 0. The parametrisation is not that of the authors' package
    deepSTRF, https://github.com/urancon/deepSTRF: there, ON and OFF have a time constant each and
    share one weight, which OFF gives to the present, :math:`[m_f(t) - w_f\,x_f(t)]_+`.

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
        self.log_tau = nn.Parameter(torch.full((n_freq,), math.log(0.1)))  # s
        self.weight_logit = nn.Parameter(torch.ones(2, n_freq))  # of ON and OFF

    def forward(self, x: Tensor) -> Tensor:
        """Filter (batch, 1, freq, time): (batch, 2, freq, time), ON before OFF."""
        past = functional.pad(x[:, 0], (self.n_lags, -1))
        ago = self.bin_s * torch.arange(self.n_lags, 0, -1, device=x.device)
        recency = torch.softmax(-ago / self.log_tau.exp()[:, None], dim=1)
        mean = functional.conv1d(past, recency[:, None], groups=len(recency))
        on, off = self.weight_logit.sigmoid()[..., None]
        return torch.stack([x[:, 0] - on * mean, off * mean - x[:, 0]], dim=1).relu()


# --- the cores: (batch, channel, freq, time) to (batch, feature, time) -------------------------


class Convolutions(nn.Sequential):
    """Three causal 2-D convolutions, then a dense layer at each time bin."""

    def __init__(self, n_channels: int, n_freq: int, *, filters: int, dense: int) -> None:
        layers: list[nn.Module] = []
        for n_in in (n_channels, filters, filters):
            layers += [nn.ZeroPad2d((7, 0, 1, 1)), nn.Conv2d(n_in, filters, (3, 8)), nn.ReLU()]
        layers += [nn.Flatten(1, 2), nn.Conv1d(filters * n_freq, dense, 1), nn.ReLU()]
        super().__init__(*layers)
        self.n_features = dense


class Recurrent(nn.Module):
    """A layer without memory, locally connected over frequency, then a recurrent layer."""

    def __init__(
        self,
        n_channels: int,
        n_freq: int,
        *,
        cell: str,
        bands: int,
        stride: int,
        filters: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.bands, self.stride, self.n_features = bands, stride, hidden
        n_places = (n_freq - bands) // stride + 1
        # In groups, a convolution has filters of its own at every place along frequency.
        self.encoder = nn.Conv1d(
            n_places * n_channels * bands, n_places * filters, 1, groups=n_places
        )
        self.norm = nn.LayerNorm(n_places * filters)
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.recurrent = layer(n_places * filters, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        places = x.unfold(2, self.bands, self.stride)  # (batch, channel, place, time, band)
        encoded: Tensor = self.encoder(places.permute(0, 2, 1, 4, 3).flatten(1, 3))
        columns = functional.gelu(self.norm(encoded.transpose(1, 2)))
        states: Tensor = self.dropout(self.recurrent(columns)[0])
        return states.transpose(1, 2)


class Attention(nn.Module):
    """Self-attention between time bins, each of them a token that sees no later one."""

    def __init__(
        self,
        n_channels: int,
        n_freq: int,
        *,
        width: int,
        heads: int,
        layers: int,
        window: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window, self.n_features = window, width
        self.token = nn.Linear(n_channels * n_freq, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.token(x.flatten(1, 2).transpose(1, 2))
        bins = torch.arange(x.shape[-1], device=x.device)
        ago = bins[:, None] - bins
        unseen = (ago < 0) | (ago >= (self.window or len(bins)))
        attended: Tensor = self.layers(tokens + _positions(bins, tokens.shape[-1]), mask=unseen)
        return attended.transpose(1, 2)


def _positions(bins: Tensor, width: int) -> Tensor:
    """Sines and cosines (bin, feature) of periods from 6 to 60,000 bins."""
    rates = 1e4 ** -(torch.arange(0, width, 2, device=bins.device) / width)
    angles = bins[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


# --- what each cell has of its own -------------------------------------------------------------


class Readout(nn.Conv1d):
    """For each cell a causal kernel over features and lags; with one lag, a dense layer."""

    def __init__(self, n_features: int, n_neurons: int, n_lags: int = 1) -> None:
        super().__init__(n_features, n_neurons, n_lags, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (self.kernel_size[0] - 1, 0)))

    def kernel(self) -> Tensor:
        """The kernels (neuron, feature, lag), the present being lag 0."""
        return self.weight.flip(-1)


class SeparableReadout(nn.Module):
    """For each cell a kernel that is the product of a profile over features and one over lags."""

    def __init__(self, n_features: int, n_neurons: int, n_lags: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad1d((n_lags - 1, 0))
        self.over_features = nn.Conv1d(n_features, n_neurons, 1, bias=False)
        self.over_lags = nn.Conv1d(n_neurons, n_neurons, n_lags, groups=n_neurons, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        drive: Tensor = self.over_lags(self.pad(self.over_features(x)))
        return drive

    def kernel(self) -> Tensor:
        """The kernels (neuron, feature, lag), the present being lag 0."""
        return self.over_features.weight * self.over_lags.weight.flip(-1)


class Softplus(nn.Module):
    """The rate gain * log(1 + exp(offset + x)), with a gain and an offset for each cell."""

    def __init__(self, mean_rate: Tensor) -> None:
        super().__init__()
        self.log_gain = nn.Parameter((mean_rate / math.log(2)).log()[:, None])
        self.offset = nn.Parameter(torch.zeros(len(mean_rate), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_gain.exp() * functional.softplus(self.offset + x)


class DoubleExponential(nn.Module):
    """The rate base + amplitude * exp(-exp(shift - slope * x)), with these four for each cell."""

    def __init__(self, mean_rate: Tensor) -> None:
        super().__init__()
        one = torch.ones(len(mean_rate), 1)
        # At x = 0 they make the mean rate: 0.1 of it, and a tenth of 9 times it.
        self.log_base = nn.Parameter((0.1 * mean_rate).log()[:, None])
        self.log_amplitude = nn.Parameter((9 * mean_rate).log()[:, None])
        self.log_slope = nn.Parameter(0 * one)
        self.shift = nn.Parameter(math.log(math.log(10)) * one)

    def forward(self, x: Tensor) -> Tensor:
        saturating = torch.exp(-torch.exp(self.shift - self.log_slope.exp() * x))
        return self.log_base.exp() + self.log_amplitude.exp() * saturating


# --- the whole ---------------------------------------------------------------------------------


class Network(nn.Module):
    """A population model: the rates of all cells, at least 0, from a spectrogram.

    Parameters
    ----------
    model : {"ln", "cnn", "statenet", "transformer"}
        Core and read-out.
    prefilter : {None, "adaptrans"}
        Front end.
    mean_rate : torch.Tensor
        Spikes per bin of each cell (neuron), above 0: about what it predicts before it is fitted.
    n_freq : int
        Number of frequency bands.
    bin_s : float
        Width of a time bin, s.
    **sizes
        What ``MODELS`` lists for the model.

    References
    ----------
    CNN: Pennington JR, David SV (2023). A convolutional neural network provides a generalizable
    model of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol.
    19:e1011110. doi:10.1371/journal.pcbi.1011110

    StateNet, Transformer: Rançon U, Masquelier T, Cottereau BR (2025). Temporal recurrence as a
    general mechanism to explain neural responses in the auditory system. Commun. Biol.
    doi:10.1038/s42003-025-08858-3

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import MODELS, Network
    >>> network = Network("cnn", None, torch.ones(5), 18, 0.01, **MODELS["cnn"])
    >>> network(torch.zeros(2, 1, 18, 70)).shape
    torch.Size([2, 5, 70])
    >>> network.n_parameters, network.n_parameters_per_neuron
    (21830, 21454)
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
        self.n_neurons = len(mean_rate)
        self.prefilter = AdapTrans(n_freq, bin_s) if prefilter == "adaptrans" else nn.Identity()
        n_channels = 2 if prefilter == "adaptrans" else 1
        self.core: nn.Module
        self.readout: Readout | SeparableReadout
        if model == "ln":
            self.core = nn.Flatten(1, 2)
            kind = SeparableReadout if sizes["separable"] else Readout
            self.readout = kind(n_channels * n_freq, self.n_neurons, sizes["n_lags"])
        else:
            cores = {"cnn": Convolutions, "statenet": Recurrent, "transformer": Attention}
            self.core = core = cores[model](n_channels, n_freq, **sizes)
            self.readout = Readout(core.n_features, self.n_neurons)
        self.output = DoubleExponential(mean_rate) if model == "cnn" else Softplus(mean_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Predict spikes per bin (batch, neuron, time) from (batch, 1, freq, time)."""
        rate: Tensor = self.output(self.readout(self.core(self.prefilter(x))))
        return rate

    @property
    def n_parameters(self) -> int:
        """Number of learnt parameters, of all cells together."""
        return sum(p.numel() for p in self.parameters())

    @property
    def n_parameters_per_neuron(self) -> int:
        """Number of learnt parameters behind the rate of one cell: the shared ones and its own."""
        own = sum(p.numel() for part in (self.readout, self.output) for p in part.parameters())
        return self.n_parameters - own + own // self.n_neurons
