from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from fastblur._backends import compiled
from testing.cases import Target

# Examples of all properties together; `--hypothesis-profile deep` chooses the other.
_HYPOTHESIS = dict(
    deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("fast", max_examples=500, derandomize=True, **_HYPOTHESIS)
settings.register_profile("deep", max_examples=50_000, derandomize=False, **_HYPOTHESIS)


def pytest_configure(config: pytest.Config) -> None:
    """Chooses what runs unless the command line does."""
    settings.load_profile(config.getoption("--hypothesis-profile", None) or "fast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that run on the GPU, and skips them where there is none."""
    for item in items:
        target = item.callspec.params.get("target") if hasattr(item, "callspec") else None
        if isinstance(target, Target) and target.backend.device_type == "cuda":
            item.add_marker("gpu")
        if item.get_closest_marker("gpu") is None:
            continue
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        elif not compiled.CUDA_ARCHS and not (
            isinstance(target, Target) and target.backend.name == "triton"
        ):
            item.add_marker(pytest.mark.skip(reason="fastblur was built without CUDA"))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """One thread, so that tests run side by side, a fixed seed, and the best CPU target."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    if compiled.C is not None:
        compiled.C.cpu.set_target(compiled.C.cpu.targets()[0])


needs_extension = pytest.mark.skipif(
    compiled.C is None, reason="tests the compiled extension, which is not installed"
)
