import torch
from torch import nn

from study.networks.unet import build_unet
from study.tasks.stability import stability


class Ramp(nn.Module):
    """A network that sees only where a pixel stands, and so cannot be equivariant."""

    def forward(self, x):
        return torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])


def test_stability_of_an_equivariant_function_is_perfect():
    def brightness(x):
        return 20 * x.mean(dim=1, keepdim=True)

    images = torch.rand(2, 3, 8, 8)
    views = stability(brightness, images)
    assert views.deviation.max() < 1e-6
    assert not views.changed.any()
    torch.testing.assert_close(views.mean, torch.sigmoid(brightness(images)))


def test_stability_agrees_with_the_eight_views_computed_by_hand():
    images = torch.rand(1, 3, 6, 6)
    views = stability(Ramp(), images)
    by_hand = []
    for mirrored in (False, True):
        for turns in range(4):
            # the ramp does not look at the image, so a view is the ramp turned back
            ramp = torch.sigmoid(Ramp()(images))
            back = torch.rot90(ramp, -turns, (-2, -1))
            by_hand.append(back.flip(-1) if mirrored else back)
    by_hand = torch.stack(by_hand)
    torch.testing.assert_close(views.mean, by_hand.mean(0))
    torch.testing.assert_close(views.deviation, by_hand.std(0, correction=0))
    torch.testing.assert_close(views.probability, by_hand[0])
    assert views.changed.all()  # left and right halves always disagree


def test_a_p4m_network_is_steady_and_a_plain_one_is_not():
    images = torch.randn(2, 3, 16, 16)
    deviation = {
        group: stability(build_unet(group, width=8, depth=2).train(), images).deviation.max() for group in ("z2", "p4m")
    }
    assert deviation["p4m"] < 1e-5 < 1e-3 < deviation["z2"]


def test_every_view_is_computed_in_full_precision_whatever_was_allowed_before():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return x[:, :1]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        stability(Looks(), torch.rand(1, 3, 4, 4))
        assert torch.backends.cudnn.allow_tf32
    assert seen == [(True, False)] * 8
