"""The way back: unantialias_, and what antialias_ takes back itself after an error."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import antialias_, fuse_, surgery, unantialias_
from fastblur.surgery import WithBlur
from fastblur.surgery.placement import placing

from .test_antialias import small
from .test_antialias_places import Picture, stack


@pytest.mark.parametrize("name", ["place", "_wrapped", "_set_attributes", "take_out"])
@pytest.mark.parametrize("late", [False, True])
def test_nothing_changes_where_something_is_raised(
    name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere in the copy that is tried, or in the model itself, before or after a step."""
    x = torch.randn(1, 4, 32, 32)
    model = stack().eval()
    if name == "take_out":
        antialias_(model, stem=True)
    real = getattr(placing, name)
    for turn in range(1, 12):
        before, calls = Picture(model, x), []

        def fail(*args: Any, turn: int = turn, calls: list[int] = calls) -> Any:
            calls.append(1)
            result = real(*args) if late or len(calls) < turn else None
            if len(calls) == turn:
                raise ZeroDivisionError
            return result

        with monkeypatch.context() as patch:
            for place in (placing, surgery.antialias, surgery.placement.confirming):
                patch.setattr(place, name, fail, raising=False)
            try:
                unantialias_(model) if name == "take_out" else antialias_(model, stem=True)
            except ZeroDivisionError:
                before.check(model, x)
            else:
                assert len(calls) < turn
                break
    assert turn > 1


def test_the_way_back() -> None:
    """Also out of copies and files, behind fuse_, and with weights that were trained."""
    model = small()
    x = torch.randn(2, 3, 32, 32)
    keys, text = list(model.state_dict()), repr(model)
    report = antialias_(model)
    fuse_(model)
    model(x).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.grad)
    weights = [p.detach().clone() for p in model.parameters()]
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        back = unantialias_(each)
        assert list(each.state_dict()) == keys
        assert repr(each) == text
        assert all(map(torch.equal, each.parameters(), weights))
        assert back.renamed == {new: old for old, new in report.renamed.items()}
        assert back.removed == ("2", "5", "7")
        assert "nothing to take out" in str(unantialias_(each))
    assert antialias_(model).changed


def test_no_way_back_over_hooks() -> None:
    model = small()
    antialias_(model)
    with pytest.raises(ValueError, match="got one of the modules that it made"):
        unantialias_(model[2])
    model[2].register_forward_hook(lambda *arguments: None)
    text = repr(model)
    with pytest.raises(ValueError, match="2 has hooks"):
        unantialias_(model)
    assert repr(model) == text
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        unantialias_("model")  # type: ignore[arg-type]


class Sensitive(nn.Module):
    """What it makes of a blurred map depends on the class of its pooling."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.norm, self.pool, self.fails = nn.BatchNorm2d(3), nn.MaxPool2d(2), fails

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        y = self.pool(self.norm(x)) * scale
        if x.sum() < 1e9 and isinstance(self.pool, WithBlur):  # no trace gets past the first
            if self.fails:
                raise ValueError("a module that it does not know")
            y = y / 0
        return {"y": y, "name": "y"}


@pytest.mark.parametrize("training", [False, True])
def test_example_that_tells(training: bool) -> None:
    x, scale = torch.randn(2, 3, 32, 32), torch.ones(())
    for fails, message in ((True, "fails on example.*not know"), (False, "not finite")):
        model = Sensitive(fails).train(training)
        picture = repr(model), list(model.modules()), dict(model.state_dict())
        state = torch.get_rng_state()
        mean = model.norm.running_mean.clone()
        with pytest.raises(RuntimeError, match=message):
            antialias_(model, example=(x, scale))
        assert (repr(model), list(model.modules())) == picture[:2]
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(model.norm.running_mean, mean)
        assert int(model.norm.num_batches_tracked) == 0
        assert model.training is training
        assert x.grad is None


def test_example_that_is_fine() -> None:
    model = small()
    report = antialias_(model, example=torch.randn(2, 3, 32, 32))
    assert len(report.changed) == 3
    assert int(model[4].num_batches_tracked) == 0
    with pytest.raises(TypeError, match=r"example must be a tensor or a tuple .* got list"):
        antialias_(small(), example=[1])  # type: ignore[arg-type]
