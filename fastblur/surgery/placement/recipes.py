"""The exceptions of Zhang's published models to the general rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..flow.tracing import join

_RESNET = {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"}


@dataclass
class Recipe:
    """What the published models do and the general rule would not.

    Attributes:
        names: of the architectures that were recognised.
        pools: for the path of a max pooling, its new (kernel_size, padding).
        strides: for the path of a convolution, the stride that it keeps; its blur has the rest.
        stems: paths of first convolutions that are anti-aliased.
        inserts: paths of Sequentials that have the blurs among their children, which get numbers or
            names anew; all other modules keep theirs.
        averages: paths of average poolings that become a blur of ceil(n / stride) results.
        classifiers: paths of [Dropout, Linear] that are only a [Linear] in the published model.
    """

    names: list[str] = field(default_factory=list)
    pools: dict[str, tuple[int, int]] = field(default_factory=dict)
    strides: dict[str, int] = field(default_factory=dict)
    stems: set[str] = field(default_factory=set)
    inserts: set[str] = field(default_factory=set)
    averages: set[str] = field(default_factory=set)
    classifiers: set[str] = field(default_factory=set)

    def add(self, name: str, path: str, inserts: Iterable[str]) -> None:
        """Notes an architecture at a path, and the Sequentials in it that get blurs among them."""
        self.names.append(name)
        self.inserts |= {join(path, inner) for inner in inserts}

    def take_published_keys(self, model: nn.Module) -> None:
        """Lets the model load the published state dict where its own keys stay different."""
        for path in self.classifiers:
            classifier = model.get_submodule(path)
            classifier.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
                _rename_linear
            )

    @staticmethod
    def forget_published_keys(model: nn.Module) -> None:
        """Undoes :meth:`take_published_keys`."""
        for module in model.modules():
            hooks: Any = module._load_state_dict_pre_hooks
            for key, hook in list(hooks.items()):
                if getattr(hook, "hook", hook) is _rename_linear:
                    del hooks[key]


def recipe_for(model: nn.Module) -> Recipe:
    """Recognises torchvision's models that are published, also as parts of the model."""
    recipe = Recipe()
    for path, module in model.named_modules():
        children = dict(module.named_children())
        maxpool, features = children.get("maxpool"), children.get("features")
        if children.keys() >= _RESNET and _like(maxpool, nn.MaxPool2d, 3, 2, 1):
            shortcuts = [p for p, _ in module.named_modules() if p.endswith(".downsample")]
            recipe.add("resnet", path, shortcuts)
            recipe.pools[join(path, "maxpool")] = (2, 0)
        elif isinstance(features, nn.Sequential):
            first = next(iter(features._modules), "")
            if _like(features._modules.get(first), nn.Conv2d, 11, 4, 2):
                stem = join(path, f"features.{first}")
                recipe.add("alexnet", path, ["features"])
                recipe.strides[stem] = 2
                recipe.stems.add(stem)
            elif _is_mobilenet_v2(features, children.get("classifier")):
                blocks = [f"features.{name}.conv" for name in features._modules]
                recipe.add("mobilenet_v2", path, blocks)
                recipe.classifiers.add(join(path, "classifier"))
            elif _is_densenet(features):
                recipe.add("densenet", path, ["features"])
                names = [name for name in features._modules if name.startswith("transition")]
                recipe.averages |= {join(path, f"features.{name}.pool") for name in names}
            elif _is_vgg(module, features):
                recipe.add("vgg", path, ["features"])
    return recipe


def _like(
    module: nn.Module | None, kind: type[nn.Module], kernel: int, stride: int, padding: int
) -> bool:
    return (
        isinstance(module, kind)
        and not getattr(module, "ceil_mode", False)
        and all(
            getattr(module, name) in (size, (size, size))
            for name, size in (("kernel_size", kernel), ("stride", stride), ("padding", padding))
        )
    )


def _is_mobilenet_v2(features: nn.Sequential, classifier: nn.Module | None) -> bool:
    blocks = [block for block in features if type(block).__name__ == "InvertedResidual"]
    return (
        bool(blocks)
        and all(isinstance(getattr(block, "conv", None), nn.Sequential) for block in blocks)
        and isinstance(classifier, nn.Sequential)
        and [type(layer) for layer in classifier] == [nn.Dropout, nn.Linear]
    )


def _is_densenet(features: nn.Sequential) -> bool:
    children = features._modules
    known = children.keys() >= {"conv0", "norm0", "relu0", "pool0", "denseblock1"}
    return known and isinstance(children["conv0"], nn.Conv2d)


def _is_vgg(module: nn.Module, features: nn.Sequential) -> bool:
    kinds = {type(layer) for layer in features}
    return (
        type(module).__name__ == "VGG"
        and list(module._modules) == ["features", "avgpool", "classifier"]
        and {nn.Conv2d, nn.ReLU, nn.MaxPool2d} <= kinds
        and kinds <= {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d}
    )


def _rename_linear(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object
) -> None:
    """A load_state_dict hook: the Linear of a [Linear] is that of a [Dropout, Linear]."""
    for name in ("weight", "bias"):
        published, own = f"{prefix}0.{name}", f"{prefix}1.{name}"
        if published in state_dict and own not in state_dict:
            state_dict[own] = state_dict.pop(published)
