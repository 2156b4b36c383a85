# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pictures of samples in the logs of a training."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets import RGBBandsMissingError

#: Samples of a batch that are shown.
SHOWN = 4


def log_samples(
    task: LightningModule,
    name: str,
    make: Callable[[], dict[str, Tensor]],
    plot: Callable[[dict[str, Tensor]], Figure | None],
) -> None:
    """Show the samples of a batch to the loggers that take figures.

    These are TensorBoard, and others whose experiment has ``add_figure`` or which have
    ``log_image`` themselves, such as Weights & Biases. Without one nothing is made.

    Args:
        task: The task, in a training.
        name: Name of the pictures, which their numbers follow.
        make: Makes the samples, a batch of digital numbers and class positions; called
            on the first process only.
        plot: Plots one of them; None if it cannot.
    """
    trainer = task.trainer
    if trainer.sanity_checking or not trainer.is_global_zero:
        return
    takers = [logger for logger in trainer.loggers if _takes_figures(logger)]
    batch = make() if takers else {}
    for number in range(len(next(iter(batch.values()), ()))):
        sample = {key: value[number].detach().cpu() for key, value in batch.items()}
        try:
            figure = plot(sample)
        except RGBBandsMissingError:
            return
        if figure is None:
            return
        for logger in takers:
            _take(logger, f'{name}/{number}', figure, task.global_step)
        plt.close(figure)


def _takes_figures(logger: Any) -> bool:
    return hasattr(logger, 'log_image') or hasattr(logger.experiment, 'add_figure')


def _take(logger: Any, name: str, figure: Figure, step: int) -> None:
    if hasattr(logger, 'log_image'):
        # which counts the steps itself
        logger.log_image(name, [figure])
    else:
        logger.experiment.add_figure(name, figure, global_step=step)
