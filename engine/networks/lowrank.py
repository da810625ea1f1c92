"""What adapters with a narrow middle share: its dropouts, and when one node can hold everything."""

from __future__ import annotations

from torch import Tensor, nn

from engine.networks.base import Adapter
from engine.networks.dropout import activation_mask, sample_rank_mask_BD
from engine.networks.fused import can_fuse


class LowRank(Adapter):
    """An adapter whose change passes through a hidden activation with one number for each rank."""

    def one_node(self) -> bool:
        """Whether a frozen linear layer and its factors may stand as one node of the graph."""
        linear = isinstance(self.layer, nn.Linear) and can_fuse(self.layer)
        return linear and self.alone() and not self.drops()

    def drops(self) -> bool:
        """Whether hidden activations are dropped in this pass."""
        dropouts = self.setup.dropouts
        return self.training and (dropouts.activation > 0 or dropouts.rank > 0)

    def rank_axis(self) -> int:
        """Where the ranks stand in a hidden activation."""
        return -1 if isinstance(self.layer, nn.Linear) else 1

    def dropped(self, hidden: Tensor, name: str) -> Tensor:
        """A hidden activation with what this step keeps of it; `name` keys the draws."""
        if not self.drops():
            return hidden
        moment, dropouts = self.setup.moment, self.setup.dropouts
        if dropouts.activation > 0:
            hidden = hidden * activation_mask(moment, name, dropouts.activation, hidden)
        if dropouts.rank > 0:
            axis = self.rank_axis()
            samples, ranks = hidden.shape[0], hidden.shape[axis]
            mask_BD = sample_rank_mask_BD(moment, name, dropouts.rank, samples, ranks)
            shape = [samples] + [1] * (hidden.dim() - 1)
            shape[axis] = ranks
            hidden = hidden * mask_BD.to(hidden.device, hidden.dtype).view(shape)
        return hidden
