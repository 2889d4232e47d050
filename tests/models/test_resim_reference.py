"""ReSim against the published model: its losses, gradients and queue from given features, alone and on two processes."""

import pytest
import torch
from torch import nn

from losses.byol import unit
from losses.info_nce import log_sum_exp
from models.momentum import update_target
from models.resim import ReSim
from models.windows import neighbourhoods, pool_windows
from tests.models.given_features import WINDOWS, given_batch, given_resim
from tests.models.published import assert_close, load_reference
from tests.models.two_ranks import SHUFFLE_SEEDS
from utils.method import Output

TASKS = ("moco", "c4", "c3")
CELL = {"c4": 16, "c3": 8}


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("resim_moco.npz")


@pytest.fixture(scope="module")
def step(reference) -> tuple[ReSim, Output]:
    """The method, with gradients, and what it gave for both images."""
    method = given_resim(reference)
    output = method(given_batch(0, 1), torch.Generator())
    sum(output.losses.values()).backward()
    return method, output


def test_losses_match_and_those_of_windows_are_means_over_what_both_views_show(reference, step):
    _, output = step
    for task in TASKS:
        assert output.losses[f"loss_{task}"].item() == pytest.approx(reference[f"loss_{task}"].item(), rel=1e-6)
    for level in CELL:
        shown = (reference[f"{level}_labels"] == 0).double().mean()
        assert output.metrics[f"matched_{level}"].item() == pytest.approx(shown.item())


def test_gradients_match(reference, step):
    method, _ = step
    known = method.backbone.known
    assert_close(known["c5"].grad[..., 0, 0], reference["grad_q_vec"], 1e-5)
    assert_close(known["c4"].grad[:, :32], reference["grad_q_c4_first32ch"], 1e-5)
    assert_close(known["c3"].grad[:, :16], reference["grad_q_c3_first16ch"], 1e-5)
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_the_queue_takes_the_keys_at_its_end_and_begins_anew(reference, step):
    queue = step[0].queue
    assert reference["queue_ptr_before"] == 62
    assert torch.equal(queue.keys[:62], reference["queue_after"].T[:62])
    assert_close(queue.keys, reference["queue_after"].T, 1e-6)
    assert queue.next == reference["queue_ptr_after"] == 0


def test_logits_of_whole_images_match(reference):
    query, key = unit(reference["q_vec"]), unit(reference["k_vec"])
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ reference["queue_before"]], dim=1)
    assert_close(logits / reference["T"], reference["logits"], 1e-6)


def logits_of(reference: dict, level: str, image: slice, negatives_of: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """(R,) logits of the own keys and (R,) logarithms of their denominators, of windows where the release has them."""

    def pooled(view: str) -> torch.Tensor:
        boxes = reference[f"{level}_anchors_{view}"][image].float() / CELL[level]
        windows = pool_windows(reference[f"{view}_{level}"][image], boxes[..., 1::2], boxes[..., ::2])
        # Of all rows x columns, each window's own.
        return unit(windows.unflatten(1, boxes.shape[1:2] * 2).diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(0, 1))

    temperature = float(reference["T"])
    queries, own = pooled("q"), pooled("k")
    own = (queries * own).sum(1) / temperature
    negatives = unit(neighbourhoods(reference[f"k_{level}"][negatives_of]))
    return own, torch.logaddexp(own, log_sum_exp(queries, negatives, temperature=temperature))


def test_logits_of_every_window_match_the_unmatched_ones_too(reference):
    both = slice(0, 2)
    for level in CELL:
        own, total = logits_of(reference, level, both, both)
        assert_close(total, reference[f"{level}_logsumexp"], 1e-6)
        theirs = reference["c3_pos_logit"] if level == "c3" else reference["c4_logits"][:, 0]
        assert_close(own, theirs, 1e-5)


def test_on_two_processes_c4_sees_the_neighbourhoods_of_both_and_c3_its_own(reference):
    for rank in range(2):
        image = slice(rank, rank + 1)
        for level, seen in (("c4", slice(0, 2)), ("c3", image)):
            own, total = logits_of(reference, level, image, seen)
            assert_close(total, reference[f"world2_{level}_logsumexp"][rank], 1e-6)
            shown = reference[f"{level}_labels"][rank] == 0
            loss = (total - own)[shown].mean()
            theirs = reference["world2_losses"][rank, TASKS.index(level)]
            assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("shuffle_seed", SHUFFLE_SEEDS)
def test_two_processes_have_the_published_losses_and_queue_whether_images_change_places_or_not(
    reference, model_ranks, shuffle_seed
):
    shown = {level: (reference[f"{level}_labels"] == 0).sum(1) for level in CELL}
    for rank, found in enumerate(seen["compared"][str(shuffle_seed)] for seen in model_ranks):
        for task, theirs in zip(TASKS, reference["world2_losses"][rank].tolist()):
            # Ours are such that the processes' mean is one over all windows; theirs are each process' own mean.
            share = 1 if task == "moco" else (shown[task][rank] / shown[task].double().mean()).item()
            assert found[f"loss_{task}"].item() == pytest.approx(theirs * share, rel=1e-6)
        assert_close(found["keys"], reference["world2_queue_after"][rank].T, 1e-6)
        assert found["next"] == reference["world2_ptr"][rank]


def test_windows_that_the_key_does_not_show_give_zero_where_the_release_has_no_number(reference):
    assert reference["loss_c4_no_valid_anchor"].isnan()
    method, batch = given_resim(reference), given_batch(0, 1)
    batch["boxes"] = torch.tensor([[(0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)]] * 2)
    output = method(batch, torch.Generator())
    (output.losses["loss_c4"] + output.losses["loss_c3"]).backward()
    assert output.losses["loss_c4"] == output.losses["loss_c3"] == 0
    assert all(not method.backbone.known[windows.level].grad.any() for windows in WINDOWS)
    assert output.losses["loss_moco"].item() == pytest.approx(reference["loss_moco"].item(), rel=1e-6)


class Encoder(nn.Module):
    def __init__(self, reference: dict, prefix: str):
        super().__init__()
        self.w, self.b = (nn.Parameter(reference[f"{prefix}.{name}"].clone()) for name in "wb")
        self.register_buffer("running", reference[f"{prefix}.running"].clone())


def test_the_key_network_follows_by_momentum_and_keeps_its_own_statistics(reference):
    query, key = (Encoder(reference, f"before/encoder_{which}") for which in "qk")
    update_target(nn.ModuleList([key]), query, momentum=float(reference["m"]))
    for name, value in key.state_dict().items():
        assert_close(value, reference[f"after/encoder_k.{name}"], 1e-6)
        assert name == "running" or not torch.equal(value, reference[f"before/encoder_k.{name}"])
