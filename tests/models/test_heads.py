import pytest
import torch

from models.heads import MLP, make_heads
from tests.models.published import assert_close, load_reference
from utils.sections import Head


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("cyborgs_mlp.npz")


def under(reference: dict, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}


def make_head(reference: dict, **options: bool) -> MLP:
    head = MLP(20, hidden_dim=24, output_dim=8, **options)
    head.load_state_dict(under(reference, "before/net."))
    return head.train()


def test_a_head_slot_by_slot_is_that_of_cyborgs_release(reference):
    head, x = make_head(reference, per_slot=True), reference["x"].clone().requires_grad_()
    out = head(x)
    out.backward(reference["grad_out"])
    assert_close(out, reference["out"], 1e-5)
    assert_close(x.grad, reference["grad_x"], 1e-5)
    # The first bias stands in front of a BatchNorm: its gradient is rounding alone.
    floor = 1e-5 * max(gradient.abs().max() for gradient in under(reference, "grad/").values())
    for name, theirs in under(reference, "grad/net.").items():
        assert_close(head.get_parameter(name).grad, theirs, 1e-5, floor)
    for name, theirs in under(reference, "after/net.").items():
        assert_close(head.get_buffer(name), theirs, 1e-5)


def test_a_head_of_all_regions_together_is_what_the_release_would_be_without_its_loop(reference):
    out = make_head(reference)(reference["x"])
    assert_close(out, reference["out_joint_bn_for_contrast"], 1e-5)
    assert (out - reference["out"]).abs().max() > 0.1


def test_a_trained_head_gives_a_row_the_same_slot_by_slot_or_not(reference):
    joint, by_slot = make_head(reference).eval(), make_head(reference, per_slot=True).eval()
    torch.testing.assert_close(joint(reference["x"]), by_slot(reference["x"]))


def test_projector_and_predictor_are_made_alike():
    for per_slot in (True, False):
        assert [head.per_slot for head in make_heads(64, Head(), Head(), per_slot=per_slot)] == [per_slot] * 2


def test_a_head_normalises_rows_of_all_images_and_regions_together():
    head, x = MLP(6, hidden_dim=5, output_dim=3), torch.randn(4, 7, 6)
    assert torch.allclose(head(x).flatten(0, 1), head(x.flatten(0, 1)), atol=1e-6)
    assert head(x).shape == (4, 7, 3)


def test_a_head_without_norm_sees_each_row_alone_and_is_two_layers():
    head, x = MLP(6, hidden_dim=5, output_dim=3, norm=False), torch.randn(4, 6)
    first, last = head[0], head[2]
    assert torch.allclose(head(x)[1], last(first(x[1]).relu()), atol=1e-6)
    assert not list(head.buffers()) and make_heads(64, Head(), None, norm=False)[0][1].__class__ is torch.nn.ReLU


def test_a_wrong_input_size_of_a_head_is_refused():
    with pytest.raises(ValueError, match="model.predictor.input_dim: 99, but 256 channels come in"):
        make_heads(64, Head(), Head(input_dim=99))
    with pytest.raises(ValueError, match="model.predictor.output_dim"):
        make_heads(64, Head(), Head(output_dim=99))
