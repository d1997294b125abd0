"""Conductance of blocks against completeness, captum and hand-worked cases."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from itm.core.errors import SettingError
from itm.extraction.readouts.conductance import MOST_BLOCKS, conductance, find_blocks


def network(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **kwargs).eval()


NETWORKS = {
    "resnet10t": (4, 64, {}),
    "convnext_atto": (4, 64, {}),
    "swin_tiny_patch4_window7_224": (
        4,
        64,
        {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24},
    ),
    "vit_tiny_patch16_224": (4, 64, {"img_size": 64, "depth": 4}),
}


def images_and_baseline(side):
    # two ordinary images: from an image of one colour, networks with LayerNorm jump at the start of the path
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, side, side, generator=generator)
    return images[:2], images[2:]


@pytest.mark.parametrize("name", NETWORKS)
def test_signed_sums_of_every_block_are_the_change_of_the_output(name):
    count, side, kwargs = NETWORKS[name]
    net = network(name, **kwargs)
    images, baseline = images_and_baseline(side)
    blocks = find_blocks(net, name)
    assert len(blocks) == count
    found = conductance(net, blocks, images, baseline=baseline, steps=64)
    with torch.no_grad():
        change = (net(images).square().sum(1) - net(baseline).square().sum(1)) / 2
    torch.testing.assert_close(found.change, change)
    scale = found.magnitude.amax()
    torch.testing.assert_close(found.signed / scale, (change[:, None] / scale).expand(-1, count), atol=5e-3, rtol=0)
    assert (found.magnitude >= found.signed.abs()).all()


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_it_agrees_with_captum(name):
    attr = pytest.importorskip("captum.attr")
    _, side, kwargs = NETWORKS[name]
    net = network(name, **kwargs)
    images, baseline = images_and_baseline(side)
    blocks = find_blocks(net, name)
    found = conductance(net, blocks, images, baseline=baseline, steps=96)
    for position in (0, len(blocks) - 1):
        layer = attr.LayerConductance(lambda x: net(x).square().sum(1) / 2, blocks[position])
        expected = layer.attribute(images, baselines=baseline, n_steps=96).flatten(1)
        torch.testing.assert_close(found.magnitude[:, position], expected.abs().sum(1).detach(), rtol=0.05, atol=0)


class Chain(nn.Module):
    """Two linear blocks, whose conductance can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        self.blocks[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
        self.blocks[1].weight.data = torch.tensor([[1.0, 1.0]])

    def forward(self, x):
        return self.blocks(x)


def test_a_hand_worked_case():
    # z = x1 - 2 x2, F = z^2 / 2; block 1 has units x1 and -2 x2, each with the derivative z, block 2 has the unit z.
    # From 0 to (3, 1): z = a, so the integrals are 3/2, -2/2 and 1/2, for every number of steps.
    net = Chain()
    for steps in (1, 7):
        found = conductance(net, find_blocks(net), torch.tensor([[3.0, 1.0]]), steps=steps)
        torch.testing.assert_close(found.magnitude, torch.tensor([[2.5, 0.5]]))
        torch.testing.assert_close(found.signed, torch.tensor([[0.5, 0.5]]))
        assert found.error() == pytest.approx(0, abs=1e-6)


def test_images_do_not_influence_each_other_and_frozen_weights_change_nothing():
    net = network("resnet10t")
    images, _ = images_and_baseline(64)
    together = conductance(net, find_blocks(net), images, steps=4)
    net.requires_grad_(False)
    alone = conductance(net, find_blocks(net), images[1:], steps=4)
    torch.testing.assert_close(together.magnitude[1:], alone.magnitude, rtol=1e-4, atol=1e-6)
    assert not any(module._forward_hooks for module in net.modules())


def test_long_chains_are_read_at_the_end_of_equal_groups():
    net = nn.Module()
    net.blocks = nn.Sequential(*(nn.Identity() for _ in range(24)))
    assert find_blocks(net) == [net.blocks[i] for i in range(1, 24, 2)]
    assert len(find_blocks(network("vit_tiny_patch16_224"))) == MOST_BLOCKS


def test_blocks_of_torchvision_networks_are_found():
    net = torchvision.models.mobilenet_v2().eval()
    assert len(find_blocks(net)) == MOST_BLOCKS
    assert len(find_blocks(torchvision.models.resnet18())) == 4


def test_networks_of_one_block_and_odd_settings_are_one_line():
    net = Chain()
    with pytest.raises(SettingError, match=r"tiny: found 1 block\(s\)"):
        find_blocks(network("vit_tiny_patch16_224", depth=1), "tiny")
    with pytest.raises(SettingError, match=r"conductance.steps=0"):
        conductance(net, find_blocks(net), torch.ones(1, 2), steps=0)
    with pytest.raises(SettingError, match="not at all"):
        conductance(net, [nn.Identity()], torch.ones(1, 2))
