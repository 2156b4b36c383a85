# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from tests.conftest import Run, pairs, quiet_trainer
from tests.tasks.test_change_detection import BrighterDataModule, a_task
from tests.tasks.test_segmentation import BlocksDataModule, toy_task
from torchgeo_specdm import SpecDMTask


class Board(Logger):
    """Takes figures as TensorBoard does, and numbers."""

    name, version, save_dir = 'board', 0, None

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, int], list[np.ndarray]] = {}
        self.numbers: dict[str, list[float]] = {}

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(add_figure=self.add)

    def add(self, name: str, figure: Figure, global_step: int) -> None:
        panels = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
        self.seen[name, global_step] = panels

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        for name, value in metrics.items():
            self.numbers.setdefault(name, []).append(value)

    def log_hyperparams(self, *args: Any) -> None:
        pass


class Images(Board):
    """Takes figures as the logger of Weights & Biases does."""

    experiment = SimpleNamespace()

    def log_image(self, name: str, images: list[Figure]) -> None:
        self.add(name, images[0], 0)


def fit(task: Any, data: Any, logger: Any, tmp_path: Path, steps: int = 4) -> None:
    seed_everything(0, verbose=False)
    trainer = quiet_trainer(tmp_path, max_steps=steps, max_epochs=steps, logger=logger)
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == steps
    assert torch.isfinite(trainer.callback_metrics['train_loss'])


def test_reconstructions(
    pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    board = Board()
    task = SpecDMTask('autoencoder', str(tmp_path / 'c'), settings=tiny_settings)
    fit(task, pairs(pair_folder, batch_size=16), board, tmp_path, 2)
    # and none of the weights that nothing was trained for
    names = [(f'reconstruction/{i}', step) for step in (1, 2) for i in range(4)]
    assert sorted(board.seen) == sorted(names)
    image, decoded, _, _ = board.seen['reconstruction/0', 2]
    assert image.shape == decoded.shape == (32, 32, 3)
    assert not np.array_equal(image, decoded)
    rates = board.numbers['lr']
    assert len(rates) == 2 and rates[0] > rates[1] > 0


def test_samples_are_drawn_if_asked_for_and_change_no_weight(
    pair_folder: Path,
    autoencoder_run: Run,
    tiny_settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    weights = []
    for count in (None, 2):
        board, out = Board(), str(tmp_path / f'g{count}')
        codec = str(autoencoder_run.out)
        task = SpecDMTask(
            'diffusion', out, codec, settings=tiny_settings, pictures=count
        )
        fit(task, pairs(pair_folder), board, tmp_path)
        weights.append(task.model.denoiser.state_dict())
        names = [(f'sample/{i}', step) for step in (2, 4) for i in range(count or 0)]
        assert sorted(board.seen) == sorted(names)
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    drawn = task.generator.sample([1], seed=0)
    shown = board.seen['sample/1', 4][-1]
    colors = torch.tensor(task.codec.spec.colors)[drawn['mask'][0]] / 255
    assert np.allclose(shown, colors)


@pytest.mark.parametrize('kind', [Board, Images])
def test_maps(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, data = kind(), BlocksDataModule()
    plotted = []

    def plot(sample: dict[str, Any]) -> Figure:
        plotted.append(sample)
        figure = Figure()
        for key in ('mask', 'prediction'):
            figure.add_subplot().imshow(sample[key])
        return figure

    monkeypatch.setattr(data, 'plot', plot, raising=False)
    task = toy_task()
    fit(task, data, board, tmp_path)
    assert {name for name, _ in board.seen} == {f'image/{i}' for i in range(4)}
    dataset = data.val_dataset
    # in units of the data, not normalised
    assert torch.allclose(plotted[-1]['image'], dataset[3]['image'], atol=1e-3)
    assert torch.equal(plotted[-1]['mask'], dataset[3]['mask'])
    assert plotted[-1]['prediction'].shape == plotted[-1]['mask'].shape[-2:]


def test_data_that_do_not_plot_are_left_out(tmp_path: Path) -> None:
    board = Board()
    fit(a_task(), BrighterDataModule(), board, tmp_path, 2)
    assert board.seen == {}
    assert board.numbers['lr']


def test_refuses_less_than_none() -> None:
    with pytest.raises(ValueError, match='pictures=-1 must be 0 or more'):
        SpecDMTask('autoencoder', pictures=-1)
