# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.trust import judges
from torchgeo_specdm.trust.datamodule import TrustDataModule
from torchgeo_specdm.trust.judges import (
    Judges,
    JudgeTraining,
    load_judges,
    share_places,
)

from ..study.fakes import open_data

WITNESS: dict[str, Any] = {'class_path': 'tests.trust.test_judges.Witness'}
#: Fold of each of the 16 training samples.
FOLDS = [0, 1, 1, 0, 2, 2, 0, 1, 0, 1, 2, 0, 2, 1, 0, 2]


class TestSharePlaces:
    # OSCD has few cities of very different size
    PLACES = tuple(p for p, n in enumerate((36, 5, 25, 30, 9, 16, 1)) for _ in range(n))

    @pytest.mark.parametrize('folds', [2, 3, 7])
    def test_no_place_is_in_two_folds(self, folds: int) -> None:
        shared = share_places(self.PLACES, folds)
        assert len(shared) == len(self.PLACES)
        pairs = set(zip(self.PLACES, shared, strict=True))
        assert len(pairs) == 7
        # and none is empty
        assert {fold for _, fold in pairs} == set(range(folds))

    @pytest.mark.parametrize('folds, spread', [(2, 1), (3, 5)])
    def test_folds_are_about_equal(self, folds: int, spread: int) -> None:
        sizes = Counter(share_places(self.PLACES, folds)).values()
        assert max(sizes) - min(sizes) <= spread

    def test_order_of_samples_does_not_matter_to_balance(self) -> None:
        shared = share_places([3, 1, 2, 0] * 5, 2)
        assert Counter(shared) == {0: 10, 1: 10}
        assert share_places([3, 1, 2, 0] * 5, 2) == shared

    @pytest.mark.parametrize('folds', [0, 1, 3])
    def test_refuses_folds_that_cannot_be(self, folds: int) -> None:
        with pytest.raises(
            ValueError, match=rf'folds={folds} must be from 2 to 2.*Use'
        ):
            share_places([4, 4, 9], folds)

    def test_refuses_one_place(self) -> None:
        with pytest.raises(ValueError, match=r'2 to 1.*places'):
            share_places([5] * 9, 2)


class Witness(LightningModule):
    """Remembers the images that it was trained on, whatever their turn."""

    seen: Tensor
    count: Tensor

    def __init__(self, in_channels: int = 6, num_classes: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.num_classes = num_classes
        self.register_buffer('seen', torch.zeros(24, in_channels))
        self.register_buffer('count', torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, : self.num_classes] + 0 * self.weight

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        for image in batch['image']:
            self.seen[self.count] = image.mean((1, 2))
            self.count += 1
        return self(batch['image']).mean()

    def configure_optimizers(self) -> Optimizer:
        return SGD([self.weight], 0.1)


@pytest.fixture(scope='module')
def data(pair_folder: Path) -> TrustDataModule:
    found = TrustDataModule(open_data(pair_folder), pair_folder)
    found.prepare_data()
    found.setup('test')
    return found


@pytest.fixture(scope='module')
def real(data: TrustDataModule) -> PairFolderDataModule:
    assert isinstance(data.real, PairFolderDataModule)
    return data.real


def training(data: TrustDataModule, out: Path, updates: int = 3) -> JudgeTraining:
    settings = {'enable_progress_bar': False, 'accelerator': 'cpu'}
    strategy = SingleDeviceStrategy(torch.device('cpu'))
    return JudgeTraining(data, FOLDS, WITNESS, updates, out, strategy, settings)


@pytest.fixture(autouse=True)
def one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges of these tests have nothing to learn: they train once."""
    monkeypatch.setattr(judges, '_SHORTEST', 1)


def witnesses(real: PairFolderDataModule, out: Path) -> list[Any]:
    loaded = load_judges(out, 3, WITNESS, real.spec, real.mean, real.std)
    return list(loaded.networks)


def test_no_judge_has_seen_its_fold(
    data: TrustDataModule, real: PairFolderDataModule, tmp_path: Path
) -> None:
    training(data, tmp_path).run()
    samples: Any = real.train_dataset
    mean, std = (v.view(-1, 1, 1) for v in (real.mean, real.std))
    images = [(samples[i]['image'] - mean) / std for i in range(len(samples))]
    prints = torch.stack([image.mean((1, 2)) for image in images])
    for number, judge in enumerate(witnesses(real, tmp_path)):
        # three batches of eight
        assert judge.count == 24
        away = torch.cdist(judge.seen, prints)
        assert away.min(1).values.max() < 1e-4
        # no two samples look alike to it
        assert away.topk(2, largest=False).values[:, 1].min() > 1e-3
        seen = set(away.argmin(1).tolist())
        # an epoch is a batch of the ten or eleven that it may see
        assert 8 <= len(seen) <= sum(fold != number for fold in FOLDS)
        assert number not in {FOLDS[i] for i in seen}
        assert {FOLDS[i] for i in seen} == {0, 1, 2} - {number}


def test_only_what_is_missing_is_trained(
    data: TrustDataModule, real: PairFolderDataModule, tmp_path: Path
) -> None:
    curve = training(data, tmp_path).run()
    before = [judge.seen for judge in witnesses(real, tmp_path)]
    files = [tmp_path / str(n) / 'model.safetensors' for n in range(3)]
    times = [path.stat().st_mtime_ns for path in files]
    shutil.rmtree(tmp_path / '1')
    state = torch.get_rng_state()
    assert training(data, tmp_path).run() == curve
    assert torch.equal(state, torch.get_rng_state())
    changed = [
        path.stat().st_mtime_ns != t for path, t in zip(files, times, strict=True)
    ]
    assert changed == [False, True, False]
    # a judge is the same, whatever was trained before it
    for judge, seen in zip(witnesses(real, tmp_path), before, strict=True):
        assert torch.equal(judge.seen, seen)


@pytest.mark.parametrize(
    'scores, tried, kept',
    [
        # two doublings add less than a point
        ([0.5, 0.505, 0.506, 0.9], [1, 2, 4], 1),
        ([0.1, 0.5, 0.505, 0.506], [1, 2, 4, 8], 2),
        # it rises to the end
        ([0.1, 0.2, 0.3, 0.4], [1, 2, 4, 8], 8),
    ],
)
def test_judges_train_until_they_learn_nothing_more(
    data: TrustDataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    tried: list[int],
    kept: int,
) -> None:
    monkeypatch.setattr(judges, '_SHORTEST', 8)
    steps: list[tuple[int, int]] = []

    def train(self: JudgeTraining, number: int, updates: int) -> Any:
        steps.append((number, updates))
        return Witness()

    monkeypatch.setattr(JudgeTraining, '_train', train)
    left = iter(scores)
    monkeypatch.setattr(JudgeTraining, '_score', lambda self, task: next(left))
    curve = training(data, tmp_path, 8).run()
    assert curve == list(zip(tried, scores, strict=False))
    assert steps == [*((0, u) for u in tried), (1, kept), (2, kept)]


def test_the_score_is_that_of_its_own_fold(
    data: TrustDataModule, tmp_path: Path
) -> None:
    class Knows(nn.Module):
        """Reads the classes of fold 0 alone."""

        def forward(self, images: Tensor) -> Tensor:
            raw = images * data.std.view(-1, 1, 1) + data.mean.view(-1, 1, 1)
            right = [
                mask
                for image in raw
                for own, mask in answers
                if torch.allclose(image, own.float(), atol=1)
            ]
            known = torch.stack(right).clamp(max=3)
            return nn.functional.one_hot(known, 4).movedim(-1, 1).float()

    tiles = data.tiles['train']
    answers = [tiles.cut(i) for i in range(16) if FOLDS[tiles.sample_of(i)] == 0]
    task: Any = Knows()
    assert training(data, tmp_path)._score(task) == 1
    # those of another fold are not asked for
    answers = answers[1:]
    with pytest.raises((RuntimeError, ValueError)):
        training(data, tmp_path)._score(task)


class Constant(nn.Module):
    """Says one class where the first band is above average, else the last class."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.drop = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        bright = self.drop((images[:, 0] > 0).float())
        scores = torch.zeros(len(images), 5, *images.shape[-2:])
        scores[:, self.number] = bright
        scores[:, 4] = 0.5
        return scores


class TestRead:
    def judges(self) -> Judges:
        return Judges(
            [Constant(n) for n in range(3)], torch.tensor([1000.0]), torch.tensor([50])
        )

    def test_a_fold_is_read_by_its_own(self) -> None:
        folds = torch.tensor([2, 0, 0, 1, 2])
        read = self.judges().read(torch.full((5, 1, 4, 4), 1100.0), folds)
        assert read.shape == (1, 5, 4, 4) and read.dtype == torch.int64
        assert torch.equal(read[0], folds.view(-1, 1, 1).expand(5, 4, 4))

    def test_what_no_judge_saw_is_read_by_all(self) -> None:
        images = torch.full((2, 1, 4, 4), 1100.0)
        images[1] = 900
        read = self.judges().read(images)
        # digital numbers were normalised
        assert read[:, 0].unique(dim=0)[:, 0, 0].tolist() == [0, 1, 2]
        assert (read[:, 1] == 4).all()

    def test_they_are_frozen(self, real: PairFolderDataModule) -> None:
        networks = [Witness(6, 4) for _ in range(2)]
        judges = Judges(networks, real.mean, real.std)
        assert not any(p.requires_grad for p in judges.parameters())
        assert not any(m.training for m in judges.modules())
