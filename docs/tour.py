"""The tour of the documentation: the whole path in Python."""

# %% [markdown]
# # A tour in Python
#
# This learns a generator from 60 labelled scenes, draws new pairs, and trains a network
# with and without them, on two processor cores and without a download of data. It is a
# script, `docs/tour.py`, and a notebook, `docs/tour.ipynb`; both are the same. Install
# the package first: `pip install .` in a clone.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from lightning.pytorch import Trainer, seed_everything

from torchgeo_specdm import (
    GenerationDataModule,
    Generator,
    LatentDataModule,
    MultispectralSegmentationTask,
    PairFolder,
    PairFolderDataModule,
    SpecDMTask,
    SyntheticAugmentedDataModule,
)
from torchgeo_specdm.scenes.writing import write_scenes

OUT = Path('specdm-tour')
SCENES, PAIRS = (60, 20, 20), 60
GENERATOR_STEPS, NETWORK_STEPS = 500, 150


def trainer(steps: int) -> Trainer:
    """A trainer that leaves nothing behind."""
    return Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )


# %% [markdown]
# ## The real pairs
#
# Procedural scenes stand in for your patches: ten bands in the manner of Sentinel-2, and
# a mask. A folder with an `images/<id>.tif` for each `masks/<id>.tif` reads in the same
# way. Images are in digital numbers; the datamodule normalises them.

# %%
write_scenes(OUT / 'scenes', SCENES, size=32, seed=0)
scenes = PairFolder(OUT / 'scenes')
print(scenes.spec.bands, scenes.spec.classes)
scenes.plot(scenes[0], suptitle='A real pair')
plt.show()

# %% [markdown]
# ## Learn the joint distribution of images and masks
#
# The codec `pixels` has nothing to learn, so there is only stage 2, a diffusion model.
# Its weights begin with those of a generator of procedural scenes, which is shipped; the
# quickstart and the YAMLs in `experiments/` also learn a codec.

# %%
seed_everything(0)
real = PairFolderDataModule(str(OUT / 'scenes'), batch_size=8)
task = SpecDMTask('diffusion', out=str(OUT / 'generator'), codec='pixels')
trainer(GENERATOR_STEPS).fit(task, datamodule=LatentDataModule(real, passes=4))

# %% [markdown]
# ## Draw pairs
#
# A sample is a function of its number and the seed, so these stay the same whatever else
# is drawn.

# %%
generator = Generator.load(OUT / 'generator')
drawn = generator.sample(indices=[0, 1, 2], seed=0)
for image, mask in zip(drawn['image'], drawn['mask'], strict=True):
    scenes.plot({'image': image, 'mask': mask}, suptitle='A drawn pair')
plt.show()

# %% [markdown]
# Many of them become a folder of pairs, as GeoTIFFs with a data card.

# %%
drawing = SpecDMTask('diffusion', generator=str(OUT / 'generator'))
pairs = GenerationDataModule(str(OUT / 'pairs'), count=PAIRS, seed=0)
trainer(0).predict(drawing, datamodule=pairs, return_predictions=False)

# %% [markdown]
# ## Do they help?
#
# Two networks, equal updates, tested on real scenes that nothing has seen.

# %%
scores = {}
for ratio in (0, 1):
    seed_everything(0)
    mixed = SyntheticAugmentedDataModule(
        real=PairFolderDataModule(str(OUT / 'scenes'), batch_size=8),
        synthetic=str(OUT / 'pairs'),
        ratio=ratio,
        real_share=0.5 if ratio else None,
    )
    network = MultispectralSegmentationTask(lr=1e-3, head_lr_factor=1)
    fitted = trainer(NETWORK_STEPS)
    fitted.fit(network, datamodule=mixed)
    (tested,) = fitted.test(network, datamodule=mixed, verbose=False)
    scores[ratio] = tested['test_miou']
print({f'{ratio}x synthetic': f'mIoU {value:.3f}' for ratio, value in scores.items()})

# %% [markdown]
# One seed and a few minutes say nothing yet: networks of other seeds differ by more than
# that. `torchgeo-specdm quickstart` repeats this over seeds and ratios, measures how far
# the pairs can be trusted, and gives a verdict with an interval.
