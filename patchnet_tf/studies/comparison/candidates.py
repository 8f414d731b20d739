"""Which networks are compared."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ...config import Config, Pretrained
from ...training.kinds import KINDS, Names, kind_of


class Candidate(NamedTuple):
    """A network that is compared, and the methods that draw its maps.

    Attributes:
        names: as files and tables call it and its first method.
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
    same = config.training.model_copy(update={"snapshot_every": None})
    own = settings.model_dump(exclude={"networks", "width"}, exclude_none=True)
    from_scratch = same.model_copy(update=own)
    for kind in settings.networks:
        if kind == "pretrained":
            model = KINDS[kind].section(kind=kind, **network_of(config), **pixels)
            yield candidate(config, model=model, training=same)
        else:
            model = KINDS[kind].section(kind=kind, width=settings.width, **pixels)
            yield candidate(config, model=model, training=from_scratch)


def network_of(config: Config) -> dict[str, Any]:
    """Return the keys that say which pretrained network PatchNet has and how it is trained, if it has one."""
    subnet = config.model.subnet
    return subnet.model_dump(exclude={"kind", "hidden"}) if isinstance(subnet, Pretrained) else {}


def candidate(config: Config, **sections: object) -> Candidate:
    """Return the candidate of a configuration with other sections."""
    changed = config.model_copy(update=sections)
    names = kind_of(changed).names(changed.model)
    return Candidate(names, changed.model_copy(update={"name": f"{config.name}-{names.slug}"}))
