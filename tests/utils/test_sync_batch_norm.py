import pytest
import torch
from torch import nn

from tests.utils.two_ranks import SPLITS, make_case, run_case
from utils.sync_batch_norm import CpuSyncBatchNorm, convert_sync_batchnorm

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "half"])
def test_two_unequal_parts_give_what_one_process_gives_with_the_whole_batch(ranks, name):
    whole = run_case(*make_case(name))
    parts = [r[name] for r in ranks]
    for key, expected in whole.items():
        if key in ("output", "grad_x", "eval"):
            found = torch.cat([part[key] for part in parts])
        elif key.startswith("grad_"):
            found = parts[0][key] + parts[1][key]
        else:
            assert torch.equal(parts[0][key], parts[1][key])
            found = parts[0][key]
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11, msg=key)


def test_half_precision_input_comes_back_in_its_type_and_as_near_as_it_can(ranks):
    norm, x, coefficients = make_case("half")
    whole = run_case(norm, x.float(), coefficients.float())
    for key in ("output", "grad_x"):
        found = torch.cat([r["half"][key] for r in ranks])
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), whole[key], rtol=2e-2, atol=2e-2)
    assert ranks[0]["half"]["running_mean"].dtype == torch.float32


def test_one_sample_over_all_processes_is_refused(ranks):
    assert all("more than one value" in r["one_sample"] for r in ranks)


def test_alone_it_is_pytorchs_batch_norm_bit_for_bit():
    norm, x, coefficients = make_case("conv")
    expected = run_case(norm, x, coefficients)
    found = run_case(CpuSyncBatchNorm.of(make_case("conv")[0]), x, coefficients)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_conversion_keeps_parameters_buffers_mode_and_state_dict_keys():
    norms = nn.Sequential(nn.BatchNorm2d(4, eps=0.5, momentum=0.2), nn.BatchNorm1d(4, affine=False))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norms)
    net.eval()
    before, keys = dict(net.named_parameters()), list(net.state_dict())
    running = net[1][0].running_mean
    converted = convert_sync_batchnorm(net, CPU)
    assert list(converted.state_dict()) == keys
    assert all(parameter is before[name] for name, parameter in converted.named_parameters())
    norm = converted[1][0]
    assert isinstance(norm, CpuSyncBatchNorm) and (norm.eps, norm.momentum, norm.training) == (0.5, 0.2, False)
    assert norm.running_mean is running
    assert convert_sync_batchnorm(converted, CPU)[1][0] is norm


def test_a_batch_norm_that_is_the_whole_module_is_converted_too():
    assert isinstance(convert_sync_batchnorm(nn.BatchNorm1d(3), CPU), CpuSyncBatchNorm)


def test_on_a_gpu_it_is_pytorchs_own():
    converted = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)), torch.device("cuda"))
    assert type(converted[0]) is nn.SyncBatchNorm


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"\(N, 3, ...\)"):
        CpuSyncBatchNorm(3)(torch.zeros(2, 4, 5, 5))
