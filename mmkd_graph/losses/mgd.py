"""MGD: masked generative distillation (arXiv 2205.01529)."""

from __future__ import annotations

import random

import torch
from mmengine.dist import get_rank
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmkd_graph.graph import random_mask
from mmkd_graph.graph.arguments import argument_error, check_number
from mmkd_graph.registry import MODELS

from .base import DistillContext, Pyramid, PyramidLoss, PyramidSpec, total


@MODELS.register_module()
class MGDLoss(PyramidLoss):
    """The teacher's features, generated from the student's of which a random part of the positions is hidden.

    ``1/N Σ (T - G(M · S))²`` over images, channels and positions, a sum over levels (MGD, arXiv 2205.01529). G is a
    learned 3×3 convolution, ReLU and 3×3 convolution of each level, M hides each position with probability
    ``mask_ratio``, anew for every image and pass. The paper writes the sum alone; the division by the number of images
    is that of the authors' code (yzd-v/MGD), and so is torch's own initialisation of G.

    The masks come from a generator of their own, seeded in every pass with the seed that torch had when the loss was
    built, the number of training passes so far and the rank. Seed and number are saved with the loss: a resumed run
    goes on with the masks that it would have drawn. Ranks draw different ones, and the student's random numbers stay
    as they are. In eval mode the masks are those of the next training pass, and nothing is counted.

    Args:
        generation_weight: weight of the term ``generation``, α. Both defaults are the authors' for RetinaNet; for
            Faster R-CNN 5e-7.
        mask_ratio: probability that a position is hidden, λ, in [0, 1); for Faster R-CNN 0.45.

    Raises:
        ValueError: for a number outside what is accepted.

    Example:
        >>> import torch
        >>> loss = MGDLoss()
        >>> loss.bind(PyramidSpec(strides=(8,), student_channels=(4,), teacher_channels=(4,), name='mgd'))
        >>> context = DistillContext(data_samples=(), strides=(8,), batch_shape=(32, 32))
        >>> list(loss((torch.rand(1, 4, 4, 4),), (torch.rand(1, 4, 4, 4),), context))
        ['generation']
    """

    def __init__(self, generation_weight: float = 2e-5, mask_ratio: float = 0.65) -> None:
        super().__init__()
        check_number('generation_weight', generation_weight, positive=True)
        check_number('mask_ratio', mask_ratio)
        if mask_ratio >= 1:
            raise argument_error('mask_ratio', mask_ratio, 'a number >= 0 and < 1')
        self.generation_weight, self.mask_ratio = generation_weight, mask_ratio
        # One buffer, since reading it waits for the GPU.
        self.register_buffer('seed_and_pass', torch.tensor([torch.initial_seed() % 2**63, 0]))

    def bind(self, spec: PyramidSpec) -> None:
        """Create the generation block of every level."""
        self.generation = ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(c, c, 3, padding=1))
            for c in spec.teacher_channels
        )

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        """Term ``generation`` of levels (N, C_l, H_l, W_l)."""
        generator, values = self._generator(student[0].device), []
        for generate, s, t in zip(self.generation, student, teacher, strict=True):
            generated = generate(s * random_mask(len(s), s.shape[2:], self.mask_ratio, generator))
            values.append((generated - t).square().sum() / len(s))
        return {'generation': self.generation_weight * total(values)}

    def _generator(self, device: torch.device) -> torch.Generator:
        """The generator of this pass."""
        seed, index = self.seed_and_pass.tolist()
        if self.training:
            self.seed_and_pass[1] += 1
        # Mixed, since generators of neighbouring seeds are not meant to be independent.
        mixed = random.Random(f'{seed} {index} {get_rank()}').getrandbits(63)
        return torch.Generator(device).manual_seed(mixed)
