"""The steps of a fit, each of which changes the weights by the gradient of the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .losses import Loss

Step = Callable[[Tensor], Tensor]
"""Takes the indices of the sounds of a batch, changes the weights, and returns the loss."""

_N_PLAIN_STEPS = 3


def adam(network: nn.Module, learning_rate: float, *, on_gpu: bool) -> torch.optim.Adam:
    """Return the optimiser in the form that is fastest on the device."""
    return torch.optim.Adam(network.parameters(), learning_rate, fused=on_gpu, capturable=on_gpu)


def plain_step(
    network: nn.Module,
    objective: Loss,
    optimizer: torch.optim.Optimizer,
    sounds: Tensor,
    counts: Tensor,
    max_gradient: float | None,
) -> Step:
    """Return the step of a network, loss and optimiser. The gradient can have a largest norm."""

    def step(batch: Tensor) -> Tensor:
        loss = objective(network(sounds[batch]), counts[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if max_gradient is not None:
            nn.utils.clip_grad_norm_(network.parameters(), max_gradient)
        optimizer.step()
        return loss.detach()

    return step


class GraphedStep:
    """A step that a GPU records once and then repeats as a whole, as a CUDA graph.

    Networks as small as these keep a GPU waiting if Python starts each of their operations. The
    step must do the same operations each time. Smaller batches are not recorded. The returned loss
    changes with the next step.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step, self.batch_size = step, batch_size
        self.n_plain_steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """Do the step, and record it if it is due."""
        if len(batch) < self.batch_size:
            return self.step(batch)
        with torch.cuda.device(batch.device):
            if self.n_plain_steps < _N_PLAIN_STEPS:
                return self._plain(batch)
            if self.graph is None:
                self.batch = batch.clone()
                self.graph = self._recorded()
            self.batch.copy_(batch)
            self.graph.replay()
            return self.loss

    def _plain(self, batch: Tensor) -> Tensor:
        """Do one of the first steps, in which libraries choose algorithms and allocate memory."""
        self.n_plain_steps += 1
        default = torch.cuda.current_stream()
        aside: torch.cuda.Stream = torch.cuda.Stream()
        aside.wait_stream(default)
        with torch.cuda.stream(aside):
            loss = self.step(batch)
        default.wait_stream(aside)
        return loss

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """Record the operations of a step, which does not change the weights yet."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.loss = self.step(self.batch)
        return graph
