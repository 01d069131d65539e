"""What several tests on the host share: the demo model in this process, and photos to train on and to hold out."""

from __future__ import annotations

import pytest
import torch
from attractor_pack.training import demo_assets


@pytest.fixture(scope="module")
def model(comfy):
    """The demo checkpoint as the host has loaded it."""
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    with torch.inference_mode():
        return HostModel(*demo.load())


@pytest.fixture(scope="module")
def photos():
    """Three photos of the demo subject, and two others."""
    whole = demo_assets.subject()
    return whole.with_photos(whole.photos[:3]), whole.with_photos(whole.photos[5:7])
