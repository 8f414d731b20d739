"""Which networks are compared."""

from collections.abc import Iterator
from typing import NamedTuple

from ...config import Config
from ...training.kinds import KINDS, Names, kind_of

BASELINES = ("vgg19_cam", "vgg11")  # kinds of the networks that the paper compares with


class Candidate(NamedTuple):
    """A network that is compared, and the method that draws its maps.

    Attributes:
        names: as files and tables call both.
        config: what the network is trained by.
    """

    names: Names
    config: Config


def candidates_of(config: Config) -> list[Candidate]:
    """Return the PatchNets, the smallest patches first, then the baselines."""
    return [*patchnets(config), *baselines(config)]


def patchnets(config: Config) -> Iterator[Candidate]:
    """Give a PatchNet for each patch size."""
    for p in sorted(config.comparison.patch_sizes or [config.model.patch_size]):
        model = config.model.model_copy(update={"patch_size": p})
        yield candidate(config, model=model)


def baselines(config: Config) -> Iterator[Candidate]:
    """Give the baselines, which see the pixels that PatchNet sees."""
    if not (settings := config.comparison.baselines):
        return
    pixels = {"crop": config.model.crop, "preprocessing": config.model.preprocessing}
    own = settings.model_dump(exclude={"width"}, exclude_none=True)
    training = config.training.model_copy(update=own | {"snapshot_every": None})
    for kind in BASELINES:
        model = KINDS[kind].section(kind=kind, width=settings.width, **pixels)
        yield candidate(config, model=model, training=training)


def candidate(config: Config, **sections: object) -> Candidate:
    """Return the candidate of a configuration with other sections."""
    changed = config.model_copy(update=sections)
    names = kind_of(changed).names(changed.model)
    return Candidate(names, changed.model_copy(update={"name": f"{config.name}-{names.slug}"}))
