"""The base class of every part."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mmcomponents.batch import PackedBatch


class WiringError(ValueError):
    """Two parts of a model do not fit; the message names both, with their numbers."""


class Component(LightningModule):
    """A part that is built by its constructor and works at once, alone, on tensors.

    It declares the module types that FSDP shards, activation checkpointing wraps and compile compiles, and says nothing
    of its neighbours. It has no `training_step`: alone, it is used in the user's own loop.
    """

    shard_units: tuple[type[nn.Module], ...] = ()
    """Module types inside this part that are sharded, checkpointed and compiled each as one unit."""

    weight_methods: ClassVar[tuple[str, ...]] = ()
    """Methods beside `forward` that use the part's weights; a sharded part gathers them for these calls too."""

    def flops(self, batch: PackedBatch) -> float:
        """Floating-point operations of this part's forward pass over a pack: two for each multiply-add of its matrices.

        Parts without matrices do none worth counting. Biases, norms and activations are left out, and so is the blank
        tile that a pack without images is given. It reads the pack's integers: on a GPU that waits for the device.
        """
        return 0.0

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills one parameter with its initial value. Parts override this for parameters of their own kind.

        Matrices are normal with a deviation of `fan_in ** -0.5` (LeCun et al. 1998, "Efficient BackProp", section 4.6):
        0.017 at a width of 3,584, where the released configurations say 0.02, and larger where the width is small: a
        fixed 0.02 keeps a narrow model near zero for hundreds of steps. Biases are 0 and other vectors 1.

        Args:
            name: Name of the parameter within this part.
            value: The whole parameter in fp32 on the CPU, to be filled in place.
            generator: Source of randomness that depends on the seed and on the name alone.
        """
        if value.ndim >= 2:
            nn.init.normal_(value, std=value[0].numel() ** -0.5, generator=generator)
        elif name.endswith("bias"):
            value.zero_()
        else:
            value.fill_(1.0)

    @torch.no_grad()
    def init_weights(self, seed: int | None = None, scope: str | None = None) -> None:
        """Draws every parameter anew: a function of seed, scope and name, whatever the device, rank or sharding.

        A layer that has been wrapped and lies in its wrapper as `base_layer` starts as it does without.

        Args:
            seed: None draws one from torch's global generator.
            scope: Name of the slot, so that two parts of one model do not start alike. Default: the class name.
        """
        if any(p.is_meta for p in self.parameters()):
            return  # drawn when the weights exist
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu"))
        for given, parameter in self.named_parameters():
            name = given.replace("base_layer.", "")
            value = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
            key = hashlib.sha256(f"{seed}/{scope or type(self).__name__}/{name}".encode()).digest()
            generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:8], "little") >> 1)
            self.init_parameter(name, value, generator)
            if isinstance(parameter, DTensor):
                # Each rank has drawn the same whole value and keeps its own piece: nothing is sent.
                value = value.to(parameter.device, parameter.dtype)
                sharded = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.copy_(sharded)
            else:
                parameter.copy_(value)
