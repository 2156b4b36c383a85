# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images for given masks, and variations of given images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from tests.data.pairs import make_pairs
from torchgeo_specdm import GenerationDataModule, Generator, PairFolder, SampleSpec
from torchgeo_specdm.datamodules.generation import BatchDataset
from torchgeo_specdm.datasets.rasters import MaskFolder
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.tasks.support import variation

from ..conftest import Run, write_pair_folder
from .generating import draw


def versions(mask: Tensor) -> list[Tensor]:
    """The eight flipped and turned versions of a mask."""
    turned = [torch.rot90(mask, turns, (-2, -1)) for turns in range(4)]
    return turned + [x.flip(-1) for x in turned]


def write_mask(path: Path, mask: np.ndarray, **place: Any) -> None:
    """Write a mask alone."""
    path.parent.mkdir(exist_ok=True)
    height, width = mask.shape
    size = {'height': height, 'width': width, 'count': 1, 'dtype': mask.dtype}
    with rasterio.open(path, 'w', **size, **place) as target:
        target.write(mask, 1)


def write_pixel(path: Path) -> None:
    """Change the first pixel of a raster."""
    with rasterio.open(path, 'r+') as raster:
        values = raster.read(1)
        values[0, 0] = 1 if values[0, 0] == 0 else 0
        raster.write(values, 1)


class TestGivenMasks:
    @pytest.fixture(scope='class')
    def drawn(
        self,
        diffusion_run: Run,
        pair_folder: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Path:
        root = tmp_path_factory.mktemp('masks')
        data = GenerationDataModule(
            str(root / 'set'), 40, masks=str(pair_folder), augment=True
        )
        draw(diffusion_run, data, root)
        return root / 'set'

    def test_are_kept_but_for_flips_and_turns(
        self, drawn: Path, pair_folder: Path
    ) -> None:
        source = PairFolder(pair_folder)
        found = PairFolder(drawn)
        turns = set()
        for i, row in enumerate(read_manifest(drawn)):
            mask = source[source.ids.index(row['source'])]['mask']
            equal = [torch.equal(found[i]['mask'], x) for x in versions(mask)]
            assert any(equal), row
            # as the manifest tells
            turned = torch.rot90(mask, row['turns'], (-2, -1))
            assert torch.equal(
                found[i]['mask'], turned.flip(-1) if row['flip'] else turned
            )
            turns.add(equal.index(True))
        # by lot: not always the same
        assert len(turns) > 4
        # pixels without a label keep none
        assert all(bool((found[i]['mask'] == 255).any()) for i in range(40))

    def test_are_those_of_training_only(self, drawn: Path, pair_folder: Path) -> None:
        training = (pair_folder / 'train.txt').read_text().split()
        used = [row['source'] for row in read_manifest(drawn)]
        assert used == [training[i % 16] for i in range(40)]

    def test_give_images_of_their_own(self, drawn: Path) -> None:
        digests = {
            row['files'][f'images/{row["id"]}.tif'] for row in read_manifest(drawn)
        }
        assert len(digests) == 40
        assert 'images for the masks of' in (drawn / 'README.md').read_text()

    def test_moved_masks_are_the_same_and_changed_ones_are_not(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        def draw_for(folder: Path) -> list[dict[str, object]]:
            data = GenerationDataModule(str(tmp_path / 'set'), 3, masks=str(folder))
            draw(diffusion_run, data, tmp_path)
            return read_manifest(tmp_path / 'set')

        folder = write_pair_folder(tmp_path / 'pairs')
        drawn = draw_for(folder)
        moved = folder.rename(tmp_path / 'moved')
        assert draw_for(moved) == drawn
        # images are not used, masks are
        training = (moved / 'train.txt').read_text().split()
        write_pixel(moved / 'images' / f'{training[-1]}.tif')
        assert draw_for(moved) == drawn
        write_pixel(moved / 'masks' / f'{training[-1]}.tif')
        with pytest.raises(FileExistsError, match=r'other settings \(source_files: '):
            draw_for(moved)

    def test_of_a_folder_with_other_bands(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        for tif in sorted((folder / 'images').iterdir()):
            with rasterio.open(tif) as old:
                profile, array = old.profile | {'count': 2}, old.read([1, 2])
            with rasterio.open(tif, 'w', **profile) as new:
                new.write(array)
        text = json.loads((folder / 'dataset.json').read_text())
        (folder / 'dataset.json').write_text(json.dumps(text | {'bands': ['x', 'y']}))
        data = GenerationDataModule(str(tmp_path / 'set'), 3, masks=str(folder))
        draw(diffusion_run, data, tmp_path)
        assert PairFolder(tmp_path / 'set').spec.num_bands == 6
        with pytest.raises(ValueError, match='bands: '):
            data = GenerationDataModule(str(tmp_path / 'b'), 3, vary=str(folder))
            draw(diffusion_run, data, tmp_path)

    def test_of_other_classes(self, diffusion_run: Run, tmp_path: Path) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        text = (folder / 'dataset.json').read_text().replace('"town"', '"snow"')
        (folder / 'dataset.json').write_text(text)
        data = GenerationDataModule(str(tmp_path / 'set'), 3, masks=str(folder))
        with pytest.raises(ValueError, match=r"'town'.*'snow'"):
            draw(diffusion_run, data, tmp_path)


class TestMasksAlone:
    @pytest.fixture
    def codes(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 2, (48, 64)).astype(np.uint8)

    @pytest.mark.parametrize('ending', ['tif', 'png'])
    def test_are_kept_where_they_lie(
        self, diffusion_run: Run, tmp_path: Path, codes: np.ndarray, ending: str
    ) -> None:
        place = {'crs': 'EPSG:32632', 'transform': from_origin(500_000, 10, 10, 10)}
        georeferenced = ending == 'tif'
        path = tmp_path / 'drawn' / f'plan.{ending}'
        write_mask(path, codes, **(place if georeferenced else {}))
        out = tmp_path / 'set'
        data = GenerationDataModule(str(out), 2, masks=str(path.parent))
        draw(diffusion_run, data, tmp_path)
        found = PairFolder(out)
        assert len(found) == 2 and found[0]['image'].shape == (6, 48, 64)
        assert not found[0]['image'].equal(found[1]['image'])
        for name in ('images/000001.tif', 'masks/000001.tif'):
            with rasterio.open(out / name) as source:
                if georeferenced:
                    assert (source.crs, source.transform) == tuple(place.values())
                else:
                    assert source.crs is None
        assert np.array_equal(found[1]['mask'], codes)

    @pytest.mark.parametrize('inner', ['.', 'masks'])
    def test_those_of_the_test_are_left_out(self, tmp_path: Path, inner: str) -> None:
        # nothing says what the codes of this folder are, so the generator's count
        folder = make_pairs(tmp_path, 3)
        (folder / 'train.txt').write_text('0002.tif\n0000\n')
        (folder / 'test.txt').write_text('0001\n')
        masks = MaskFolder(folder / inner, SampleSpec(('a',), ('x', 'y', 'z')))
        assert masks.ids == ['0000', '0002'] and len(masks) == 2

    def test_of_several_sizes(self, diffusion_run: Run, tmp_path: Path) -> None:
        sizes = {'a': (33, 47), 'b': (33, 47), 'c': (70, 32)}
        for name, size in sizes.items():
            write_mask(tmp_path / 'plans' / f'{name}.tif', np.zeros(size, np.uint8))
        folders = []
        for batch_size in (1, 16):
            out = tmp_path / f'by {batch_size}'
            data = GenerationDataModule(
                str(out), batch_size=batch_size, masks=str(tmp_path / 'plans')
            )
            draw(diffusion_run, data, tmp_path)
            folders.append(PairFolder(out))
            assert [row['source'] for row in read_manifest(out)] == [*sizes]
        for i, size in enumerate(sizes.values()):
            one, many = (folder[i]['image'] for folder in folders)
            assert one.shape[-2:] == size
            # scenes are drawn one by one, whatever their batch
            assert torch.equal(one, many)

    def test_refused(
        self, diffusion_run: Run, tmp_path: Path, codes: np.ndarray
    ) -> None:
        for mask, said in (
            (codes + 77, r'values \[77, 78\].*codes of the generator'),
            (codes[:31], r'a has \(31, 64\) pixels.*patches of \(32, 32\)'),
        ):
            write_mask(tmp_path / 'masks' / 'a.tif', mask)
            data = GenerationDataModule(str(tmp_path / 'set'), 1, masks=str(tmp_path))
            with pytest.raises(ValueError, match=said):
                draw(diffusion_run, data, tmp_path)
            assert not (tmp_path / 'set').exists()


class TestSize:
    def test_larger_than_the_patch(self, diffusion_run: Run, tmp_path: Path) -> None:
        folders = []
        for size in ((40, 51), (40, 52)):
            out = tmp_path / f'{size}'
            data = GenerationDataModule(str(out), 2, size=size)
            draw(diffusion_run, data, tmp_path)
            folders.append(PairFolder(out))
            assert folders[-1][1]['image'].shape == (6, *size)
            assert folders[-1][1]['mask'].shape == size
        # another size is another set
        with pytest.raises(FileExistsError, match=r'size: \[40, 51\] there'):
            data = GenerationDataModule(str(tmp_path / '(40, 51)'), 2)
            draw(diffusion_run, data, tmp_path)

    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'count': 2, 'size': (32, 31)}, r'size has \(32, 31\) pixels'),
            ({'masks': 'm', 'size': (64, 64)}, 'without given ones'),
            ({}, 'count=None says nothing'),
        ],
    )
    def test_refused(
        self, diffusion_run: Run, tmp_path: Path, arguments: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            data = GenerationDataModule(str(tmp_path / 'set'), **arguments)
            draw(diffusion_run, data, tmp_path)


class TestVary:
    def test_the_weaker_the_nearer(
        self,
        diffusion_run: Run,
        pair_folder: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for bound in ('_CODEC_ERRORS', '_DEVIATIONS'):
            monkeypatch.setattr(variation, bound, 0)
        source = PairFolder(pair_folder)
        codec = Generator.load(diffusion_run.out).codec
        far = []
        for strength in (0.01, 0.9):
            out = tmp_path / str(strength)
            data = GenerationDataModule(
                str(out), 8, vary=str(pair_folder), strength=strength
            )
            draw(diffusion_run, data, tmp_path)
            found = PairFolder(out)
            errors = []
            for i, row in enumerate(read_manifest(out)):
                real = source[source.ids.index(row['source'])]
                masks = torch.stack(versions(real['mask']))
                assert bool((masks == found[i]['mask']).flatten(1).all(1).any())
                # what a perfect variation of strength 0 would be, turned as by lot
                images = torch.stack(versions(real['image']))
                decoded, _ = codec.roundtrip({'image': images, 'mask': masks})
                off = (decoded['image'] - found[i]['image']).abs().flatten(1).mean(1)
                errors.append(float(off.min()))
            far.append(np.mean(errors))
        assert far[0] < 0.8 * far[1]
        # no generator is that good
        assert 'too poor to vary' in caplog.text
        card = (tmp_path / '0.01' / 'README.md').read_text()
        assert 'variations (strength 0.01)' in card

    def test_missing_pixels_stay_missing(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        folder = write_pair_folder(tmp_path / 'holed')
        description = json.loads((folder / 'dataset.json').read_text())
        description |= {'nodata': 0, 'ignore_index': None}
        (folder / 'dataset.json').write_text(json.dumps(description))
        with rasterio.open(folder / 'images' / '001.tif', 'r+') as raster:
            values = raster.read()
            values[:, 5:15, 3:9] = 0
            raster.write(values)
        out = tmp_path / 'set'
        data = GenerationDataModule(str(out), 4, vary=str(folder))
        draw(diffusion_run, data, tmp_path)
        found = PairFolder(out)
        hole = torch.zeros(32, 32, dtype=torch.bool)
        hole[5:15, 3:9] = True
        for sample, row in zip(found, read_manifest(out), strict=True):
            assert row['accepted']
            missing = sample['image'].isnan()
            assert bool((missing == (hole & (row['source'] == '001'))).all())
            assert bool((sample['mask'] == 255)[missing.any(0)].all())


class TestBatches:
    def test_crops_of_larger_samples(self, pair_folder: Path) -> None:
        source = PairFolder(pair_folder)
        data = BatchDataset([[0, 1], [2]], source, 0, (16, 8), ('mask',), ('image',))
        assert len(data) == 2
        batch = data[0]
        assert batch['index'].tolist() == [0, 1]
        assert batch['start']['image'].shape == (2, 6, 16, 8)
        mask = batch['given']['mask']
        assert mask.shape == (2, 16, 8)
        for i in range(2):
            windows = (
                source[i]['mask'].unfold(0, 16, 1).unfold(1, 8, 1).reshape(-1, 16, 8)
            )
            # a patch that is not square is not turned on its side
            moved = torch.cat([windows, windows.flip(-1), windows.flip(-2)])
            moved = torch.cat([moved, windows.flip(-1).flip(-2)])
            assert bool((moved == mask[i]).flatten(1).all(1).any())

    def test_image_and_mask_move_together(self, pair_folder: Path) -> None:
        class Coded(PairFolder):
            def __getitem__(self, index: int) -> dict[str, Tensor]:
                grid = torch.arange(32 * 32).view(32, 32)
                return {'image': grid[None].float(), 'mask': grid}

        size, use = (16, 16), (('mask',), ('image',))
        batch = BatchDataset([range(16)], Coded(pair_folder), 0, size, *use)[0]
        mask = batch['given']['mask']
        assert torch.equal(batch['start']['image'][:, 0].long(), mask)
        corners = {tuple(x[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for x in mask}
        assert len(corners) > 12

    def test_only_what_is_needed(self, pair_folder: Path) -> None:
        data = BatchDataset([[3]], PairFolder(pair_folder), 0, (32, 32), ('mask',))
        assert {*data[0]['given']} == {'mask'} and not data[0]['start']
        bare = BatchDataset([[3]], None, 7, (32, 32))[0]
        assert (bare['index'].tolist(), bare['seed'], bare['strength']) == ([3], 7, 1)
        assert not bare['given'] and not bare['start'] and bare['size'] == (32, 32)
