"""In how many bits targets and negatives travel between processes."""

import pytest
import torch

from losses.byol import unit
from models import detconb, resim
from tests.models import two_ranks
from tests.small_methods import tiny


def travelled(monkeypatch, name: str, *changes: str, precision: str) -> list[torch.dtype]:
    """The types of what a step hands to the other processes."""
    seen, gather = [], detconb.all_gather_rows

    def watched(rows):
        seen.append(rows.dtype)
        return gather(rows)

    for module in (detconb, resim):
        monkeypatch.setattr(module, "all_gather_rows", watched)
    tiny(name, *changes, precision=precision).step(0)
    return seen


@pytest.mark.parametrize("name", ["detconb", "cyborgs"])
@pytest.mark.parametrize("precision, dtype", [("O0", torch.float32), ("O1", torch.bfloat16)])
def test_targets_travel_as_the_network_gives_them(monkeypatch, name, precision, dtype):
    assert set(travelled(monkeypatch, name, precision=precision)) == {dtype}


def test_resims_negatives_travel_in_float32_unless_the_config_says_otherwise(monkeypatch):
    wide, narrow = torch.float32, torch.bfloat16
    assert travelled(monkeypatch, "resim", precision="O1") == [wide, narrow]
    assert travelled(monkeypatch, "resim", "loss.gather_dtype=bfloat16", precision="O0") == [narrow, wide]


def test_rows_scaled_after_the_journey_are_those_scaled_before():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(unit(rows), torch.cat([unit(part) for part in rows.chunk(2)]))


def test_rounded_negatives_change_the_gathered_level_alone_and_little():
    exact, rounded = (losses_of(dtype) for dtype in ("float32", "bfloat16"))
    assert rounded["loss_moco"] == exact["loss_moco"] and rounded["loss_c3"] == exact["loss_c3"]
    assert rounded["loss_c4"] != exact["loss_c4"]
    torch.testing.assert_close(rounded["loss_c4"], exact["loss_c4"], rtol=1e-3, atol=0)


def losses_of(dtype: str) -> dict[str, torch.Tensor]:
    trained = tiny("resim", f"loss.gather_dtype={dtype}")
    return trained.method(trained.batch, torch.Generator()).losses


def test_bfloat16_rows_are_gathered_in_the_order_of_processes(model_ranks):
    expected = torch.cat([two_ranks.numbered_rows(rank, (3,), torch.bfloat16) for rank in range(2)])
    assert all(torch.equal(rank["gathered"], expected) for rank in model_ranks)
