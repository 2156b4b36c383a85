# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Sharing a generator on the Hugging Face Hub."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from ..codecs import Codec
from ..pairs.card import training_data, unit_row
from ..pairs.fingerprint import write_seen_samples

#: All that folders of generators hold; nothing else is fetched.
_KINDS = ['*.json', '*.md', '*.safetensors', '*.txt']
_OPTIONS = ('revision', 'cache_dir', 'force_download', 'local_files_only', 'token')

_CARD = """# Generator of labelled satellite image patches

Draws images together with their masks, by SpecDM as `torchgeo_specdm` implements it.

| | |
|---|---|
| bands | {bands} |
| classes | {classes} |
| dates | {dates} |
| patches | {height} x {width} pixels |
{unit}
| codec | {codec} |
| trained on | {trained_on}, {updates} updates, preset {preset} |

```python
from torchgeo_specdm import Generator

pairs = Generator.from_pretrained('user/name').sample(indices=[0, 1, 2], seed=0)
```

What it draws shows no real place, and carries the places, seasons and label errors of
its training samples. Whether it helps on your data is a question to measure.
`training_samples.txt` has fingerprints of the training samples, so that they can be
kept out of validation and test. The licence and the terms of the real data extend to
what was learned from them.
"""


class Shared(ModelHubMixin):
    """The part of a generator that the Hub asks for: a folder to and fro, and a card.

    Nothing is fetched unless ``from_pretrained`` is given the name of a repository.
    """

    codec: Codec
    config: dict[str, Any]
    #: Fingerprints of the real samples that it has learned from, for leak checks.
    seen: set[str]

    @classmethod
    @abstractmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write a folder."""

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)
        write_seen_samples(save_directory, self.seen)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        if Path(model_id).is_dir():
            return cls.load(model_id)
        asked = {name: options[name] for name in _OPTIONS}
        return cls.load(snapshot_download(model_id, allow_patterns=_KINDS, **asked))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Describe the generator in the form of the Hub.

        Args:
            *args: Not looked at.
            **kwargs: Not looked at.

        Returns:
            The card that ``save_pretrained`` and ``push_to_hub`` write.
        """
        spec, training = self.codec.spec, self.config.get('training', {})
        height, width = self.config['patch_size']
        text = _CARD.format(
            bands=', '.join(spec.bands),
            classes=', '.join(spec.classes),
            dates=spec.dates,
            height=height,
            width=width,
            unit=unit_row(spec),
            codec=self.codec.name,
            trained_on=training_data(training),
            updates=training.get('updates', 'unknown'),
            preset=training.get('preset', 'unknown'),
        )
        data = ModelCardData(
            library_name='torchgeo_specdm',
            tags=['diffusion', 'remote-sensing', 'synthetic-data'],
        )
        return ModelCard(f'---\n{data.to_yaml()}\n---\n\n{text}')
