"""How well a prediction does, and how well any prediction could do.

Every function takes DataArrays with the dims of the NAT4 Dataset (in any order) and returns one
value a neuron in float64, with every label of the ``neuron`` dim:

* ``pred`` and ``psth`` have dims ``stim`` and ``time``, ``response`` has dims ``stim``, ``rep``
  and ``time``. Whatever further dim they have (``neuron``; or, say, ``model``) is kept, so a
  single cell works as well as a population, and several models as well as one.
* NaN means *not recorded*. A repeat without any value is a presentation that never took place; a
  time bin counts only where no presentation lacks it, and stimuli or cells without data do not
  count (a cell with nothing left is NaN).
* With dask-backed input nothing is computed until the result is.

Two ways of pooling over stimuli occur, and each docstring says which holds: correlations with a
prediction, and their ceiling :func:`corrcoef_max`, run over **all valid bins of all stimuli strung
together**; powers and reliabilities of the response are estimated **within each stimulus** and
averaged over stimuli, weighted by their numbers of valid time bins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .chunks import single_chunk
from .extras import require
from .schema import simulated_attr

__all__ = [
    "cc_max",
    "cc_norm",
    "coherence",
    "corrcoef",
    "corrcoef_max",
    "fve",
    "noise_power",
    "signal_power",
    "snr",
    "ttrc",
]


def __dir__() -> list[str]:
    return __all__


Array = NDArray[Any]

# A variance this small beside the squared mean is what rounding leaves of a constant.
_ROUNDING = 1e-20

# A difference this small beside what was subtracted is what rounding leaves of zero.
_CANCELLED = 1e-12

# Longest segment of a spectrum, in time bins.
_SEGMENT = 256


def corrcoef(pred: xr.DataArray, psth: xr.DataArray) -> xr.DataArray:
    r"""Pearson correlation between prediction and PSTH.

    Taken over all (stim, time) bins that are valid in both, strung together:

    .. math:: CC = \frac{\mathrm{cov}(\hat r, r)}{\sqrt{\mathrm{var}(\hat r)\,\mathrm{var}(r)}}

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit.
    psth : xarray.DataArray
        Recorded response averaged over presentations, same dims, NaN where not recorded.

    Returns
    -------
    xarray.DataArray
        Correlation from -1 to 1, float64, dims (neuron). NaN where prediction or PSTH has no
        variance.

    Raises
    ------
    TypeError
        If `pred` or `psth` is not a DataArray.
    ValueError
        If ``stim`` or ``time`` is missing or empty, or the labels of the two differ.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import corrcoef
    >>> psth = xr.DataArray([[[0.0, 2, 1]], [[1, 1, 3]]], dims=("stim", "neuron", "time"))
    >>> corrcoef(2 * psth + 1, psth).values.round(6)
    array([1.])
    """
    _, _, _, var_pred, var_psth, cov = _moments(pred, psth)
    return _named(cov / np.sqrt(var_pred * var_psth), "corrcoef", "correlation coefficient", "1")


def corrcoef_max(response: xr.DataArray) -> xr.DataArray:
    r"""Noise ceiling of :func:`corrcoef`: what the true rate is expected to score.

    The variance of a PSTH :math:`y` over all (stim, time) bins :math:`i`, strung together, is that
    of the rate and that of the noise which the average over :math:`N_i` presentations
    :math:`r_{ni}` has left:

    .. math:: CC_{max}^{strung} = \sqrt{1 - \frac{\overline{\mathrm{var}_n(r_{ni}) / N_i}}
                                               {\mathrm{var}_i(y_i)}}

    Stimuli that were not presented at least twice are left out.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        From 0 to 1, float64, dims (neuron). NaN where no stimulus was presented twice, or the
        PSTH varies no more than noise does: leaving such cells out flatters a mean over cells.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    See Also
    --------
    cc_max : The ceiling within stimuli, which differences between their mean rates do not raise.

    Notes
    -----
    For a single stimulus the equation is, but for :math:`(T - 1) / T` and for what presentations
    differ by in their mean over time, :math:`\sqrt{SP / \mathrm{var}_t(y)}`, where :math:`SP` is
    :func:`signal_power`.

    References
    ----------
    Sahani M, Linden JF (2003). How linear are auditory cortical responses? Advances in Neural
    Information Processing Systems 15. The signal power there is within one stimulus; here the
    variance over presentations is taken bin by bin, so that stimuli can be strung together.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import corrcoef, corrcoef_max
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.1, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> float(corrcoef_max(response).round(2)), float(corrcoef(rate, response.mean("rep")).round(2))
    (0.82, 0.83)
    """
    psth, noise = _per_stimulus(_psth_and_noise, response, [("time",), ("time",)])
    bins = ("stim", "time")
    n_bins = psth.count(bins)
    n_bins = n_bins.where(n_bins > 1)
    mean = psth.sum(bins) / n_bins
    variance = ((psth - mean) ** 2).sum(bins) / (n_bins - 1)
    noise = noise.sum(bins) / n_bins
    signal = 1 - noise / variance.where(variance > _ROUNDING * mean**2)
    ceiling = signal.where(signal > _CANCELLED) ** 0.5
    return _named(ceiling, "corrcoef_max", "noise ceiling, sounds strung together", "1")


def fve(pred: xr.DataArray, psth: xr.DataArray) -> xr.DataArray:
    r"""Fraction of the PSTH's variance that the prediction explains.

    Unlike the correlation it also charges for a wrong gain or offset. Over all valid (stim, time)
    bins :math:`i`, strung together:

    .. math:: FVE = 1 - \frac{\sum_i (r_i - \hat r_i)^2}{\sum_i (r_i - \bar r)^2}

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in the unit of `psth`.
    psth : xarray.DataArray
        Recorded response averaged over presentations, same dims, NaN where not recorded.

    Returns
    -------
    xarray.DataArray
        At most 1; 0 for a prediction no better than the mean rate, below 0 for a worse one.
        float64, dims (neuron). NaN where the PSTH has no variance.

    Raises
    ------
    TypeError
        If `pred` or `psth` is not a DataArray.
    ValueError
        If ``stim`` or ``time`` is missing or empty, or the labels of the two differ.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import fve
    >>> psth = xr.DataArray([[[0.0, 2, 1]], [[1, 1, 3]]], dims=("stim", "neuron", "time"))
    >>> fve(psth, psth).values
    array([1.])
    >>> fve(xr.full_like(psth, psth.mean()), psth).values.round(6)
    array([0.])
    """
    n, mean_pred, mean_psth, var_pred, var_psth, cov = _moments(pred, psth)
    # _moments has NaN for the variance of a constant; a constant prediction is a fair one here.
    spread = (var_pred + var_psth - 2 * cov).where(var_pred.notnull(), var_psth)
    error = spread * (n - 1) / n + (mean_pred - mean_psth) ** 2
    return _named(
        1 - error * n / (var_psth * (n - 1)), "fve", "fraction of variance explained", "1"
    )


def signal_power(response: xr.DataArray) -> xr.DataArray:
    r"""Variance over time of the response that the stimulus drives, free of noise.

    For one stimulus with :math:`N` presentations :math:`r_n(t)`, and sample variances (over
    time, divisor :math:`T - 1`):

    .. math:: SP = \frac{1}{N-1}\left(N\,\mathrm{var}_t(\overline{r_n})
                   - \overline{\mathrm{var}_t(r_n)}\right)

    Stimuli with two or more presentations count, weighted by their valid time bins. The estimate
    is unbiased, so that it comes out negative for some cells whose true signal power is near 0.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        Signal power in squared units of the response, float64, dims (neuron). NaN where no
        stimulus was presented twice.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    Notes
    -----
    A presentation has the power of signal and noise, the average over :math:`N` of them that of
    the signal and one :math:`N`-th of that of the noise:

    .. math:: \overline{\mathrm{var}_t(r_n)} = SP + NP, \qquad
              \mathrm{var}_t(\overline{r_n}) = SP + NP / N

    Solved for :math:`SP`, this is the estimator of Sahani and Linden (2003). Their power is the
    average squared deviation from the mean over time (divisor :math:`T`). The divisor
    :math:`T - 1` is that of the code of Schoppe et al. (2016),
    https://github.com/OSchoppe/CCnorm, whose ``SP`` this is for one stimulus.

    References
    ----------
    Sahani M, Linden JF (2003). How linear are auditory cortical responses? Advances in Neural
    Information Processing Systems 15.

    Schoppe O, Harper NS, Willmore BDB, King AJ, Schnupp JWH (2016). Measuring the performance of
    neural models. Front. Comput. Neurosci. 10:10. doi:10.3389/fncom.2016.00010

    Examples
    --------
    Two identical presentations are all signal:

    >>> import xarray as xr
    >>> from nat4xr.metrics import noise_power, signal_power
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 2, 1]]], dims=("stim", "rep", "time"))
    >>> float(signal_power(response)), float(noise_power(response))
    (1.0, 0.0)
    """
    signal, _ = _powers(response)
    return _named(signal, "signal_power", "signal power", _squared_units(response))


def noise_power(response: xr.DataArray) -> xr.DataArray:
    r"""Variance over time of what differs from presentation to presentation.

    What is left of a single presentation's power when the signal power is taken off:

    .. math:: NP = \overline{\mathrm{var}_t(r_n)} - SP

    Estimated and weighted as :func:`signal_power` is.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        Noise power of one presentation in squared units of the response, float64, dims (neuron).
        NaN where no stimulus was presented twice.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    References
    ----------
    Sahani M, Linden JF (2003). How linear are auditory cortical responses? Advances in Neural
    Information Processing Systems 15. The equations are in the notes on :func:`signal_power`.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import noise_power
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(noise_power(response))
    0.5
    """
    _, noise = _powers(response)
    return _named(noise, "noise_power", "noise power", _squared_units(response))


def snr(response: xr.DataArray) -> xr.DataArray:
    r"""Signal-to-noise ratio of one presentation: signal power over noise power.

    .. math:: SNR = SP / NP

    A ratio of powers, not decibels, of the two averages that :func:`signal_power` and
    :func:`noise_power` return.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        Above 0, dimensionless, float64, dims (neuron). NaN where the signal or the noise power is
        not positive.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    References
    ----------
    Sahani M, Linden JF (2003). How linear are auditory cortical responses? Advances in Neural
    Information Processing Systems 15. (The two powers.)

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import snr
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(snr(response))
    1.0
    """
    signal, noise = _powers(response)
    ratio = signal.where(signal > 0) / noise.where(noise > 0)
    return _named(ratio, "snr", "signal-to-noise ratio", "1")


def cc_norm(
    pred: xr.DataArray,
    response: xr.DataArray,
    *,
    method: Literal["schoppe", "hsu"] = "schoppe",
) -> xr.DataArray:
    r"""Correlation of the prediction with the PSTH, relative to the best that noise allows.

    With :math:`y` the average over presentations and :math:`\hat r` the prediction:

    * ``"schoppe"``: :math:`\mathrm{cov}(\hat r, y) / \sqrt{\mathrm{var}(\hat r)\,SP}`. It needs
      no noise ceiling of its own and so remains sound where cells are noisy or presentations few.
    * ``"hsu"``: :func:`corrcoef` over :func:`cc_max` (126 half-splits, seed 0).

    Covariance and variance run over all valid bins of all stimuli strung together;
    :math:`SP` is :func:`signal_power`, which is estimated within stimuli. Stimuli that were not
    presented at least twice are left out.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit.
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    method : {"schoppe", "hsu"}, default: "schoppe"
        How the noise is taken into account.

    Returns
    -------
    xarray.DataArray
        Near 1 for a prediction of the true rate, near 0 for an unrelated one, float64, dims
        (neuron). NaN where the prediction has no variance, or signal power or ceiling is not
        positive.

    Raises
    ------
    TypeError
        If `pred` or `response` is not a DataArray.
    ValueError
        If a dim is missing or empty, the labels of the two differ, or `method` is unknown.

    Notes
    -----
    The two equations, with :math:`T` time bins, are

    .. math:: CC_{norm} = \frac{\mathrm{cov}(\hat r, y)}{\sqrt{\mathrm{var}(\hat r)\,SP}}, \qquad
              CC_{norm} = \frac{CC}{CC_{max}}

    The first is that of Schoppe et al. (2016). Their code, https://github.com/OSchoppe/CCnorm,
    divides covariance and variance by :math:`T`, but :math:`SP` by :math:`T - 1`: for one stimulus
    it gives :math:`\sqrt{(T - 1) / T}` of the value here. The second is that of Hsu et al. (2004).

    Both are ratios of estimates and can exceed 1. With ``"schoppe"``, differences between the mean
    rates of stimuli are part of the covariance, but not of the signal power: the true rate itself
    scores :math:`\sqrt{v / SP}`, where :math:`v` is its variance over all bins and :math:`SP` that
    within stimuli, which is above 1 for a cell that prefers some of the sounds to others.
    deepSTRF 0.1.0 pools in this way too, and gives the same values.

    References
    ----------
    Schoppe O, Harper NS, Willmore BDB, King AJ, Schnupp JWH (2016). Measuring the performance of
    neural models. Front. Comput. Neurosci. 10:10. doi:10.3389/fncom.2016.00010

    Hsu A, Borst A, Theunissen FE (2004). Quantifying variability in neural responses and its
    application for the validation of model predictions. Network 15:91-109.
    doi:10.1088/0954-898X_15_2_002

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import cc_norm
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.5, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> float(cc_norm(rate, response).round(2))
    1.0
    >>> abs(float(cc_norm(rate.roll(stim=1), response))) < 0.1
    True
    """
    if method not in ("schoppe", "hsu"):
        raise ValueError(f"method must be 'schoppe' or 'hsu', not {method!r}")
    psth, *powers = _average(response)
    psth = psth.where(powers[0].notnull())
    if method == "hsu":
        ratio = corrcoef(pred, psth) / cc_max(response)
    else:
        signal, _ = _mean_powers(*powers)
        _, _, _, var_pred, _, cov = _moments(pred, psth)
        ratio = cov / np.sqrt(var_pred * signal.where(signal > 0))
    return _named(ratio, "cc_norm", f"normalised correlation coefficient ({method})", "1")


def cc_max(response: xr.DataArray, *, splits: int = 126, seed: int = 0) -> xr.DataArray:
    r"""Noise ceiling within a stimulus: the correlation with the PSTH expected of the true rate.

    The presentations of a stimulus are split into halves of equal size, and the PSTHs of the
    halves correlated; :math:`CC_{half}` is the mean over splits, and

    .. math:: CC_{max} = \sqrt{\frac{2}{1 + \sqrt{1 / CC_{half}^2}}}

    Estimated within each stimulus, then averaged over stimuli, weighted by their valid time bins.
    Stimuli whose :math:`CC_{half}` is not positive have no ceiling and are left out, which
    flatters very noisy cells. Of an odd number of presentations the last is not used.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    splits : int, default: 126
        Number of random splits. Where no more distinct ones exist (126 for 10 presentations),
        each is taken once and nothing is left to chance.
    seed : int, default: 0
        Seed of the random splits. Stimuli and cells with as many presentations share splits, so
        that the value of a cell depends neither on the others nor on chunks.

    Returns
    -------
    xarray.DataArray
        From 0 to 1, float64, dims (neuron). NaN where no stimulus has a ceiling.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `splits` is less than 1.

    See Also
    --------
    corrcoef_max : The ceiling over all stimuli strung together, as models are scored.

    Notes
    -----
    The equation is that of Hsu et al. (2004). The code of Schoppe et al. (2016),
    https://github.com/OSchoppe/CCnorm, splits nothing, and has
    :math:`\sqrt{SP / \mathrm{var}_t(y)}` for :math:`CC_{max}`, where :math:`SP` is
    :func:`signal_power` and :math:`y` the PSTH.

    References
    ----------
    Hsu A, Borst A, Theunissen FE (2004). Quantifying variability in neural responses and its
    application for the validation of model predictions. Network 15:91-109.
    doi:10.1088/0954-898X_15_2_002

    Schoppe O, Harper NS, Willmore BDB, King AJ, Schnupp JWH (2016). Measuring the performance of
    neural models. Front. Comput. Neurosci. 10:10. doi:10.3389/fncom.2016.00010

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import cc_max
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 2, 1]]], dims=("stim", "rep", "time"))
    >>> float(cc_max(response))
    1.0
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    kernel = partial(_half_split_ceiling, splits=splits, seed=seed)
    ceiling, n_bins = _per_stimulus(kernel, response, [(), ()])
    return _named(
        _mean_over_stimuli(ceiling, n_bins), "cc_max", "noise ceiling, within sounds", "1"
    )


def ttrc(response: xr.DataArray) -> xr.DataArray:
    """Trial-to-trial correlation: how alike two presentations of a stimulus are.

    The mean Pearson correlation (over time) between two presentations of a stimulus, over all
    pairs, then averaged over stimuli, weighted by their valid time bins. Presentations without
    variance (without a spike, say) have no correlation and are left out.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        From -1 to 1, float64, dims (neuron). NaN where no stimulus has two presentations with
        variance.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import ttrc
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(ttrc(response).round(6))
    0.5
    """
    mean_cc, n_bins = _per_stimulus(_pairwise_correlation, response, [(), ()])
    return _named(_mean_over_stimuli(mean_cc, n_bins), "ttrc", "trial-to-trial correlation", "1")


def coherence(pred: xr.DataArray, psth: xr.DataArray) -> xr.DataArray:
    r"""Magnitude-squared coherence between prediction and PSTH, averaged over frequencies.

    With cross- and power spectra averaged over stimuli (each a segment, or several overlapping
    ones of 256 bins if it is longer; Hann window, mean removed), at frequencies :math:`f` above 0
    and up to the Nyquist frequency:

    .. math:: \left\langle \frac{|P_{\hat r r}(f)|^2}{P_{\hat r \hat r}(f)\,P_{rr}(f)}
              \right\rangle_f

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit.
    psth : xarray.DataArray
        Recorded response averaged over presentations, same dims. Stimuli with missing bins are
        left out.

    Returns
    -------
    xarray.DataArray
        From 0 to 1, float64, dims (neuron); about 1 / (number of segments) for unrelated signals.
        NaN for fewer than two segments or where prediction or PSTH has no variance.

    Raises
    ------
    TypeError
        If `pred` or `psth` is not a DataArray.
    ValueError
        If ``stim`` or ``time`` is missing or empty, or the labels of the two differ.
    ImportError
        Without scipy; with dask-backed input, once the result is computed.

    Notes
    -----
    The spectra are those of ``scipy.signal.csd`` (Welch's method). Noise is not taken into
    account: the true rate of a noisy cell stays below 1.

    References
    ----------
    Hsu A, Borst A, Theunissen FE (2004). Quantifying variability in neural responses and its
    application for the validation of model predictions. Network 15:91-109.
    doi:10.1088/0954-898X_15_2_002

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import coherence
    >>> psth = np.random.default_rng(0).gamma(1, 0.5, (18, 150))
    >>> psth = xr.DataArray(psth, dims=("stim", "time"))
    >>> float(coherence(3 * psth + 1, psth).round(6))
    1.0
    """
    (value,) = _pooled(_mean_coherence, pred, psth, 1)
    return _named(value, "coherence", "magnitude-squared coherence", "1")


# --- labelled arrays in, labelled arrays out ---------------------------------------------------


def _checked(array: xr.DataArray, name: str, dims: tuple[str, ...], whole: tuple[str, ...]) -> Any:
    """`array` with ``stim`` first and each dim in `whole` in one chunk, or a helpful error."""
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"{name} must be an xarray.DataArray, not {type(array).__name__}")
    for dim in dims:
        if dim not in array.dims:
            raise ValueError(
                f"{name} needs the dims {dims}, but has {array.dims}: {dim!r} is missing. "
                "(Selecting with a list, as in .isel(stim=[0]), keeps a dim of length one.)"
            )
        if array.sizes[dim] == 0:
            raise ValueError(f"{name} is empty: its dim {dim!r} has length 0")
    return single_chunk(array, *whole).transpose("stim", ...)


def _named(values: xr.DataArray, name: str, long_name: str, units: str) -> xr.DataArray:
    values = values.rename(name)
    values.attrs = {"long_name": long_name, "units": units, **simulated_attr(values)}
    return values


def _squared_units(response: xr.DataArray) -> str:
    units = response.attrs.get("units")
    return units if units == "1" else f"({units})^2" if units else "(spikes per bin)^2"


def _per_stimulus(
    kernel: Callable[[Array], tuple[Array, ...]],
    response: xr.DataArray,
    output_dims: list[tuple[str, ...]],
) -> tuple[xr.DataArray, ...]:
    """Apply a kernel of (..., rep, time) to each stimulus; every output keeps the dim stim."""
    response = _checked(response, "response", ("stim", "rep", "time"), ("rep", "time"))
    outputs: tuple[xr.DataArray, ...] = xr.apply_ufunc(
        partial(_stimulus_by_stimulus, kernel),
        response,
        input_core_dims=[["rep", "time"]],
        output_core_dims=output_dims,
        dask="parallelized",
        output_dtypes=[np.float64] * len(output_dims),
        keep_attrs=True,
    )
    return outputs


def _pooled(
    kernel: Callable[[Array, Array], Array | tuple[Array, ...]],
    pred: xr.DataArray,
    psth: xr.DataArray,
    n_outputs: int,
) -> tuple[xr.DataArray, ...]:
    """Apply a kernel of (psth, pred), each (..., stim, time), that reduces both dims."""
    dims = ("stim", "time")
    outputs = xr.apply_ufunc(
        kernel,
        # The recorded side comes first: its labels are those of the result.
        _checked(psth, "psth", dims, dims),
        _checked(pred, "pred", dims, dims),
        input_core_dims=[dims, dims],
        output_core_dims=[()] * n_outputs,
        dask="parallelized",
        output_dtypes=[np.float64] * n_outputs,
        keep_attrs=True,
    )
    outputs = outputs if n_outputs > 1 else (outputs,)
    for output in outputs:
        output.attrs |= simulated_attr(pred)
    return outputs


def _mean_over_stimuli(values: xr.DataArray, n_bins: xr.DataArray) -> xr.DataArray:
    return values.weighted(n_bins).mean("stim")


def _moments(pred: xr.DataArray, psth: xr.DataArray) -> tuple[xr.DataArray, ...]:
    """Bins, means, variances and covariance; the variance of a constant is NaN."""
    return _pooled(_bin_moments, pred, psth, 6)


def _average(response: xr.DataArray) -> tuple[xr.DataArray, ...]:
    """PSTH, and per stimulus: signal power, noise power, number of valid bins."""
    return _per_stimulus(_psth_and_powers, response, [("time",), (), (), ()])


def _powers(response: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    return _mean_powers(*_average(response)[1:])


def _mean_powers(
    signal: xr.DataArray, noise: xr.DataArray, n_bins: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Signal and noise power over stimuli; zero where rounding alone would give them a sign."""
    signal, noise = _mean_over_stimuli(signal, n_bins), _mean_over_stimuli(noise, n_bins)
    rounding = _CANCELLED * (signal + noise)
    return signal.where(~(abs(signal) <= rounding), 0), noise.where(~(abs(noise) <= rounding), 0)


# --- kernels: plain arrays, float64 ------------------------------------------------------------


def _stimulus_by_stimulus(
    kernel: Callable[[Array], tuple[Array, ...]], response: Array
) -> tuple[Array, ...]:
    """Loop over the leading axis, so that float64 copies are never larger than one stimulus."""
    outputs = [kernel(one.astype(np.float64)) for one in response]
    return tuple(np.stack(parts) for parts in zip(*outputs, strict=True))


def _bin_moments(y: Array, x: Array) -> tuple[Array, ...]:
    pairs = [(x[..., s, :], y[..., s, :]) for s in range(x.shape[-2])]

    n = sum_x = sum_y = np.zeros(())
    for xs, ys in pairs:
        valid = ~(np.isnan(xs) | np.isnan(ys))
        n = n + valid.sum(-1)
        sum_x = sum_x + np.where(valid, xs, 0).sum(-1, dtype=np.float64)
        sum_y = sum_y + np.where(valid, ys, 0).sum(-1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = sum_x / n, sum_y / n

    var_x = var_y = cov = np.zeros(())
    for xs, ys in pairs:
        dx, dy = xs - mean_x[..., None], ys - mean_y[..., None]
        valid = ~(np.isnan(dx) | np.isnan(dy))
        dx, dy = np.where(valid, dx, 0), np.where(valid, dy, 0)
        var_x = var_x + (dx * dx).sum(-1)
        var_y = var_y + (dy * dy).sum(-1)
        cov = cov + (dx * dy).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        var_x, var_y, cov = (
            np.where(n > 1, moment / (n - 1), np.nan) for moment in (var_x, var_y, cov)
        )
        var_x = np.where(var_x > _ROUNDING * mean_x**2, var_x, np.nan)
        var_y = np.where(var_y > _ROUNDING * mean_y**2, var_y, np.nan)
    return n.astype(np.float64), mean_x, mean_y, var_x, var_y, cov


def _presented(x: Array) -> tuple[Array, Array, Array]:
    """Which presentations of (..., rep, time) took place, how many; which bins are valid."""
    missing = np.isnan(x)
    presented: Array = np.logical_not(missing.all(-1))
    n_presented = presented.sum(-1)
    # A bin is valid if it is missing nowhere but in the repeats that never took place.
    n_missing = x.shape[-2] - n_presented
    valid = (missing.sum(-2) == n_missing[..., None]) & (n_presented > 0)[..., None]
    return presented, n_presented, valid


def _centred(x: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Presentations less their means over valid bins, and what goes with them.

    Overwrites `x`, of (..., rep, time), with 0 wherever there is nothing to count: missing
    presentations, bins that some presentation lacks, presentations that are constant.

    Returns deviations (..., rep, time), their sums of squares and the means (..., rep), the
    number of presentations (...), and which bins are valid (..., time).
    """
    presented, n_presented, valid = _presented(x)
    n_bins = valid.sum(-1)[..., None]

    counted = presented[..., None] & valid[..., None, :]
    everything = bool(counted.all())
    if not everything:
        np.copyto(x, 0, where=~counted)
    mean = x.sum(-1) / np.maximum(n_bins, 1)
    x -= mean[..., None]
    if not everything:
        np.copyto(x, 0, where=~counted)
    power = np.einsum("...t,...t->...", x, x)
    constant = power <= _ROUNDING * n_bins * mean**2
    if constant.any():
        np.copyto(x, 0, where=constant[..., None])
        power = np.where(constant, 0, power)
    return x, power, mean, n_presented, valid


def _psth_and_powers(x: Array) -> tuple[Array, ...]:
    x, power, mean, n_presented, valid = _centred(x)
    n_bins = valid.sum(-1)
    n = np.maximum(n_presented, 1)
    deviation = x.sum(-2) / n[..., None]
    psth = np.where(valid, deviation + (mean.sum(-1) / n)[..., None], np.nan)

    defined = (n_presented > 1) & (n_bins > 1)
    n, degrees = np.where(defined, n, np.nan), np.maximum(n_bins - 1, 1)
    power_of_mean = (deviation * deviation).sum(-1) / degrees
    mean_power = power.sum(-1) / n / degrees
    signal = (n * power_of_mean - mean_power) / (n - 1)
    return psth, signal, mean_power - signal, n_bins.astype(np.float64)


def _psth_and_noise(x: Array) -> tuple[Array, ...]:
    """Average over presentations (..., time), and the variance of that average."""
    presented, n_presented, valid = _presented(x)
    n = np.where(valid & (n_presented > 1)[..., None], n_presented[..., None], np.nan)
    psth = np.where(presented[..., None], x, 0).sum(-2) / n
    deviation = np.where(presented[..., None], x - psth[..., None, :], 0)
    return psth, (deviation * deviation).sum(-2) / (n - 1) / n


def _pairwise_correlation(x: Array) -> tuple[Array, ...]:
    x, power, _, _, valid = _centred(x)
    varies = power > 0
    n = varies.sum(-1)
    n = np.where(n > 1, n, np.nan)
    # Over unit vectors z, the sum over all pairs of z_i . z_j is |sum of z|^2 less each z . z.
    x /= np.sqrt(np.where(varies, power, 1))[..., None]
    total = (x.sum(-2) ** 2).sum(-1)
    return (total - n) / (n * (n - 1)), valid.sum(-1).astype(np.float64)


def _half_split_ceiling(x: Array, splits: int, seed: int) -> tuple[Array, ...]:
    presented_first = np.argsort(np.isnan(x).all(-1), axis=-1, kind="stable")
    x, _, _, n_presented, valid = _centred(x)
    x = np.take_along_axis(x, presented_first[..., None], axis=-2)

    ceiling = np.full(n_presented.shape, np.nan)
    for n in np.unique(n_presented):
        even = n // 2 * 2
        if even:
            some = n_presented == n
            signs = _half_splits(int(even), splits, seed)
            ceiling[some] = _ceiling(np.ascontiguousarray(x[some, :even]), signs)
    return ceiling, valid.sum(-1).astype(np.float64)


def _half_splits(n: int, splits: int, seed: int) -> Array:
    """Splits of `n` presentations into halves, as rows of +1 and -1."""
    if comb(n, n // 2) // 2 <= splits:
        # Every distinct split: the first presentation stays in the first half.
        signs = -np.ones((comb(n, n // 2) // 2, n))
        for row, others in zip(signs, combinations(range(1, n), n // 2 - 1), strict=True):
            row[[0, *others]] = 1
        return signs
    halves = np.repeat([1.0, -1.0], n // 2)
    return np.random.default_rng([seed, n]).permuted(np.tile(halves, (splits, 1)), axis=1)


def _ceiling(x: Array, signs: Array) -> Array:
    """CC_max of centred presentations (cell, rep, time), given splits (split, rep)."""
    # With s the sum over presentations and d that of one half less the other, the halves are
    # (s + d) / 2 and (s - d) / 2. Their correlation needs only the variances of s and d and their
    # covariance, which follow from the covariances between presentations: no split has to go
    # through the time bins again.
    between = x @ x.swapaxes(-1, -2)
    with_sum = between.sum(-1)
    var_s = with_sum.sum(-1)[:, None]
    var_d = between.reshape(len(x), -1) @ np.einsum("ki,kj->ijk", signs, signs).reshape(
        -1, len(signs)
    )
    cov_sd = with_sum @ signs.T

    product = (var_s + var_d) ** 2 - 4 * cov_sd**2
    product = np.where(product > 1e-12 * (var_s + var_d) ** 2, product, np.nan)
    cc_half = (var_s - var_d) / np.sqrt(product)
    # Splits with a half without variance have no correlation; they do not count.
    n_defined = np.isfinite(cc_half).sum(-1)
    cc_half = np.nansum(cc_half, axis=-1) / np.where(n_defined, n_defined, np.nan)
    cc_half = np.where(cc_half > _CANCELLED, cc_half, np.nan)
    return np.sqrt(2 / (1 + np.sqrt(1 / cc_half**2)))


def _mean_coherence(y: Array, x: Array) -> Array:
    csd = require("scipy.signal", "analysis").csd
    n_time = x.shape[-1]
    if n_time < 2:  # no frequency above 0
        return np.full(np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), np.nan)
    length = min(n_time, _SEGMENT)
    per_stimulus = (n_time - length // 2) // (length - length // 2)
    n_segments = p_xx = p_yy = p_xy = np.zeros(())
    for s in range(x.shape[-2]):
        xs, ys = np.broadcast_arrays(
            x[..., s, :].astype(np.float64), y[..., s, :].astype(np.float64)
        )
        whole = ~(np.isnan(xs) | np.isnan(ys)).any(-1)
        xs, ys = _without_constants(xs, whole), _without_constants(ys, whole)
        n_segments = n_segments + per_stimulus * whole
        p_xx = p_xx + csd(xs, xs, nperseg=length)[1].real
        p_yy = p_yy + csd(ys, ys, nperseg=length)[1].real
        p_xy = p_xy + csd(xs, ys, nperseg=length)[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        squared = (np.abs(p_xy) ** 2 / (p_xx * p_yy))[..., 1:].mean(-1)
    return np.where(n_segments > 1, squared, np.nan)


def _without_constants(x: Array, whole: Array) -> Array:
    """Stimuli that are not whole, or constant, as zeros: their spectra are then exactly zero."""
    x = np.where(whole[..., None], x, 0)
    return np.where((np.ptp(x, axis=-1) > 0)[..., None], x, 0)
