"""Loss functions of predicted rates and recorded spike counts, which may be NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["mse", "nmse", "poisson"]

Loss = Callable[[Tensor, Tensor], Tensor]


def mse(rate: Tensor, counts: Tensor) -> Tensor:
    """Compute the mean squared error over the bins that were recorded.

    Parameters
    ----------
    rate : torch.Tensor
        Predicted spikes per bin, of any shape.
    counts : torch.Tensor
        Recorded spikes per bin, of the same shape; NaN where there was no recording.

    Returns
    -------
    torch.Tensor
        A scalar, which is 0 if nothing was recorded.

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import mse
    >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([3.0, torch.nan]))
    tensor(4.)
    """
    squared_error: Any = _MeanSquaredError.apply
    loss: Tensor = squared_error(rate, counts)[0]
    return loss


class _MeanSquaredError(torch.autograd.Function):
    """The squared error, in few passes over memory: these take longer than the arithmetic."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rate: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        missing = counts.isnan()
        error = (rate - counts).masked_fill_(missing, 0)
        n_recorded = (counts.numel() - missing.sum()).clamp_min(1)
        return error.square().sum() / n_recorded, error, n_recorded

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, error, n_recorded = output
        ctx.mark_non_differentiable(error, n_recorded)
        ctx.save_for_backward(error, n_recorded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *others: Tensor) -> Any:
        error, n_recorded = ctx.saved_tensors
        return error * (2 * gradient / n_recorded), None


def nmse(rate: Tensor, counts: Tensor) -> Tensor:
    """Compute the mean squared error divided by the mean square of the counts.

    Parameters
    ----------
    rate, counts : torch.Tensor
        As for :func:`mse`.

    Returns
    -------
    torch.Tensor
        A scalar, which is 1 if the predicted rate is 0 in all bins.

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import nmse
    >>> nmse(torch.tensor([1.0, 2.0]), torch.tensor([2.0, torch.nan]))
    tensor(0.2500)
    """
    return mse(rate, counts) / _mean(counts.nan_to_num(0) ** 2, counts).clamp_min(1e-9)


def poisson(rate: Tensor, counts: Tensor) -> Tensor:
    """Compute the mean negative log-likelihood of Poisson counts, up to a constant.

    Parameters
    ----------
    rate, counts : torch.Tensor
        As for :func:`mse`. No rate may be negative.

    Returns
    -------
    torch.Tensor
        A scalar, which is NaN if a rate is negative.

    Examples
    --------
    >>> import torch
    >>> from nat4xr.models import poisson
    >>> poisson(torch.tensor([1.0, 2.0]), torch.tensor([3.0, torch.nan])).round(decimals=3)
    tensor(1.)
    """
    return _mean(rate - counts.nan_to_num(0) * (rate + 1e-6).log(), counts)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    recorded = ~counts.isnan()
    return torch.where(recorded, values, 0).sum() / recorded.sum().clamp_min(1)


LOSSES: dict[str, Loss] = {"mse": mse, "nmse": nmse, "poisson": poisson}
