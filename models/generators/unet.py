"""U-Net generators: ``--netG unet_32`` to ``--netG unet_256``, for sides that are multiples of the number.

No activation works in place. The peer's does, so that its skip connections hold activated features; each is
followed by a ReLU, for which LeakyReLU(x) and x are the same.
"""

from functools import partial

import torch
from torch import Tensor, nn

from models.layers.attention import attention_after, check_attention, run_layers
from models.layers.blocks import Dropout, upsampling_layer
from models.layers.convolutions import Conv2d, conv_before, deconv_before
from models.layers.generator import Generator
from models.layers.norms import norm_layer
from models.layers.recomputation import Recomputing
from models.registry import generator


class UnetBlock(Recomputing):
    """One level of a U-Net: down-sampling, the levels below it, up-sampling, and a skip connection.

    Args:
        outer_nc: channels of the up-sampled output.
        inner_nc: channels after down-sampling.
        input_nc: channels of the input; None: `outer_nc`.
        below: the next level; None for the innermost one.
        outermost: whether this is the first level: no leading activation, a final tanh, no skip connection.
        attend_down, attend_up: whether self-attention follows down-sampling, and up-sampling.
    """

    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        *,
        norm: str,
        input_nc: int | None = None,
        below: "UnetBlock | None" = None,
        outermost: bool = False,
        dropout: bool = False,
        attend_down: bool = False,
        attend_up: bool = False,
        upsample: str = "deconv",
    ):
        super().__init__()
        self.outermost = outermost
        inward, outward = (input_nc or outer_nc, inner_nc, 4, 2, 1), (outer_nc, 4, 2, 1)
        down: list[nn.Module] = [] if outermost else [nn.LeakyReLU(0.2)]
        if outermost or below is None:
            # The innermost level has no norm on its way down: its feature map may be a single pixel.
            down.append(Conv2d(*inward, bias=norm == "instance"))
        else:
            down += [conv_before(norm, *inward), norm_layer(norm, inner_nc)]
        from_below = inner_nc if below is None else inner_nc * 2
        up: list[nn.Module] = [nn.ReLU()]
        if outermost:
            enlarge = nn.ConvTranspose2d(from_below, *outward)
            up += [upsampling_layer(upsample, enlarge, "zero"), nn.Tanh()]
        else:
            enlarge = deconv_before(norm, from_below, *outward)
            up += [upsampling_layer(upsample, enlarge, "zero"), norm_layer(norm, outer_nc)]
        layers = [*down, *([] if below is None else [below]), *up]
        self.turn = len(down)
        attention = {len(down) - 1: inner_nc} if attend_down else {}
        self.attention = attention_after(attention | ({len(layers) - 1: outer_nc} if attend_up else {}))
        self.model = nn.Sequential(*layers, *([Dropout(0.5)] if dropout else []))

    def forward(self, x: Tensor) -> Tensor:
        y = self.run_segments(x) if self.recomputes else run_layers(self.model, self.attention, x)
        return y if self.outermost else torch.cat([x, y], 1)

    def run_segments(self, x: Tensor) -> Tensor:
        """Return the up-sampled output in segments: down-sampling, the levels below, up-sampling."""
        below = self.model[self.turn]
        down = self.model[: self.turn]
        deep = self.segment(down, partial(run_layers, down, self.attention), x)
        if not isinstance(below, UnetBlock):
            up = self.model[self.turn :]
            return self.segment(up, partial(run_layers, up, self.attention), deep)
        up = self.model[self.turn + 1 :]

        def join_and_upsample(skip: Tensor, y: Tensor) -> Tensor:
            # Concatenated within the segment, so that the skip connection's copy is recomputed too.
            return run_layers(up, self.attention, torch.cat([skip, y], 1))

        return self.segment(up, join_and_upsample, deep, below.run_segments(deep))


class UnetGenerator(Generator):
    """U-Net (Ronneberger et al. 2015; Isola et al. 2017, section 6.1.1).

    Args:
        num_downs: how often the input is halved, 5 or more.
        ngf: channels after the first halving; they double three times from there.
        dropout: drop half of the features after the up-sampling of every middle level.
        attention: depths of the feature maps with self-attention, see `check_attention`: 1 to
            ``num_downs - 1``; they have it after down-sampling and after up-sampling.
        upsample: see `upsampling_layer`.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int,
        norm: str,
        dropout: bool,
        attention: tuple[int, ...] = (),
        upsample: str = "deconv",
    ):
        super().__init__()
        self.multiple = self.smallest = 2**num_downs
        check_attention(attention, num_downs - 1, "G")
        widths = [output_nc, *(ngf * min(2**level, 8) for level in range(num_downs))]
        block: UnetBlock | None = None
        for level in reversed(range(num_downs)):
            block = UnetBlock(
                widths[level],
                widths[level + 1],
                norm=norm,
                input_nc=input_nc if level == 0 else None,
                below=block,
                outermost=level == 0,
                dropout=dropout and 4 <= level < num_downs - 1,
                attend_down=level + 1 in attention,
                attend_up=level in attention,
                upsample=upsample,
            )
        assert block is not None
        self.model = block

    def run(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return self.model(x)


generator("unet_32", num_downs=5)(UnetGenerator)
generator("unet_64", num_downs=6)(UnetGenerator)
generator("unet_128", num_downs=7)(UnetGenerator)
generator("unet_256", num_downs=8)(UnetGenerator)
