import pytest
import torch

from mmcomponents.batch import Exact
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.nn.rotary import Rotation


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(4000, 3, 2))
    assert {round(v, 4) for v in out.unique().tolist()} == {0.0, 1.3333}
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert abs(float(out.mean()) - 1) < 0.05
    x = torch.randn(5, 2)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


def test_drop_path_refuses_a_rate_of_one() -> None:
    with pytest.raises(ValueError, match="is not in"):
        DropPath(1.0)


def test_rotary_runs_in_fp32_and_returns_the_type() -> None:
    x = torch.randn(3, 2, 8, dtype=torch.bfloat16)
    rotary = Exact(torch.rand(3, 8), torch.rand(3, 8))
    out = Rotation(rotary)(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, Rotation(rotary)(x.float()).bfloat16())
