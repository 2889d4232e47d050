import pytest
import torch
from torchvision.models import resnet50

from models.backbone import make_trunk
from models.fcn import FCN, FCNHead, dilate, window_starts


def randomised(trunk):
    """In eval mode, with BatchNorm statistics that leave the features neither constant nor huge."""
    generator = torch.Generator().manual_seed(0)
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return trunk.eval()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return randomised(make_trunk("resnet_tiny", width=4, blocks=(1, 2, 2, 2), strides=(2, 1, 2, 2, 2)))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return randomised(make_trunk("resnet50"))


def head(in_channels, **options):
    options = {"channels": 6, "num_convs": 2, "num_classes": 3, **options}
    return FCNHead(in_channels, **options)


@pytest.mark.parametrize("side", [64, 61])
@pytest.mark.parametrize("output_stride", [2, 4, 8, 16])
def test_dilated_features_are_the_trunks_own_where_it_has_any(tiny, output_stride, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, dilated = tiny(images), dilate(tiny, output_stride=output_stride)(images)
    for level, features in dilated.items():
        step = tiny.levels[level].stride // min(tiny.levels[level].stride, output_stride)
        torch.testing.assert_close(features[..., ::step, ::step], plain[level])
    assert dilated["c5"].shape[-1] == -(-side // output_stride)


def test_a_bottleneck_trunk_is_dilated_as_torchvision_dilates_it(resnet):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for output_stride, replaced in ((16, [False, False, True]), (8, [False, True, True])):
        theirs = resnet50(replace_stride_with_dilation=replaced)
        theirs.load_state_dict(resnet.state_dict(), strict=False)
        theirs.eval()
        with torch.no_grad():
            x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images)))))
            expected = theirs.layer4(theirs.layer3(theirs.layer2(x)))
            found = dilate(resnet, output_stride=output_stride)(images)["c5"]
        torch.testing.assert_close(found, expected)


def test_dilating_leaves_the_trunk_and_its_parameters_names_alone(tiny):
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    dilated = dilate(tiny, output_stride=4)
    assert [level.stride for level in dilated.levels.values()] == [2, 4, 4, 4]
    assert [level.stride for level in tiny.levels.values()] == [2, 4, 8, 16]
    assert dilated.state_dict().keys() == before.keys()
    dilated.conv1.weight.data.zero_()
    assert all(torch.equal(tiny.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("output_stride", [1, 6, 32])
def test_a_stride_that_cannot_be_is_refused_with_those_that_can(tiny, output_stride):
    with pytest.raises(ValueError, match=f"output_stride: {output_stride}, but this backbone can have 2, 4, 8, 16"):
        dilate(tiny, output_stride=output_stride)


def test_a_stage_of_stride_one_behind_a_dilated_one_is_dilated_too():
    torch.manual_seed(0)
    trunk = randomised(make_trunk("resnet_tiny", width=4, strides=(2, 1, 2, 2, 1)))
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(dilate(trunk, output_stride=4)(images)["c5"][..., ::2, ::2], trunk(images)["c5"])


def test_scores_have_the_images_size_and_the_auxiliary_head_speaks_in_training_alone(tiny):
    fcn = FCN(dilate(tiny, output_stride=8), head(32), head(16, num_convs=1))
    images = torch.randn(2, 3, 37, 50)
    assert {name: tuple(scores.shape) for name, scores in fcn(images).items()} == {
        "head": (2, 3, 37, 50),
        "auxiliary": (2, 3, 37, 50),
    }
    assert fcn.eval()(images).keys() == {"head"}


def test_a_head_sees_as_far_as_its_dilation_says():
    torch.manual_seed(0)
    for dilation, concat, reach in ((1, False, 2), (6, False, 12), (6, True, 13)):
        one = head(4, dilation=dilation, concat=concat).eval()
        features = torch.randn(1, 4, 41, 41, requires_grad=True)
        one(features)[0, :, 20, 20].sum().backward()
        seen = features.grad.abs().sum((0, 1)).nonzero()
        assert (20 - seen.min(0).values).tolist() == (seen.max(0).values - 20).tolist() == [reach, reach]


def test_dropped_channels_are_drawn_by_the_generator_alone_and_not_in_eval_mode():
    torch.manual_seed(0)
    one = head(4, dropout=0.5)
    features = torch.randn(8, 4, 5, 5)
    first, again, other = (one(features, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    one.eval()
    assert torch.equal(one(features), one(features, torch.Generator().manual_seed(3)))


def test_dropping_keeps_the_mean_of_the_scores():
    torch.manual_seed(0)
    one = head(4, dropout=0.3)
    kept = torch.cat([one._drop(torch.ones(100, 6, 1, 1), torch.Generator().manual_seed(seed)) for seed in range(20)])
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_windows_cover_an_axis_and_end_with_it():
    assert window_starts(2049, 769, 513) == [0, 513, 1026, 1280]
    assert window_starts(10, 10, 3) == window_starts(7, 10, 3) == [0]
    assert window_starts(10, 4, 3) == [0, 3, 6]


def test_one_window_is_the_whole_image_and_windows_are_averaged(tiny):
    fcn = FCN(dilate(tiny, output_stride=8), head(32)).eval()
    images = torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = fcn(images)["head"]
        torch.testing.assert_close(fcn.slide(images, window=(64, 64), step=(8, 8)), whole)
        slid = fcn.slide(images, window=(40, 40), step=(40, 16))
        left, right = (fcn(images[..., start : start + 40])["head"] for start in (0, 16))
    torch.testing.assert_close(slid[..., :16], left[..., :16])
    torch.testing.assert_close(slid[..., 16:40], (left[..., 16:] + right[..., :24]) / 2)
    torch.testing.assert_close(slid[..., 40:], right[..., 24:])
