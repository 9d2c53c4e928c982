"""What all integrations share: their calls, their log, and the arguments that they refuse."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest
from torch import nn

from fastblur.integrations._convert import Converter

from .tiny import blurred, is_fused, plain


def test_fuses() -> None:
    model = blurred()
    Converter(False, {})(model)
    assert is_fused(model)


def test_without_antialias_nothing_is_anti_aliased() -> None:
    model = plain()
    before = str(model)
    Converter(False, {})(model)
    assert str(model) == before


@pytest.mark.parametrize("antialias", [True, {}, {"filter_size": 3}])
def test_antialiases_and_fuses(antialias: bool | dict[str, Any]) -> None:
    model = plain()
    Converter(antialias, {})(model)
    size = antialias.get("filter_size", 4) if isinstance(antialias, dict) else 4
    assert model[2][1].filt.shape[-1] == size
    assert is_fused(model)


def test_arguments_reach_fuse() -> None:
    with pytest.raises(ValueError, match="'fastest'"):
        Converter(False, {"backend": "fastest"})(blurred())


def test_logs_what_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastblur")
    model = plain()
    Converter(True, {})(model)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "antialias_:\n2 of 2 strided layers anti-aliased" in caplog.messages[0]
    assert "fuse_:\nwhere" in caplog.messages[1]
    assert "2 of 2 fused" in caplog.messages[1]


def test_a_second_call_changes_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = plain()
    convert = Converter(True, {})
    convert(model)
    before = str(model), list(model.modules())
    caplog.set_level(logging.INFO, "fastblur")
    convert(model)
    assert (str(model), list(model.modules())) == before
    assert caplog.messages == []


def test_warns_if_there_is_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    Converter(True, {})(nn.Sequential(nn.Linear(2, 2)))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "nothing to fuse" in caplog.messages[1]


@pytest.mark.parametrize(
    ("antialias", "fuse", "message"),
    [
        ("yes", {}, "antialias must be True, False or a dict of antialias_'s arguments, got 'yes'"),
        ({"filter": 3}, {}, "'filter'"),
        (False, {"relus": True}, "'relus'"),
    ],
)
def test_wrong_arguments(antialias: Any, fuse: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Converter(antialias, fuse)


def test_lightning_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "fastblur.integrations.lightning", raising=False)
    with pytest.raises(ModuleNotFoundError, match="pip install lightning"):
        importlib.import_module("fastblur.integrations.lightning")


def test_pickles() -> None:
    model = plain()
    pickle.loads(pickle.dumps(Converter({"filter_size": 3}, {"relu": False})))(model)
    assert model[2][1].filt.shape[-1] == 3


def test_importing_fastblur_imports_no_framework() -> None:
    code = (
        "import sys, fastblur, fastblur.integrations.timm_script\n"
        "names = {'lightning', 'pytorch_lightning', 'fastai', 'composer', 'transformers', 'timm'}\n"
        "sys.exit(', '.join(names & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
