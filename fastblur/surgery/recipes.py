"""The exceptions of Zhang's published models to the general rule."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from .tracing import join

_RESNET = {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"}


@dataclass
class Recipe:
    """What the published models do and the general rule would not.

    Attributes:
        names: of the architectures that were recognised.
        pools: for the path of a max pooling, its new (kernel_size, padding).
        strides: for the path of a convolution, the stride that it keeps; its blur has the rest.
        stems: paths of first convolutions that are anti-aliased.
        classifiers: paths of [Dropout, Linear] that are only a [Linear] in the published model.
    """

    names: list[str] = field(default_factory=list)
    pools: dict[str, tuple[int, int]] = field(default_factory=dict)
    strides: dict[str, int] = field(default_factory=dict)
    stems: set[str] = field(default_factory=set)
    classifiers: set[str] = field(default_factory=set)

    def take_published_keys(self, model: nn.Module) -> None:
        """Lets the model load the published state dict where its own keys stay different."""
        for path in self.classifiers:
            classifier = model.get_submodule(path)
            classifier.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
                _rename_linear
            )


def recipe_for(model: nn.Module) -> Recipe:
    """Recognises torchvision's ResNets, AlexNet and MobileNetV2, also as parts of the model."""
    recipe = Recipe()
    for path, module in model.named_modules():
        children = dict(module.named_children())
        maxpool, features = children.get("maxpool"), children.get("features")
        if children.keys() >= _RESNET and _like(maxpool, nn.MaxPool2d, 3, 2, 1):
            recipe.names.append("resnet")
            recipe.pools[join(path, "maxpool")] = (2, 0)
        elif isinstance(features, nn.Sequential):
            first = next(iter(features._modules), "")
            if _like(features._modules.get(first), nn.Conv2d, 11, 4, 2):
                stem = join(path, f"features.{first}")
                recipe.names.append("alexnet")
                recipe.strides[stem] = 2
                recipe.stems.add(stem)
            elif _is_mobilenet_v2(features, children.get("classifier")):
                recipe.names.append("mobilenet_v2")
                recipe.classifiers.add(join(path, "classifier"))
    return recipe


def _like(
    module: nn.Module | None, kind: type[nn.Module], kernel: int, stride: int, padding: int
) -> bool:
    return isinstance(module, kind) and all(
        getattr(module, name) in (size, (size, size))
        for name, size in (("kernel_size", kernel), ("stride", stride), ("padding", padding))
    )


def _is_mobilenet_v2(features: nn.Sequential, classifier: nn.Module | None) -> bool:
    blocks = [block for block in features if type(block).__name__ == "InvertedResidual"]
    return (
        bool(blocks)
        and all(isinstance(getattr(block, "conv", None), nn.Sequential) for block in blocks)
        and isinstance(classifier, nn.Sequential)
        and [type(layer) for layer in classifier] == [nn.Dropout, nn.Linear]
    )


def _rename_linear(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object
) -> None:
    """A load_state_dict hook: the Linear of a [Linear] is that of a [Dropout, Linear]."""
    for name in ("weight", "bias"):
        published, own = f"{prefix}0.{name}", f"{prefix}1.{name}"
        if published in state_dict and own not in state_dict:
            state_dict[own] = state_dict.pop(published)
