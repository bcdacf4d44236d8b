"""Grids and overlays, by their pixels."""

import numpy as np
import torch

from ratgan.visualize import attention_overlay, from_pil, grid, grid_with_boxes, to_pil


def colours(*values: tuple[int, int, int]) -> torch.Tensor:
    """One 32 px image of each colour."""
    return torch.tensor(values, dtype=torch.uint8)[:, :, None, None].repeat(1, 1, 32, 32)


def test_grid_shows_each_image_in_reading_order():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)

    picture = np.asarray(grid(colours(red, green, blue), columns=2))

    assert tuple(picture[10, 10]) == red
    assert tuple(picture[10, 50]) == green
    assert tuple(picture[50, 10]) == blue
    assert tuple(picture[50, 50]) == (255, 255, 255)


def test_captions_are_drawn_under_the_pictures_and_make_room():
    images = colours((255, 0, 0))

    bare, labelled = grid(images), np.asarray(grid(images, ["a plain red picture"]))

    under = labelled[6 + 32 :]
    assert labelled.shape[0] > bare.height
    assert (under < 100).any(), "no dark pixel of a letter"


def test_the_boxes_of_a_grid_hold_its_images_without_their_captions():
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)

    picture, boxes = grid_with_boxes(images, ["a red bird"] * 5, columns=2, scale=3)

    found = [from_pil(picture.crop(box).resize((8, 8), 0)) for box in boxes]
    assert torch.equal(torch.stack(found), images)


def test_long_captions_stay_inside_the_picture():
    texts = ["supercalifragilisticexpialidocious" * 3, "many words " * 40]

    picture = np.asarray(grid(colours((9, 9, 9), (9, 9, 9)), texts))

    assert (picture[:, :3] == 255).all()
    assert (picture[:, -3:] == 255).all()


def test_overlay_is_coloured_where_attention_is_strongest():
    weights = torch.full((1, 1, 8, 8), 0.01)
    weights[0, 0, 1, 1] = 0.5

    shown = attention_overlay(colours((100, 100, 100)), weights)[0].int()

    assert shown[0, 6, 6] - shown[2, 6, 6] > 80, "red far above blue at the strongest position"
    assert (shown[:, 28, 28] == 100).all(), "grey elsewhere"


def test_flat_attention_shows_no_false_pattern():
    shown = attention_overlay(colours((100, 100, 100)), torch.full((1, 1, 8, 8), 1 / 64))

    assert (shown == 100).all()


def test_pillow_and_back_is_the_same_image():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)

    assert torch.equal(from_pil(to_pil(image)), image)
