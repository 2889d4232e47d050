import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from data.blur import blur_alone, blur_together
from data.photometric import (
    BYOL_VIEW_1,
    BYOL_VIEW_2,
    JITTER_ORDERS,
    MOCO_V2_VIEW,
    Parameter,
    PhotometricSpec,
    augment,
    draw_photometric,
    normalise,
    normalise_pixels,
    prepare_views,
)

STRONG = PhotometricSpec(0.8, 0.8, 0.8, 0.5, blur_probability=0.5, solarise_probability=0.5, grey_probability=0.3)
JITTER = {
    Parameter.BRIGHTNESS: F.adjust_brightness,
    Parameter.CONTRAST: F.adjust_contrast,
    Parameter.SATURATION: F.adjust_saturation,
    Parameter.HUE: F.adjust_hue,
}


def drawn(spec, count, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([draw_photometric(rng, spec) for _ in range(count)]))


def images(count, size=20):
    """Smooth pictures with greys, black, white and saturated colours among their pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator) * 1.4 - 0.2
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").clamp(0, 1).mul(255).to(torch.uint8)
    smooth[:, :, :4, :4] = smooth[:, :1, :4, :4]
    smooth[:, :, -2:], smooth[:, :, :, -2:] = 0, 255
    return smooth


def slowly(image, row):
    """What torchvision makes of one float image."""
    image = image.float() / 255
    if row[Parameter.ORDER] >= 0:
        for operation in JITTER_ORDERS[int(row[Parameter.ORDER])]:
            image = JITTER[operation](image, float(row[operation]))
    if row[Parameter.GREY]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if row[Parameter.BLUR_SIGMA] > 0:
        kernel, sigma = int(row[Parameter.BLUR_KERNEL]), float(row[Parameter.BLUR_SIGMA])
        image = F.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    return torch.where(image >= 0.5, 1 - image, image) if row[Parameter.SOLARISE] else image


# On the CPU small images are changed together, larger ones each alone.
@pytest.mark.parametrize("size", [24, 72])
@pytest.mark.parametrize("spec", [BYOL_VIEW_1, BYOL_VIEW_2, STRONG])
def test_each_sample_equals_torchvisions_functions_in_its_own_order(spec, size):
    batch, parameters = images(64, size=size), drawn(spec, 64)
    parameters[:24, Parameter.ORDER] = torch.arange(24.0)
    result = augment(batch, parameters)
    assert result.dtype == torch.float32 and result.is_contiguous()
    for one, image, row in zip(result, batch, parameters):
        expected = slowly(image, row)
        error = (one - expected).abs()
        if row[Parameter.SOLARISE]:
            # A value within rounding of the threshold may fall on either side of it.
            error = error[(expected - 0.5).abs() > 1e-4]
        assert error.max() < 2e-5


def test_the_order_of_the_jitter_matters_and_every_order_is_drawn():
    batch, parameters = images(1).expand(24, -1, -1, -1), drawn(STRONG, 1).expand(24, -1).clone()
    parameters[:, Parameter.GREY] = parameters[:, Parameter.SOLARISE] = parameters[:, Parameter.BLUR_SIGMA] = 0
    parameters[:, : Parameter.ORDER] = torch.tensor([1.6, 0.5, 1.5, 0.2])
    parameters[:, Parameter.ORDER] = torch.arange(24.0)
    flat = augment(batch, parameters).flatten(1)
    assert len(torch.unique(flat.mul(1000).round(), dim=0)) > 6
    orders = drawn(BYOL_VIEW_1, 2000)[:, Parameter.ORDER]
    assert set(orders.tolist()) == set(range(-1, 24))


@pytest.mark.parametrize("spec", [BYOL_VIEW_1, BYOL_VIEW_2])
def test_operations_occur_with_their_probabilities_and_within_their_ranges(spec):
    parameters = drawn(spec, 4000)
    share = (parameters != 0).float().mean(0)
    assert abs((parameters[:, Parameter.ORDER] >= 0).float().mean() - spec.jitter_probability) < 0.03
    assert abs(share[Parameter.GREY] - spec.grey_probability) < 0.03
    assert abs(share[Parameter.BLUR_SIGMA] - spec.blur_probability) < 0.03
    assert abs(share[Parameter.SOLARISE] - spec.solarise_probability) < 0.03
    ranges = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
    for operation, (low, high) in enumerate(ranges):
        values = parameters[:, operation]
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high
    sigmas = parameters[:, Parameter.BLUR_SIGMA]
    sigmas = sigmas[sigmas > 0]
    assert 0.1 <= sigmas.min() < 0.2 and 1.9 < sigmas.max() <= 2.0


def test_a_strength_above_one_never_inverts_an_image():
    spec = PhotometricSpec(brightness=3.0, contrast=3.0, saturation=3.0, jitter_probability=1.0)
    assert drawn(spec, 500)[:, :3].min() >= 0


@pytest.mark.parametrize("size", [20, 72])
def test_a_sample_does_not_depend_on_its_batch(size):
    batch, parameters = images(16, size=size), drawn(STRONG, 16)
    whole = augment(batch, parameters)
    for row in range(16):
        assert torch.allclose(augment(batch[row : row + 1], parameters[row : row + 1])[0], whole[row], atol=1e-6)


@pytest.mark.parametrize("size", [20, 72])
def test_the_identity_leaves_images_and_the_batch_as_they_are(size):
    batch = images(3, size=size)
    before = batch.clone()
    spec = PhotometricSpec(jitter_probability=0, grey_probability=0, blur_probability=0, solarise_probability=0)
    assert torch.equal(augment(batch, drawn(spec, 3)), before.float() / 255)
    augment(batch, drawn(STRONG, 3))
    assert torch.equal(batch, before)


@pytest.mark.parametrize("size", [20, 72])
def test_autocast_does_not_coarsen_the_images(size):
    batch, parameters = images(8, size=size), drawn(STRONG, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = augment(batch, parameters)
    assert torch.equal(result, augment(batch, parameters))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 7), (5, 2), (40, 64)])
def test_an_image_blurred_alone_equals_the_one_blurred_in_a_batch(height, width, sigma):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    alone, together = image.clone(), image[None].clone()
    blur_alone(alone, sigma, kernel=23)
    blur_together(together, torch.tensor([sigma]), kernel=23)
    assert (alone - together[0]).abs().max() < 2e-6


def test_views_come_out_alike_whatever_the_threads_which_stay_as_they_were():
    batch, parameters = images(6, size=72), drawn(STRONG, 6)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(augment(batch, parameters))
        assert torch.get_num_threads() == count
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("size", [20, 72])
def test_prepared_views_are_the_augmented_ones_normalised(size):
    batch, parameters = images(6, size=size), drawn(STRONG, 6)
    prepared = prepare_views(batch.unflatten(0, (3, 2)), parameters.unflatten(0, (3, 2)))
    assert torch.equal(prepared.flatten(0, 1), normalise(augment(batch, parameters)))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_images_smaller_than_the_blur_kernel_are_blurred_towards_their_mean(size):
    batch, parameters = images(4, size=size), drawn(BYOL_VIEW_1, 4)
    parameters[:, Parameter.ORDER], parameters[:, Parameter.GREY] = -1, 0
    parameters[:, Parameter.BLUR_SIGMA] = 2.0
    before, after = batch.float() / 255, augment(batch, parameters)
    assert ((after.amax((2, 3)) - after.amin((2, 3))) <= (before.amax((2, 3)) - before.amin((2, 3))) + 1e-6).all()
    assert after.amin() >= before.amin() - 1e-6 and after.amax() <= before.amax() + 1e-6


def test_parameters_on_a_device_are_refused():
    with pytest.raises(ValueError, match="CPU"):
        augment(images(1), drawn(STRONG, 1).to("meta"))


def test_normalise_is_torchvisions():
    batch = images(2).float() / 255
    before = batch.clone()
    assert torch.allclose(normalise(batch), F.normalize(batch, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), atol=1e-6)
    assert torch.equal(batch, before)


def test_pixels_are_normalised_as_their_values_are():
    pixels = images(2)
    assert torch.equal(normalise_pixels(pixels), normalise(pixels.float() / 255))


@pytest.mark.parametrize(
    "wrong", [{"grey_probability": 1.2}, {"blur_kernel": 4}, {"blur_sigma": (0.0, 1.0)}, {"hue": 0.7}], ids=str
)
def test_an_impossible_spec_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PhotometricSpec(**wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmenting_on_a_gpu_equals_the_cpu_and_never_waits():
    batch, parameters = images(64), drawn(STRONG, 64)
    on_gpu, pinned = batch.cuda(), parameters.pin_memory()
    augment(on_gpu, pinned)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = normalise(augment(on_gpu, pinned))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (result.cpu() - normalise(augment(batch, parameters))).abs().quantile(0.999) < 1e-3


def test_moco_v2s_views_are_the_published_ones():
    """MoCo v2's released main_moco.py with --aug-plus, and ReSim's."""
    view = MOCO_V2_VIEW
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (view.jitter_probability, view.grey_probability, view.solarise_probability) == (0.8, 0.2, 0)
    assert view.blur_probability == 0.5 and view.blur_sigma == (0.1, 2.0)


def test_the_blur_keeps_its_share_of_a_smaller_view():
    assert BYOL_VIEW_1.at_size(224) == BYOL_VIEW_1
    small = BYOL_VIEW_2.at_size(48)
    assert (small.blur_kernel, small.blur_sigma[1]) == (5, pytest.approx(2.0 * 48 / 224))
    assert small.solarise_probability == BYOL_VIEW_2.solarise_probability
