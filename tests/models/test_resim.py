import pytest
import torch
import torch.nn.functional as F

from losses.byol import unit
from losses.info_nce import info_nce
from models.backbone import make_trunk
from models.fpn import FPN
from models.heads import MLP
from models.resim import ReSim, Windows
from models.shuffle import Shuffle
from utils.method import Progress

SIDE, B, QUEUE = 32, 4, 16
WINDOWS = (Windows("c4", 12, 8, True), Windows("c3", 8, 6, False))


def make(windows: tuple[Windows, ...] = WINDOWS) -> ReSim:
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny", width=4)
    neck = None
    if windows:
        channels = {level: trunk.levels[level].channels for level in ("c3", "c4", "c5")}
        neck = FPN(channels, out_channels=6, outputs=tuple(one.level for one in windows))
    head = MLP(trunk.levels["c5"].channels, hidden_dim=16, output_dim=8, norm=False)
    method = ReSim(trunk, head, neck, windows=windows, queue_size=QUEUE, dim=8, momentum=lambda progress: 0.5)
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return method


def make_batch(boxes: list[tuple[float, ...]], *, side: int = SIDE) -> dict[str, torch.Tensor]:
    """Views of these boxes, the query's and the key's, of every image."""
    return {
        "images": torch.randn(B, 2, 3, side, side, generator=torch.Generator().manual_seed(1)),
        "boxes": torch.tensor([boxes] * B),
        "flips": torch.zeros(B, 2, dtype=torch.bool),
    }


WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


def test_the_queue_is_read_before_it_is_written():
    method, batch = make(), make_batch([WHOLE, WHOLE])
    before = method.queue.keys.clone()
    output = method(batch, torch.Generator())
    with torch.no_grad():
        query, key = (
            networks[2](networks[0](images)["c5"].mean((2, 3)))
            for networks, images in (
                ((method.backbone, method.neck, method.head), batch["images"][:, 0]),
                (method.target, batch["images"][:, 1]),
            )
        )
    expected = info_nce(query, unit(key), before, temperature=0.2)
    assert torch.allclose(output.losses["loss_moco"], expected.loss) and output.metrics["top1_moco"] == expected.top1
    assert torch.allclose(method.queue.keys[:B], unit(key), atol=1e-6)
    assert torch.equal(method.queue.keys[B:], before[B:])


def test_the_key_network_moves_before_it_is_used_and_no_gradient_reaches_it():
    method = make()
    slow = [parameter.clone() for parameter in method.target.parameters()]
    method.before_step(Progress(0, 10, 0))
    fast = [p for module in (method.backbone, method.neck, method.head) for p in module.parameters()]
    for now, before, online in zip(method.target.parameters(), slow, fast, strict=True):
        assert torch.allclose(now, (before + online) / 2, atol=1e-7) and not torch.equal(now, online)
    sum(method(make_batch([WHOLE, WHOLE]), torch.Generator()).losses.values()).backward()
    assert all(parameter.grad is None for parameter in method.target.parameters())
    online = [p for name, p in method.named_parameters() if not name.startswith("target")]
    assert all(parameter.grad is not None for parameter in online)


def test_views_that_share_nothing_give_window_losses_of_zero_that_hang_on_every_parameter():
    method = make()
    output = method(make_batch([LEFT, RIGHT]), torch.Generator())
    for level in ("c4", "c3"):
        assert output.losses[f"loss_{level}"] == 0 and output.metrics[f"top1_{level}"] == 0
        assert output.metrics[f"matched_{level}"] == 0
    (output.losses["loss_c4"] + output.losses["loss_c3"]).backward()
    # The image's head alone has nothing to do with windows.
    trained = [p for name, p in method.named_parameters() if name.startswith(("backbone", "neck"))]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained)


def test_equal_views_match_in_every_window_and_windows_that_leave_the_key_in_none():
    method = make()
    same = method(make_batch([RIGHT, RIGHT]), torch.Generator())
    assert same.metrics["matched_c4"] == same.metrics["matched_c3"] == 1
    # The key shows the query's left 40 %: 12.8 of 32 px, one column of windows of 12 px.
    part = method(make_batch([WHOLE, LEFT]), torch.Generator())
    assert part.metrics["matched_c4"] == pytest.approx(1 / 3) and part.metrics["matched_c3"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("side", [32, 45])
def test_a_window_loss_is_the_cross_entropy_of_its_windows_against_the_batchs_neighbourhoods(side):
    """By plain loops, for the windows that are matched; 45 px are no multiple of C4's stride."""
    method, batch = make((WINDOWS[0],)), make_batch([WHOLE, (0.1, 0.0, 1.0, 0.9)], side=side)
    loss = method(batch, torch.Generator()).losses["loss_c4"]
    with torch.no_grad():
        query = method.neck(method.backbone(batch["images"][:, 0]))["c4"]
        key = method.target[1](method.target[0](batch["images"][:, 1]))["c4"]
    negatives = F.avg_pool2d(key, 3, stride=1).transpose(0, 1).flatten(1).T
    losses = []
    for image in range(B):
        for top in range(0, side - 12, 8):
            for left in range(0, side - 12, 8):
                box = [left, top, left + 12, top + 12]
                mapped = [(box[0] - 0.1 * side) / 0.9, box[1] / 0.9, (box[2] - 0.1 * side) / 0.9, box[3] / 0.9]
                if min(mapped) < 0 or max(mapped) >= side:
                    continue
                own, other = pooled(query[image], box), pooled(key[image], mapped)
                similarity = F.cosine_similarity(own[None], torch.cat([other[None], negatives])) / 0.2
                losses.append(F.cross_entropy(similarity[None], torch.tensor([0])))
    assert 0 < len(losses) < B * len(range(0, side - 12, 8)) ** 2
    assert torch.allclose(loss, torch.stack(losses).mean(), rtol=1e-3)


def pooled(features: torch.Tensor, box: list[float], *, stride: int = 4, samples: int = 200) -> torch.Tensor:
    """The mean of the interpolated (D, h, w) features over a box of pixels, by many samples; cell k's centre lies at k."""
    x, y = (
        (start + (torch.arange(samples) + 0.5) / samples * (end - start)) / stride
        for start, end in ((box[0], box[2]), (box[1], box[3]))
    )
    hats = [(1 - (place[:, None] - torch.arange(features.shape[1])).abs()).clamp(min=0).mean(0) for place in (y, x)]
    return torch.einsum("dhw,h,w->d", features, *hats)


def test_without_windows_it_is_moco_v2():
    method = make(())
    output = method(make_batch([LEFT, RIGHT]), torch.Generator())
    assert list(output.losses) == ["loss_moco"] and list(output.metrics) == ["top1_moco"]
    assert not any("neck" in name for name in method.state_dict())


def test_autocast_keeps_the_losses_in_float32():
    method, batch = make(), make_batch([WHOLE, WHOLE])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(batch, torch.Generator())
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    sum(output.losses.values()).backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_equals_the_cpu_and_never_waits(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    batch = make_batch([WHOLE, (0.1, 0.0, 1.0, 0.9)])
    on_cpu, on_gpu = make(), make().cuda()
    moved = {name: value.cuda() for name, value in batch.items()}
    on_gpu(moved, torch.Generator())
    on_gpu.load_state_dict(on_cpu.state_dict())
    shuffle = Shuffle(B, torch.Generator())
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert shuffle.restore(shuffle.send(moved["images"])).shape == moved["images"].shape
        output = on_gpu(moved, torch.Generator())
        sum(output.losses.values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = on_cpu(batch, torch.Generator())
    for name, value in expected.losses.items():
        assert torch.allclose(output.losses[name].cpu(), value, rtol=1e-3)
