"""Scores of predictions, and noise ceilings: how well any prediction could score.

Every function takes DataArrays with the dims of the NAT4 Dataset (in any order) and returns one
float64 value for each neuron, with all labels of the ``neuron`` dim:

* ``pred`` and ``psth`` have the dims ``stim`` and ``time``; ``response`` has ``stim``, ``rep``
  and ``time``. All further dims are kept, such as ``neuron`` or ``model``: you can score one cell
  or a population, one model or several.
* NaN means *not recorded*. A repeat that is all NaN did not take place. A time bin counts only if
  no presentation is NaN there. A NaN in a prediction removes the bin from every term of a score.
  A cell without any bins left is NaN.
* With dask-backed input, the result is lazy.

``sounds`` says how sounds are combined. By default they are ``"pooled"``: the bins of all sounds
are concatenated, and variances and covariances are taken over all bins, as in published scores.
With ``"separate"``, variances and covariances are taken within each sound and averaged over
sounds, weighted by their numbers of bins, so that differences between the mean rates of sounds do
not count. A score and its noise ceiling combine sounds in the same way, so that always

.. math:: CC_{norm} = CC / CC_{max}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from . import sums
from .chunks import single_chunk
from .extras import require
from .schema import check_array, noun, simulated_attr
from .shifts import shift_p_values

__all__ = [
    "cc_max",
    "cc_norm",
    "coherence",
    "corrcoef",
    "fve",
    "jackknife",
    "noise_power",
    "r2_er",
    "r_ceiling",
    "response_p",
    "signal_power",
    "snr",
    "trial_snr",
    "ttrc",
]


def __dir__() -> list[str]:
    return __all__


Array = NDArray[Any]
Sounds = Literal["pooled", "separate"]

# Longest segment of a spectrum, in time bins.
_SEGMENT = 256


# --- a prediction against the mean over trials ---------------------------------------------------


def corrcoef(pred: xr.DataArray, psth: xr.DataArray, *, sounds: Sounds = "pooled") -> xr.DataArray:
    r"""Pearson correlation between prediction and PSTH.

    It is computed over the (stim, time) bins that are valid in both:

    .. math:: CC = \frac{\mathrm{cov}(\hat r, y)}{\sqrt{\mathrm{var}(\hat r)\,\mathrm{var}(y)}}

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit.
    psth : xarray.DataArray
        Recorded response averaged over presentations, same dims, NaN where not recorded.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.

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
        If ``stim`` or ``time`` is missing or empty, the labels of the two differ, or `sounds` is
        unknown.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import corrcoef
    >>> psth = xr.DataArray([[[0.0, 2, 1]], [[1, 1, 3]]], dims=("stim", "neuron", "time"))
    >>> corrcoef(2 * psth + 1, psth).values.round(6)
    array([1.])
    """
    correlation = _correlation(_moments(_psth_sums(pred, psth), sounds))
    return _named(correlation, "corrcoef", "correlation coefficient", "1", psth, pred)


def fve(pred: xr.DataArray, psth: xr.DataArray) -> xr.DataArray:
    r"""Fraction of the PSTH's variance that the prediction explains.

    Unlike the correlation, it also counts a wrong gain or offset as an error. It is computed over
    the valid bins :math:`i` of all sounds:

    .. math:: FVE = 1 - \frac{\sum_i (y_i - \hat r_i)^2}{\sum_i (y_i - \bar y)^2}

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
    of_bins = _psth_sums(pred, psth)
    total = of_bins.sum("stim", skipna=False)
    moments = _moments(of_bins, "pooled")
    spread = moments["variance"] * (total["n"] - 1)
    error = total["pp"] - 2 * total["py"] + total["yy"]
    fraction = 1 - error / spread.where(spread > 0)
    return _named(fraction, "fve", "fraction of variance explained", "1", psth, pred)


def coherence(pred: xr.DataArray, psth: xr.DataArray) -> xr.DataArray:
    r"""Magnitude-squared coherence between prediction and PSTH, averaged over frequencies.

    It is computed from cross- and power spectra that are averaged over stimuli, at frequencies
    :math:`f` above 0 and up to the Nyquist frequency. A stimulus of up to 256 bins is one
    segment; a longer one is split into overlapping segments of 256 bins. Segments have their mean
    removed and get a Hann window:

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
        From 0 to 1, float64, dims (neuron). Unrelated signals have about 1 / (number of
        segments). NaN if there are fewer than two segments, or prediction or PSTH has no variance.

    Raises
    ------
    TypeError
        If `pred` or `psth` is not a DataArray.
    ValueError
        If ``stim`` or ``time`` is missing or empty, or the labels of the two differ.
    ImportError
        If SciPy is not installed. With dask-backed input, this is raised when the result is
        computed.

    Notes
    -----
    The spectra are computed by ``scipy.signal.csd`` (Welch's method). Noise is not corrected for:
    the true rate of a noisy cell has a coherence below 1.

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
    dims = ("stim", "time")
    value = xr.apply_ufunc(
        _mean_coherence,
        # The PSTH comes first because the result takes its labels.
        _checked(psth, "psth", dims, dims),
        _matched(_checked(pred, "pred", dims, dims), psth),
        input_core_dims=[dims, dims],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return _named(value, "coherence", "magnitude-squared coherence", "1", psth, pred)


# --- how much of the response follows the sounds -------------------------------------------------


def signal_power(response: xr.DataArray, *, sounds: Sounds = "pooled") -> xr.DataArray:
    r"""Variance over time bins of the part of the response that the sound drives.

    There are :math:`N` presentations :math:`r_n`, and :math:`y` is their mean. With sample
    variances over the :math:`T` bins (divisor :math:`T - 1`):

    .. math:: SP = \frac{1}{N-1}\left(N\,\mathrm{var}(y)
                   - \overline{\mathrm{var}(r_n)}\right)

    The noise of the trials does not bias this estimate. It is therefore negative for some cells
    whose true signal power is near 0.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.

    Returns
    -------
    xarray.DataArray
        Signal power in squared units of the response, float64, dims (neuron). Sounds that were
        presented only once do not count; NaN if there are no others.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `sounds` is unknown.

    Notes
    -----
    The variance of one presentation is the sum of signal and noise power. The variance of the
    mean over :math:`N` presentations is the signal power plus one :math:`N`-th of the noise power:

    .. math:: \overline{\mathrm{var}(r_n)} = SP + NP, \qquad \mathrm{var}(y) = SP + NP / N

    Solved for :math:`SP`, this is the estimator of Sahani and Linden (2003), with the divisor
    :math:`T - 1` of the code of Schoppe et al. (2016), https://github.com/OSchoppe/CCnorm. With
    pooled sounds, presentation :math:`n` is the :math:`n`-th presentation of every sound,
    concatenated. If sounds were not presented equally often, the number of presentations
    :math:`N_i` depends on the bin :math:`i`:

    .. math:: SP = \mathrm{var}_i(y_i)
              - \sum_n \mathrm{var}_i\left(\frac{r_{ni} - y_i}{\sqrt{N_i (N_i - 1)}}\right)

    where a presentation that did not take place contributes 0. If all :math:`N_i` are equal, this
    is the same estimator; if they differ, it is still unbiased.

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
    signal = _moments(_sums(response), sounds)["signal"]
    return _named(signal, "signal_power", "signal power", _squared_units(response), response)


def noise_power(response: xr.DataArray, *, sounds: Sounds = "pooled") -> xr.DataArray:
    r"""Variance over time bins of the part of the response that differs between presentations.

    It is the variance of a single presentation, less the signal power:

    .. math:: NP = \overline{\mathrm{var}(r_n)} - SP

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.

    Returns
    -------
    xarray.DataArray
        Noise power of one presentation in squared units of the response, float64, dims (neuron).
        NaN where no sound was presented twice.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `sounds` is unknown.

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
    noise = _moments(_sums(response), sounds)["noise"]
    return _named(noise, "noise_power", "noise power", _squared_units(response), response)


def snr(response: xr.DataArray, *, sounds: Sounds = "pooled") -> xr.DataArray:
    r"""Signal-to-noise ratio of one presentation: signal power over noise power.

    .. math:: SNR = SP / NP

    It is a ratio of powers, not in decibels. Pennington and David (2023) use the name SNR for
    another quantity: :func:`trial_snr`.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.

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
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `sounds` is unknown.

    References
    ----------
    Sahani M, Linden JF (2003). How linear are auditory cortical responses? Advances in Neural
    Information Processing Systems 15. (This defines the two powers.)

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import snr
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(snr(response))
    1.0
    """
    moments = _moments(_sums(response), sounds)
    signal, noise = moments["signal"], moments["noise"]
    ratio = signal.where(signal > 0) / noise.where(noise > 0)
    return _named(ratio, "snr", "signal-to-noise ratio", "1", response)


def trial_snr(response: xr.DataArray) -> xr.DataArray:
    r"""Signal-to-noise ratio as Pennington and David (2023) report it for each cell.

    For each presentation :math:`r_n` that has a spike, take its dot products with the other
    presentations of the sound, average them, and divide by its dot product with itself:

    .. math:: \frac{1}{N - 1} \sum_{m \neq n} \frac{r_n \cdot r_m}{r_n \cdot r_n}

    The result is averaged over presentations, then over sounds. No mean is subtracted, so it
    grows with the firing rate, even for a cell that ignores the sounds.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        At least 0, dimensionless, float64, dims (neuron). NaN if no sound that was presented at
        least twice has a spike.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty.

    References
    ----------
    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19(5):
    e1011110. doi:10.1371/journal.pcbi.1011110

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import trial_snr
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(trial_snr(response))
    0.8
    """
    (of_sound,) = _by_sound(sums.trial_snr_by_sound, response, [()])
    ratio = of_sound.mean("stim")
    return _named(ratio, "trial_snr", "signal-to-noise ratio of trials", "1", response)


def ttrc(response: xr.DataArray, *, sounds: Sounds = "pooled") -> xr.DataArray:
    """Trial-to-trial correlation: how similar two presentations are.

    This is the mean Pearson correlation over all pairs of presentations. A presentation without
    variance, such as one without spikes, has the correlation 0 with any other, as in the code of
    Pennington and David (2023).

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    sounds : {"pooled", "separate"}, default: "pooled"
        With ``"pooled"``, presentation n is the n-th presentation of every sound, concatenated,
        up to the smallest number of presentations of any sound. With ``"separate"``, correlations
        are computed for each sound and averaged over sounds, weighted by their valid bins.

    Returns
    -------
    xarray.DataArray
        From -1 to 1, float64, dims (neuron). NaN if no sound was presented at least twice, or no
        presentation has any variance.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `sounds` is unknown.

    References
    ----------
    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19(5):
    e1011110. doi:10.1371/journal.pcbi.1011110

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.metrics import ttrc
    >>> response = xr.DataArray([[[0.0, 2, 1], [0, 1, 2]]], dims=("stim", "rep", "time"))
    >>> float(ttrc(response).round(6))
    0.5
    """
    kernel = partial(sums.trial_correlation, pooled=_is_pooled(sounds))
    correlation = _of_products(kernel, response)
    return _named(correlation, "ttrc", "trial-to-trial correlation", "1", response)


# --- noise ceilings, and scores relative to them -------------------------------------------------


def cc_max(
    response: xr.DataArray,
    *,
    method: Literal["schoppe", "hsu"] = "schoppe",
    sounds: Sounds = "pooled",
    splits: int = 126,
    seed: int = 0,
) -> xr.DataArray:
    r"""Noise ceiling: the correlation with the PSTH that the true rate is expected to have.

    * ``"schoppe"`` uses the :func:`signal_power`:
      :math:`CC_{max} = \sqrt{SP / \mathrm{var}(y)}`.
    * ``"hsu"`` uses the correlation :math:`CC_{half}` between the PSTHs of two halves of the
      presentations, averaged over many splits:
      :math:`CC_{max} = \sqrt{2 / (1 + \sqrt{1 / CC_{half}^2})}`. If the number of presentations
      is odd, the last one is not used.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    method : {"schoppe", "hsu"}, default: "schoppe"
        How to estimate the ceiling.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.
    splits : int, default: 126
        The number of random splits for ``"hsu"``. If there are not more distinct splits than that
        (10 presentations have 126), each of them is used once.
    seed : int, default: 0
        Seed of the random splits. The ceiling of a cell does not depend on other cells or on
        chunks.

    Returns
    -------
    xarray.DataArray
        From 0 to 1, float64, dims (neuron). NaN if there is no evidence of a signal: no sound was
        presented at least twice, or the signal power (or :math:`CC_{half}`) is not positive.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, `method` or `sounds` is unknown, or
        `splits` is less than 1.

    Notes
    -----
    By chance, half of the cells that ignore the sounds have a positive signal power, and therefore
    a ceiling, which is small. A mean over cells is too high if it leaves out the cells without a
    ceiling.

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
    >>> from nat4xr.metrics import cc_max, corrcoef
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.1, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> float(cc_max(response).round(2)), float(corrcoef(rate, response.mean("rep")).round(2))
    (0.82, 0.83)
    """
    _check_method(method)
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    if method == "hsu":
        kernel = partial(
            sums.half_split_ceiling, splits=splits, seed=seed, pooled=_is_pooled(sounds)
        )
        ceiling = _of_products(kernel, response)
    else:
        ceiling = _ceiling(_moments(_sums(response), sounds))
    return _named(ceiling, "cc_max", f"noise ceiling ({method}, sounds {sounds})", "1", response)


def cc_norm(
    pred: xr.DataArray,
    response: xr.DataArray,
    *,
    method: Literal["schoppe", "hsu"] = "schoppe",
    sounds: Sounds = "pooled",
) -> xr.DataArray:
    r"""Correlation of the prediction with the PSTH, relative to the best that noise allows.

    .. math:: CC_{norm} = \frac{CC}{CC_{max}}

    This divides :func:`corrcoef` by :func:`cc_max`. Both are taken over the bins that have a
    prediction, in sounds that were presented at least twice.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit. Where it is NaN, the bin
        counts neither in the correlation nor in the ceiling.
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    method : {"schoppe", "hsu"}, default: "schoppe"
        How the noise ceiling is estimated: see :func:`cc_max`.
    sounds : {"pooled", "separate"}, default: "pooled"
        Whether variances are over the bins of all sounds, or within each sound.

    Returns
    -------
    xarray.DataArray
        Near 1 for a prediction of the true rate, near 0 for an unrelated one, float64, dims
        (neuron). NaN where the prediction has no variance, or the cell has no noise ceiling.

    Raises
    ------
    TypeError
        If `pred` or `response` is not a DataArray.
    ValueError
        If a dim is missing or empty, the labels of the two differ, or `method` or `sounds` is
        unknown.

    Notes
    -----
    With ``"schoppe"`` this is the equation of Schoppe et al. (2016),

    .. math:: CC_{norm} = \frac{\mathrm{cov}(\hat r, y)}{\sqrt{\mathrm{var}(\hat r)\,SP}}

    With pooled sounds, this is what the code behind the published table computes. It can exceed 1,
    because it is a ratio of two estimates.

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
    _check_method(method)
    moments = _moments(_sums(response, pred), sounds)
    if method == "hsu":
        scored = response.where(pred.notnull())
        ceiling = cc_max(scored, method=method, sounds=sounds)
    else:
        ceiling = _ceiling(moments)
    return _named(
        _correlation(moments) / ceiling,
        "cc_norm",
        f"normalised correlation coefficient ({method}, sounds {sounds})",
        "1",
        response,
        pred,
    )


def r_ceiling(pred: xr.DataArray, response: xr.DataArray) -> xr.DataArray:
    r"""Normalised correlation from single trials, as Pennington and David (2023) report it.

    .. math:: r_{ceiling} = \frac{\overline{\mathrm{corr}(\hat r, r_n)}}
                              {\sqrt{\overline{\mathrm{corr}(r_n, r_m)}}}

    Presentation :math:`n` is the :math:`n`-th presentation of every sound, concatenated, up to the
    smallest number of presentations of any sound. The mean under the root is taken over all pairs,
    and is set to 0.01 if it is smaller. A presentation without variance has the correlation 0. The
    paper's figures show medians over cells.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit. Bins where it is NaN do not
        count.
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
        If a presentation was cut short, the bins that it has do count.

    Returns
    -------
    xarray.DataArray
        Near 1 for a prediction of the true rate, near 0 for an unrelated one, float64, dims
        (neuron). NaN if no sound was presented at least twice, or prediction or response has no
        variance (the lab's code returns 0 in that case).

    Raises
    ------
    TypeError
        If `pred` or `response` is not a DataArray.
    ValueError
        If a dim is missing or empty, or the labels of the two differ.

    References
    ----------
    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19(5):
    e1011110. doi:10.1371/journal.pcbi.1011110

    The same quantity is ``r_ceiling`` in the lab's library NEMS0, https://github.com/LBHB/NEMS0.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import r_ceiling
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.5, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> float(r_ceiling(rate, response).round(2))
    1.0
    """
    dims = ("stim", "rep", "time")
    ratio = xr.apply_ufunc(
        _r_ceiling,
        _checked(response, "response", dims, dims),
        _matched(_checked(pred, "pred", ("stim", "time"), ("stim", "time")), response),
        input_core_dims=[["stim", "rep", "time"], ["stim", "time"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    long_name = "normalised correlation coefficient (single trials)"
    return _named(ratio, "r_ceiling", long_name, "1", response, pred)


def r2_er(pred: xr.DataArray, response: xr.DataArray) -> xr.DataArray:
    r"""Squared correlation with the true rate, without the bias that noise causes.

    The squared correlation between prediction and PSTH is too low, because noise adds to the
    variance of the PSTH. If you divide it by a squared noise ceiling, it becomes too high, because
    noise also adds to the squared covariance. This estimator subtracts both contributions, over
    the bins of all sounds:

    .. math:: r^2_{ER} = \frac{\mathrm{cov}(\hat r, y)^2 - V}{\mathrm{var}(\hat r)\,SP}

    where :math:`SP` is the :func:`signal_power`, and :math:`V` is the variance that the covariance
    would have over repetitions of the experiment, estimated from the differences between
    presentations.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response, dims stim, time (and neuron), in any unit. Bins where it is NaN do not
        count.
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.

    Returns
    -------
    xarray.DataArray
        Near 1 for a prediction of the true rate, near 0 (below 0 half of the time) for an
        unrelated one, float64, dims (neuron). NaN where the prediction has no variance or the
        signal power is not positive.

    Raises
    ------
    TypeError
        If `pred` or `response` is not a DataArray.
    ValueError
        If a dim is missing or empty, or the labels of the two differ.

    Notes
    -----
    Pospisil and Bair assume that the noise has the same variance in all bins, and transform spike
    counts so that this is nearly true. Here the variance is estimated from the presentations
    themselves, so the noise may differ between bins and may be correlated within a presentation.
    Numerator and denominator are unbiased; their ratio is nearly unbiased if the signal power is
    well above its error.

    References
    ----------
    Pospisil DA, Bair W (2021). The unbiased estimation of the fraction of variance explained by a
    model. PLOS Comput. Biol. 17(8): e1009212. doi:10.1371/journal.pcbi.1009212

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import r2_er
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.5, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> float(r2_er(rate, response).round(2))
    0.99
    """
    moments = _moments(_sums(response, pred), "pooled")
    signal, var_pred = moments["signal"], moments["var_pred"]
    explained = moments["cov"] ** 2 - moments["noise_of_cov"]
    ratio = explained / (var_pred.where(var_pred > 0) * signal.where(signal > 0))
    return _named(ratio, "r2_er", "squared correlation with the rate", "1", response, pred)


# --- uncertainty ---------------------------------------------------------------------------------


def jackknife(
    metric: Callable[..., xr.DataArray], *arrays: xr.DataArray, dim: str = "stim"
) -> xr.Dataset:
    r"""Compute a metric and its standard error over sounds.

    The metric is computed again :math:`n` times, each time without one of the :math:`n` sounds:

    .. math:: SE = \sqrt{\frac{n - 1}{n} \sum_s (\theta_{(s)} - \bar\theta)^2}

    Parameters
    ----------
    metric : callable
        A function of the arrays that returns a DataArray. Use `functools.partial` to give it
        options.
    *arrays : xarray.DataArray
        The arguments of the metric, such as prediction and response, each with the dim `dim`.
    dim : str, default: "stim"
        The dim along which one element is left out at a time.

    Returns
    -------
    xarray.Dataset
        ``value`` and ``standard_error``, each with the dims of the metric, lazy with dask-backed
        input. The standard error is NaN if fewer than two sounds have data.

    Raises
    ------
    TypeError
        If `metric` is not callable.
    ValueError
        If an array does not have the dim `dim`, or it has fewer than two labels.

    References
    ----------
    Efron B, Tibshirani RJ (1993). An introduction to the bootstrap, chapter 11. Chapman & Hall.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import cc_norm, jackknife
    >>> rng = np.random.default_rng(0)
    >>> rate = xr.DataArray(rng.gamma(1, 0.5, (18, 150)), dims=("stim", "time"))
    >>> response = xr.DataArray(rng.poisson(rate, (20, 18, 150)), dims=("rep", "stim", "time"))
    >>> score = jackknife(cc_norm, rate, response)
    >>> float(score.value.round(3)), float(score.standard_error.round(3))
    (0.997, 0.002)
    """
    if not callable(metric):
        raise TypeError(f"metric must be a function, not {type(metric).__name__}")
    if not arrays or any(dim not in array.dims for array in arrays):
        raise ValueError(f"each array needs the dim {dim!r}")
    n = arrays[0].sizes[dim]
    if n < 2:
        raise ValueError(f"{dim!r} has a single label, but leaving one out takes two or more")
    value = metric(*arrays)
    others = [np.delete(np.arange(n), i) for i in range(n)]
    replicates = xr.concat(
        [metric(*(array.isel({dim: kept}) for array in arrays)) for kept in others],
        dim="left_out",
        coords="minimal",
        compat="override",
    )
    # Only sounds that a cell heard count for its error.
    heard = xr.ones_like(arrays[0][dim], dtype=bool).drop_vars(list(arrays[0][dim].coords))
    for array in arrays:
        heard = heard & array.notnull().any([d for d in array.dims if d not in (dim, *value.dims)])
    error = jackknife_error(replicates, heard.rename({dim: "left_out"}))
    error.attrs = {**value.attrs, "long_name": f"standard error over {dim}"}
    return xr.Dataset({"value": value, "standard_error": error})


def response_p(response: xr.DataArray, *, shifts: int = 1000, seed: int = 0) -> xr.DataArray:
    r"""P-value of the hypothesis that a cell does not follow the sounds.

    The trials of each sound are shifted against each other in time, circularly and at random.
    This keeps the firing rate, the bursts and the rhythm of each trial, but removes what the
    trials have in common. p is the share of shifts whose :func:`signal_power` within sounds is at
    least as large as that of the response; the unshifted response counts as one of the shifts.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims stim, rep, time (and neuron), NaN where there was no presentation.
    shifts : int, default: 1000
        Number of shifts; the smallest p is 1 / (1 + shifts).
    seed : int, default: 0
        Seed of the shifts. Cells that heard the same sounds share the shifts, so the p-value of a
        cell does not depend on other cells or on chunks.

    Returns
    -------
    xarray.DataArray
        Above 0 and at most 1, float64, dims (neuron). It is uniformly distributed for cells that
        ignore the sounds. NaN if no sound was presented at least twice, or no trial has any
        variance.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``stim``, ``rep`` or ``time`` is missing or empty, or `shifts` is less than 1.

    Examples
    --------
    Of 100 cells that ignore the sounds, about 5 are expected to have p < 0.05:

    >>> import numpy as np, xarray as xr
    >>> from nat4xr.metrics import response_p
    >>> counts = np.random.default_rng(0).poisson(0.1, (18, 5, 150, 100))
    >>> undriven = xr.DataArray(counts, dims=("stim", "rep", "time", "neuron"))
    >>> int((response_p(undriven, shifts=99) < 0.05).sum())
    4
    """
    if shifts < 1:
        raise ValueError(f"shifts must be at least 1, not {shifts}")
    dims = ("stim", "rep", "time")
    p = xr.apply_ufunc(
        partial(shift_p_values, shifts=shifts, seed=seed),
        _checked(response, "response", dims, dims),
        input_core_dims=[["stim", "rep", "time"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return _named(p, "response_p", "p-value of no response to the sounds", "1", response)


def jackknife_error(replicates: xr.DataArray, counts: xr.DataArray) -> xr.DataArray:
    """Compute the jackknife's standard error from its replicates (left_out, ...).

    `counts` (left_out, ...) says which of the sounds that were left out count. The error is NaN if
    fewer than two do, or if the replicate of a sound that counts is NaN.
    """
    n = counts.sum("left_out")
    squares = ((replicates - replicates.where(counts).mean("left_out")) ** 2).where(counts, 0)
    error = (squares.sum("left_out", skipna=False) * (n - 1) / n.where(n > 1)) ** 0.5
    return error


def scores_and_replicates(
    pred: xr.DataArray, response: xr.DataArray, cells: NDArray[np.intp]
) -> tuple[xr.Dataset, ...]:
    """Compute CCraw, CCnorm and r_ceiling, and their jackknife replicates, in memory.

    Parameters
    ----------
    pred, response : xarray.DataArray
        With exactly the dims stim, time and neuron (and rep), and the same sounds.
    cells : numpy.ndarray of int
        The positions in `response` of the cells of `pred`.

    Returns
    -------
    scores : xarray.Dataset
        ``cc_raw``, ``cc_norm`` and ``r_ceiling`` (neuron); ``signal``, the signal power; and
        ``variance``, that of the PSTH. It has no coordinates.
    replicates : xarray.Dataset
        The same variables (left_out, neuron), each without one sound, and ``counts``: whether the
        sound counts for the cell.
    """
    dims = ("left_out", "neuron")
    x = response.transpose("stim", "rep", "time", "neuron").values
    p = pred.transpose("stim", "neuron", "time").values
    arrays, products, least = sums.sums_and_products(x, p, cells)
    by_sound = xr.Dataset(
        {
            name: ((*dims, "rep") if name in sums.PER_REPEAT else dims, array)
            for name, array in arrays.items()
        }
    )
    total = by_sound.sum("left_out", skipna=False)
    scores, replicates = _scores(total), _scores(total - by_sound)
    of_all = products.total()
    without = [sums.r_ceiling(of_all.without(products, i), least) for i in range(len(x))]
    scores["r_ceiling"] = ("neuron", sums.r_ceiling(of_all, least))
    replicates["r_ceiling"] = (dims, np.stack(without))
    return scores, replicates.assign(counts=by_sound["n"] > 0)


def _scores(of_bins: xr.Dataset) -> xr.Dataset:
    moments = _moments_of(of_bins)
    correlation = _correlation(moments)
    scores = {"cc_raw": correlation, "cc_norm": correlation / _ceiling(moments)}
    return xr.Dataset(scores | {name: moments[name] for name in ("signal", "variance")})


# --- labelled arrays in, labelled arrays out -----------------------------------------------------


def _checked(array: xr.DataArray, name: str, dims: tuple[str, ...], whole: tuple[str, ...]) -> Any:
    """Return `array` with ``stim`` first and one chunk along the dims in `whole`, or raise."""
    check_array(array, name, *dims)
    return single_chunk(array, *whole).transpose("stim", ...)


def _matched(pred: xr.DataArray, response: xr.DataArray) -> xr.DataArray:
    """Return a prediction with sounds and cells in the order of the response, by their names."""
    for dim in ("stim", "neuron"):
        if any(dim not in array.dims or dim not in array.coords for array in (pred, response)):
            continue
        given, wanted = pd.Index(pred[dim].values), response[dim].values
        if given.is_unique and not np.array_equal(given, wanted):
            positions = given.get_indexer(wanted)
            if (positions < 0).any() or len(given) != len(wanted):
                raise ValueError(
                    f"pred has {len(given)} {noun(dim)}s and the response has {len(wanted)}, of "
                    f"which {(positions >= 0).sum()} are the same: select these in both, for "
                    "example by pred, response = xr.align(pred, response)"
                )
            pred = pred.isel({dim: positions})
    return pred


def _check_method(method: str) -> None:
    if method not in ("schoppe", "hsu"):
        raise ValueError(f"method must be 'schoppe' or 'hsu', not {method!r}")


def _is_pooled(sounds: str) -> bool:
    if sounds not in ("pooled", "separate"):
        raise ValueError(f"sounds must be 'pooled' or 'separate', not {sounds!r}")
    return sounds == "pooled"


def _named(
    values: xr.DataArray, name: str, long_name: str, units: str, *sources: xr.DataArray
) -> xr.DataArray:
    values = values.rename(name)
    values.attrs = {"long_name": long_name, "units": units}
    for source in sources:
        values.attrs |= simulated_attr(source)
    return values


def _squared_units(response: xr.DataArray) -> str:
    units = response.attrs.get("units")
    return units if units == "1" else f"({units})^2" if units else "(spikes per bin)^2"


def _by_sound(
    kernel: Callable[..., Array | tuple[Array, ...]],
    response: xr.DataArray,
    output_dims: Sequence[tuple[str, ...]],
    pred: xr.DataArray | None = None,
    **new_dims: int,
) -> tuple[xr.DataArray, ...]:
    """Apply a kernel of (stim, ..., rep, time) whose outputs all have the dim stim."""
    arrays = [_checked(response, "response", ("stim", "rep", "time"), ("rep", "time"))]
    core_dims = [["rep", "time"]]
    if pred is not None:
        pred = _checked(pred, "pred", ("stim", "time"), ("time",))
        arrays.append(_matched(pred, response))
        core_dims.append(["time"])
    outputs = xr.apply_ufunc(
        kernel,
        *arrays,
        input_core_dims=core_dims,
        output_core_dims=output_dims,
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": new_dims},
        output_dtypes=[np.float64] * len(output_dims),
    )
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _sums(response: xr.DataArray, pred: xr.DataArray | None = None, least: int = 2) -> xr.Dataset:
    """Apply `sums.sums_by_sound`: dims stim, (neuron, ...) and, if there is one per repeat, rep."""
    names = sums.SUMS if pred is None else sums.SUMS + sums.PRED_SUMS
    output_dims = [("rep",) if name in sums.PER_REPEAT else () for name in names]
    kernel = partial(sums.sums_by_sound, least=least)
    return xr.Dataset(dict(zip(names, _by_sound(kernel, response, output_dims, pred), strict=True)))


def _psth_sums(pred: xr.DataArray, psth: xr.DataArray) -> xr.Dataset:
    """Apply `sums.sums_by_sound` to a PSTH, which counts as a single presentation."""
    if "rep" in getattr(psth, "dims", ()):
        raise ValueError("psth has the dim 'rep': average it, as in response.mean('rep')")
    return _sums(_checked(psth, "psth", ("stim", "time"), ()).expand_dims("rep"), pred, least=1)


def _moments(by_sound: xr.Dataset, sounds: str) -> xr.Dataset:
    """Compute variances, covariance and powers, over all bins or averaged over sounds."""
    if _is_pooled(sounds):
        return _moments_of(by_sound.sum("stim", skipna=False))
    n = by_sound["n"]
    return _moments_of(by_sound).weighted(n.where(n > 1, 0)).mean("stim")


def _moments_of(s: xr.Dataset) -> xr.Dataset:
    """Compute variances, covariance and powers from sums over bins."""
    n = s["n"].where(s["n"] > 1)
    variance = _spread(s["yy"], s["y"] ** 2 / n) / (n - 1)
    noise, noise_of_mean = (
        (s[name] - (s[drift] ** 2).sum("rep", skipna=False) / n) / (n - 1)
        for name, drift in (("noise", "drift"), ("noise_of_mean", "drift_of_mean"))
    )
    moments = {"variance": variance, "noise": noise, "signal": variance - noise_of_mean}
    for name in ("noise", "signal"):  # a power that is only rounding error is 0
        no_power = abs(moments[name]) <= sums.CANCELLED * s["yy"] / n
        moments[name] = moments[name].where(~no_power, 0)
    if "p" in s:
        drift = s["p_drift_of_mean"] - s["p"] / n * s["drift_of_mean"]
        moments |= {
            "var_pred": _spread(s["pp"], s["p"] ** 2 / n) / (n - 1),
            "cov": (s["py"] - s["p"] * s["y"] / n) / (n - 1),
            "noise_of_cov": (drift**2).sum("rep", skipna=False) / (n - 1) ** 2,
        }
    return xr.Dataset(moments)


def _spread(squares: xr.DataArray, of_mean: xr.DataArray) -> xr.DataArray:
    """Subtract the squares of the mean from the squares; 0 if the rest is a rounding error."""
    spread = squares - of_mean
    return spread.where(~(spread <= sums.CANCELLED * squares), 0)


def _correlation(moments: xr.Dataset) -> xr.DataArray:
    product = moments["var_pred"] * moments["variance"]
    return moments["cov"] / product.where(product > 0) ** 0.5


def _ceiling(moments: xr.Dataset) -> xr.DataArray:
    signal = moments["signal"]
    return (signal.where(signal > 0) / moments["variance"]) ** 0.5


def _of_products(kernel: Callable[..., Array], response: xr.DataArray) -> xr.DataArray:
    """Apply a kernel of the products of presentations (..., stim, [rep, [rep]]) of all sounds."""
    products = _by_sound(
        sums.products_by_sound,
        response,
        [(), (), ("rep",), ("rep", "other_rep")],
        other_rep=getattr(response, "sizes", {}).get("rep", 0),
    )
    core_dims = [["stim"], ["stim"], ["stim", "rep"], ["stim", "rep", "other_rep"]]
    result: xr.DataArray = xr.apply_ufunc(
        kernel,
        *(single_chunk(p, *dims) for p, dims in zip(products, core_dims, strict=True)),
        input_core_dims=core_dims,
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return result


def _r_ceiling(response: Array, pred: Array) -> Array:
    products, n_reps = sums.products_with_prediction(
        np.moveaxis(response, -3, 0), np.moveaxis(pred, -2, 0)
    )
    return sums.r_ceiling(products.total(), sums.least_reps(n_reps))


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
    """Set stimuli that are incomplete or constant to 0, so that their spectra are exactly zero."""
    x = np.where(whole[..., None], x, 0)
    return np.where((np.ptp(x, axis=-1) > 0)[..., None], x, 0)
