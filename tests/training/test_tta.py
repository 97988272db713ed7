"""6-view TTA against the six views, one by one."""

import torch

from cifar10.training.tta import six_view_tta


def test_logits_are_the_weighted_mean_of_the_six_views():
    torch.manual_seed(0)
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    weight = torch.randn(3 * 8 * 8, 10)

    def classify(x):
        return x.reshape(len(x), -1).float() @ weight

    padded = torch.nn.functional.pad(images.float(), (1, 1, 1, 1), "reflect")
    expected = 0
    for top, share in ((1, 0.5), (0, 0.25), (2, 0.25)):
        view = padded[:, :, top : top + 8, top : top + 8]
        expected = expected + share * (classify(view) + classify(view.flip(-1))) / 2
    torch.testing.assert_close(six_view_tta(classify, images), expected)
    given = six_view_tta(classify, images, classify(images))
    torch.testing.assert_close(given, expected)


def test_logits_that_ignore_flips_and_shifts_do_not_change():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    logits = six_view_tta(lambda x: torch.ones(len(x), 10) * 3, images)
    torch.testing.assert_close(logits, torch.full((4, 10), 3.0))
