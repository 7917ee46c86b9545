"""Previews of images of any kind: windows, bands, colours, and what is said of them."""

import numpy as np
import pytest
import torch

from util.display import CITYSCAPES, Display, class_colors
from util.errors import UserError
from util.image_io import to_uint8
from util.parts import Part, Side, Sides, Values

UINT16 = Values("uint16", 0, 4095)


def sides(*parts: Part) -> Sides:
    """Return sides whose B consists of these parts."""
    return Sides(B=Side(parts))


def in_network(values: list[float], low: float, high: float) -> torch.Tensor:
    """Return a column of pixels, (1, H, 1), from values in units."""
    return ((torch.tensor(values) - low) * 2 / (high - low) - 1).view(1, -1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_8_bits_are_shown_as_they_are_saved_without_a_note(channels: int) -> None:
    images = torch.rand(2, channels, 5, 4) * 2.2 - 1.1
    display = Display(Sides.of_grey(A=channels == 1, B=channels == 1))
    previews = display.previews({"real_A": images[0], "fake_B": images[1]})
    for label, image in zip(("real_A", "fake_B"), images, strict=True):
        assert np.array_equal(previews[label], to_uint8(image)), label
    assert display.notes() == []


def test_an_image_without_the_channels_of_its_side_is_one_of_8_bits() -> None:
    image = torch.rand(3, 5, 4)
    display = Display(sides(Part("B", "values", channels=2, values=UINT16)), {"B": "0,10"})
    assert np.array_equal(display.previews({"fake_B_rgb": image})["fake_B_rgb"], to_uint8(image))


def test_a_window_is_in_the_units_of_the_files_and_the_same_for_fake_and_real() -> None:
    display = Display(sides(Part("B", "values", channels=1, values=UINT16)), {"B": "1000,2020"})
    column = in_network([0, 1000, 1510, 2020, 4095], 0, 4095)
    previews = display.previews({"real_B": column, "fake_B": column})
    for label in ("real_B", "fake_B"):
        assert previews[label][:, 0].tolist() == [[level] * 3 for level in (0, 0, 128, 255, 255)], label
    assert display.notes() == [
        "B: uint16, 1000 to 2020 shown as black to white, what is outside is clipped (its range is 0 to 4095)"
    ]


def test_percentiles_are_those_of_the_real_image() -> None:
    display = Display(sides(Part("B", "values", channels=1, values=UINT16)), {"": "percentile:10"})
    real, fake = in_network([*range(0, 1010, 10)], 0, 4095), in_network([0, 100, 600, 900, 4000], 0, 4095)
    shown = display.previews({"fake_B": fake, "real_B": real})["fake_B"][:, 0, 0].tolist()
    assert shown == [0, 0, 159, 255, 255]
    # Without a real image, the generated one has its own.
    assert display.previews({"fake_B": fake})["fake_B"][:, 0, 0].tolist() != shown
    assert "percentiles 10 to 90 of each sample's real image" in display.notes()[0]


def test_bands_have_their_numbers_in_the_file() -> None:
    part = Part("B", "values", channels=5, bands=(8, 4, 3, 2, 1), values=UINT16)
    image = torch.linspace(-1, 1, 5).view(5, 1, 1)
    levels = to_uint8(image[:1])[0, 0, 0], *(int(to_uint8(image[at : at + 1])[0, 0, 0]) for at in range(1, 5))
    for bands, shown, name in (
        ("", levels[:3], "bands 8, 4, 3 as RGB"),
        ("2,8,1", (levels[3], levels[0], levels[4]), "bands 2, 8, 1 as RGB"),
        ("4", (levels[1],) * 3, "band 4 as grey"),
        ("1,4", (levels[4], levels[1], 0), "bands 1, 4 as red and green"),
    ):
        display = Display(sides(part), {}, {"B": bands} if bands else {})
        assert display.previews({"fake_B": image})["fake_B"][0, 0].tolist() == [*shown]
        assert display.notes() == [f"B: uint16, 0 to 4095 shown as black to white; {name}"]
    # A value for all parts is that of those that have the channels.
    assert Display(sides(part), {}, {"": "8,2,1"}).views["A"].shown == (0, 1, 2)


def test_two_channels_are_shown_by_the_first() -> None:
    image = torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    part = Part("B", "values", channels=2, values=Values("int16", -5, 5))
    assert Display(sides(part)).previews({"fake_B": image})["fake_B"].tolist() == [[[0, 0, 0]]]


def test_classes_have_colours_and_pixels_without_one_are_black() -> None:
    one_hot = torch.eye(3).view(3, 1, 3)
    one_hot = torch.cat([one_hot, torch.zeros(3, 1, 1)], 2)
    colors = ((9, 8, 7), (1, 2, 3), (4, 5, 6))
    part = Part("B", "labels", channels=3, colors=colors)
    shown = Display(sides(part)).previews({"real_B": one_hot})["real_B"]
    assert shown[0].tolist() == [*map(list, colors), [0, 0, 0]]
    # What a generator makes of them has values in [-1, 1]: the highest is the class.
    generated = torch.tensor([[-0.9, -0.5, -0.2]]).T[..., None]
    assert Display(sides(part)).previews({"fake_B": generated})["fake_B"].tolist() == [[[4, 5, 6]]]


def test_colours_of_classes_are_those_of_cityscapes_and_voc() -> None:
    assert class_colors(35) == CITYSCAPES and CITYSCAPES[7] == (128, 64, 128) and len(CITYSCAPES) == 35
    voc = class_colors(21)
    assert voc[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc[15] == (192, 128, 128) and voc[20] == (0, 64, 128)
    assert len(set(class_colors(256))) == 256


def test_several_parts_are_images_of_their_own() -> None:
    inputs = Side(
        (
            Part("label", "labels", channels=2),
            Part("inst", "instances", channels=1),
            Part("A3", "values", channels=1, values=UINT16),
        )
    )
    display = Display(Sides(A=inputs), {"A3": "0,8190"})
    image = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
    previews = display.previews({"real_A": image, "fake_B": torch.zeros(3, 1, 1)})
    assert {label: shown[0, 0].tolist() for label, shown in previews.items()} == {
        "real_label": [0, 0, 0],
        "real_inst": [255, 255, 255],
        "real_A3": [128, 128, 128],
        "fake_B": [128, 128, 128],
    }
    assert [note.split(":")[0] for note in display.notes()] == ["label", "inst", "A3"]
    outputs = Sides(B=Side((Part("B1", channels=1), Part("B2", channels=1))))
    both = torch.zeros(2, 1, 1)
    # An identity image of a cycle is what the other generator makes of side B.
    labels = Display(outputs).previews({"rec_B": both, "idt_A": both})
    assert list(labels) == ["rec_B1", "rec_B2", "idt_A_B1", "idt_A_B2"]


@pytest.mark.parametrize(
    ("ranges", "bands", "message"),
    [
        ({"C": "0,1"}, {}, "--display_range: no images are named C; there are A, B"),
        ({"B": "1,0"}, {}, "--display_range 1,0: expected LO,HI"),
        ({"B": "percentile:50"}, {}, "--display_range percentile:50: expected LO,HI"),
        ({"": "white"}, {}, "--display_range white: expected LO,HI"),
        ({}, {"B": "1,2,3,4"}, "--display_bands 1,2,3,4: expected the number of one"),
        ({}, {"B": "0"}, "--display_bands 0: not all are channels of B, which has 1, 2"),
        ({}, {"": "9"}, "--display_bands 9: not all are channels of A, which has 1, 2, 3"),
        ({}, {"": "x"}, "--display_bands x: expected the number of one"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    ranges: dict[str, str], bands: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        Display(sides(Part("B", "values", channels=2, values=UINT16)), ranges, bands)
    assert str(error.value).startswith(message)
