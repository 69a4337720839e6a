"""Conditioners that give tokens or a vector: labels, layouts, images, neighbours."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from ldm.batch import Size, whole_geometry
from ldm.conditioner.image import ImageConditioner
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.neighbors import NeighborsConditioner
from ldm.config import build, compose, resolved
from ldm.data.fields.placement import Placement
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.vision import IMAGENET_MEAN, IMAGENET_STD, standardized
from tests.conditioner.small import LAYOUT, VISION, fields_of, save_vision


def test_a_label_is_a_row_of_a_table_whose_last_row_says_nothing():
    conditioner = LabelConditioner(7, width=16)
    tokens = conditioner({"label": torch.tensor([0, 6, 3])}).tokens
    assert torch.equal(tokens[:, 0], conditioner.embed.weight[[0, 6, 3]])
    assert torch.equal(conditioner({"label": [0, 6, 3]}).tokens, tokens), "a list, as one gives it to `sample`"
    null = conditioner.null({"label": torch.tensor([0, 6])}).tokens
    assert torch.equal(null[:, 0], conditioner.embed.weight[[7, 7]])
    vector = LabelConditioner(7, vector_width=8)
    assert torch.equal(vector({"label": [5]}).vector, vector.embed.weight[[5]])


def test_labels_that_cannot_be_are_reported():
    conditioner = LabelConditioner(7, width=16)
    for wrong in (7, 1000, -1):
        message = f"label has the value {wrong}, but with conditioner.num_classes=7 values are 0 to 6; mend it, or set a larger"
        for given in (torch.tensor([0, wrong]), [0, wrong]):
            with pytest.raises(ValueError, match=message):
                conditioner.check({"label": given})
    conditioner.check({"label": torch.arange(7)})
    conditioner.check({"caption": ["a"]})
    with pytest.raises(ValueError, match=r"the field label is numbers, one or more for each image; got \['cat'\]"):
        conditioner.check({"label": ["cat"]})
    for wrong in (torch.tensor([0.5]), torch.tensor([[1]]), ["cat"]):
        with pytest.raises((ValueError, TypeError)):
            conditioner({"label": wrong})
    with pytest.raises(ValueError, match="the field label is needed"):
        conditioner({"caption": ["a"]})
    for widths in ({}, {"width": 8, "vector_width": 8}):
        with pytest.raises(
            ValueError, match="a token, conditioner.width, or a vector, conditioner.vector_width; give one"
        ):
            LabelConditioner(7, **widths)


def expected_ids(boxes, crop, grid, none, most):
    """The tokens of one layout, written down one by one."""

    def corner(x, y):
        return round(y * (grid - 1)) * grid + round(x * (grid - 1))

    ids = []
    for label, x0, y0, x1, y1 in [row for row in boxes if row[0] >= 0][:most]:
        ids += [int(label), corner(x0, y0), corner(x1, y1)]
    ids += [none] * (3 * most - len(ids))
    return [*ids, corner(*crop[:2]), corner(*crop[2:])]


def test_a_layout_is_the_papers_sequence_of_tokens():
    conditioner, fields = LayoutConditioner(**LAYOUT), fields_of(4)
    found = conditioner.ids(fields).tolist()
    for row, boxes in zip(found, fields["boxes"].tolist(), strict=True):
        assert row == expected_ids(boxes, (0, 0, 1, 1), 5, 29, 3)
    assert conditioner.null(fields).tokens.equal(conditioner(fields).tokens), "it is never dropped"
    dropped = conditioner.encode(fields, torch.ones(4, dtype=torch.bool)).tokens
    torch.testing.assert_close(dropped, conditioner.network(torch.full((4, 11), 29), None))
    alone = conditioner({"boxes": torch.empty(2, 0, 5)})
    assert torch.equal(conditioner.ids({"boxes": torch.empty(2, 0, 5)})[:, :9], torch.full((2, 9), 29))
    assert alone.tokens.shape == (2, 11, 16)


def test_padding_between_boxes_and_boxes_beyond_the_most_do_not_matter():
    conditioner = LayoutConditioner(**LAYOUT)
    boxes = torch.tensor([[3, 0.1, 0.2, 0.5, 0.6], [4, 0, 0, 1, 1], [28, 0.5, 0.5, 0.9, 1.0], [1, 0, 0, 0.5, 1]])
    padding = torch.full((1, 5), -1.0)
    sparse = torch.cat([padding, boxes[:1], padding, padding, boxes[1:]])
    assert torch.equal(conditioner.ids({"boxes": sparse[None]}), conditioner.ids({"boxes": boxes[None, :3]}))
    for wrong in (29, 4000):
        boxes[1, 0] = wrong
        message = f"boxes of the sample 'a' has the value {wrong}, but with conditioner.vocabulary=30 values are -1 to 28; mend"
        with pytest.raises(ValueError, match=message):
            conditioner.check({"boxes": boxes[None]}, ["a"])
    conditioner.check({"boxes": sparse[None]})
    conditioner.check({"boxes": torch.empty(2, 0, 5)})
    with pytest.raises(ValueError, match=r"\(B, N, 5\); got \(4, 5\)"):
        conditioner.ids({"boxes": boxes})


def test_the_crop_is_given_by_its_corners_in_the_original():
    conditioner = LayoutConditioner(**{**LAYOUT, "vocabulary": 1002})
    placement = Placement(Size(100, 200), Size(32, 64), 0, 20, Size(32, 32))
    geometry = torch.stack([placement.geometry, whole_geometry(32, 1)[0]])
    ids = conditioner.ids({"boxes": torch.full((2, 1, 5), -1.0), "geometry": geometry})[:, -2:].tolist()
    crops = (placement.box, (0, 0, 1, 1))
    assert ids == [expected_ids([], crop, 31, 0, 0) for crop in crops]
    assert ids[0] != ids[1]


PAPER = {  # conditioner, parameters of the head that the paper's code has and never uses, both together in millions (ZOO 2b)
    "layout": (512 * 8192 + 8192, 58.9),
    "transformer_text2img256": (640 * 30522 + 30522, 186.2),
    "transformer_1p4b": (1280 * 30522 + 30522, 582.0),
}


@pytest.mark.parametrize("choice", PAPER)
def test_the_papers_transformers_have_their_parameters(choice):
    config = resolved(compose("train", ["experiment=txt2img", f"conditioner={choice}"]).conditioner)
    with torch.device("meta"):
        conditioner = build(config)
    head, total = PAPER[choice]
    count = sum(weight.numel() for weight in conditioner.parameters())
    assert (count + head) / 1e6 == pytest.approx(total, abs=0.05)


def test_the_papers_layout_is_92_tokens_on_a_grid_of_90():
    with torch.device("meta"):
        conditioner = build(resolved(compose("train", ["experiment=txt2img", "conditioner=layout"]).conditioner))
    assert conditioner.network.position.shape == (92, 512)
    assert conditioner.grid == math.isqrt(8192) == 90


def test_neighbours_are_tokens_of_length_1_the_first_ones_and_a_single_one_is_enough():
    conditioner, fields = NeighborsConditioner(width=16, max_neighbors=4), fields_of(3)
    tokens = conditioner(fields).tokens
    assert tokens.shape == (3, 4, 16)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(3, 4))
    torch.testing.assert_close(tokens, F.normalize(fields["neighbors"][:, :4], dim=-1))
    longer = NeighborsConditioner(width=16, max_neighbors=4, scale=4.0)(fields).tokens
    torch.testing.assert_close(longer, 4.0 * tokens)
    assert conditioner({"neighbors": torch.rand(3, 1, 16)}).tokens.shape == (3, 1, 16)
    assert not NeighborsConditioner(width=16, drop_rate=0.1).null(fields).tokens.any()
    with pytest.raises(ValueError, match="got .3, 2, 24.; set conditioner.width=24"):
        conditioner({"neighbors": torch.rand(3, 2, 24)})


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_a_vision_network_from_a_folder_embeds_the_image(tmp_path, kind, patches):
    theirs = save_vision(tmp_path, kind)
    width = 8 if kind == "clip" and not patches else 16
    conditioner = ImageConditioner(str(tmp_path), embedding_width=width, width=width, patches=patches, size=24)
    assert conditioner.inputs == ("image",)
    conditioner.prepare(None)
    fields = fields_of(3)
    cached = fields.pop("image_embedding")
    tokens = conditioner.train()(fields).tokens
    with torch.no_grad():
        output = theirs(standardized(fields["image"], 24, [0.4] * 3, [0.3] * 3))
    whole = output.image_embeds if kind == "clip" else output.pooler_output
    expected = output.last_hidden_state if patches else whole[:, None]
    torch.testing.assert_close(tokens, expected)
    assert not any(weight.requires_grad for weight in conditioner.parameters())
    if width == 8:
        assert torch.equal(conditioner({**fields, "image_embedding": cached}).tokens[:, 0], cached), (
            "what is cached counts"
        )

    again = ImageConditioner("gone", embedding_width=width, width=width, patches=patches, size=24)
    with pytest.raises(RuntimeError, match="there is no vision network yet"):
        again(fields)
    again.load_state_dict(conditioner.state_dict())
    torch.testing.assert_close(again(fields).tokens, tokens, rtol=0, atol=0)


class ColourMeans(Extractor):
    """Features that are the mean of each colour, and weights that training must not change."""

    name = signature = "colour_means"
    num_features = 3

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.full((), gain))

    def forward(self, images):
        return self.gain * images.mean((2, 3))


def test_an_extractor_embeds_the_whole_image_and_its_weights_travel():
    options = {"embedding_width": 3, "width": 3}
    conditioner, fields = ImageConditioner(None, encoder=ColourMeans(2.0), **options), fields_of(3)
    assert conditioner.inputs == ("image",)
    cached = torch.rand(3, 3)
    assert torch.equal(conditioner({**fields, "image_embedding": cached}).tokens[:, 0], cached), "what is cached counts"
    del fields["image_embedding"]
    tokens = conditioner(fields).tokens
    torch.testing.assert_close(tokens, 2.0 * fields["image"].mean((2, 3))[:, None])
    assert not tokens.requires_grad
    assert not any(weight.requires_grad for weight in conditioner.parameters())
    assert not conditioner.null(fields).tokens.any()
    again = ImageConditioner(None, encoder=ColourMeans(), **options)
    again.load_state_dict(conditioner.state_dict())
    assert torch.equal(again(fields).tokens, tokens)
    for wrong in ({"name": "x"}, {"name": None, "patches": True}):
        with pytest.raises(ValueError, match="set conditioner.name=null and conditioner.patches=false with it"):
            ImageConditioner(**wrong, encoder=ColourMeans(), **options)


def test_a_full_clip_gives_its_vision_part(tmp_path):
    text = CLIPTextConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    vision = CLIPVisionConfig(**VISION)
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    conditioner = ImageConditioner(str(tmp_path), embedding_width=8, width=8, size=24)
    conditioner.prepare(None)
    fields = fields_of(2)
    del fields["image_embedding"]
    with torch.no_grad():
        pixels = standardized(fields["image"], 24, IMAGENET_MEAN, IMAGENET_STD)
        theirs = clip.visual_projection(clip.vision_model(pixels).pooler_output)
    torch.testing.assert_close(conditioner(fields).tokens[:, 0], theirs)


def test_widths_of_images_that_do_not_go_together_are_refused(tmp_path):
    for options, message in (
        ({"width": 8, "vector_width": 8}, "an image is tokens, conditioner.width, or a vector"),
        ({"width": None}, "an image is tokens, conditioner.width, or a vector"),
        ({"width": 16}, "set conditioner.projection=true, or conditioner.width=8"),
        ({"width": None, "vector_width": 16}, "set conditioner.projection=true, or conditioner.vector_width=8"),
        ({"width": None, "vector_width": 8, "patches": True}, "patches are tokens: set conditioner.patches=false"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageConditioner(None, embedding_width=8, **options)
    conditioner = ImageConditioner(None, embedding_width=8, width=None, vector_width=8)
    assert conditioner.inputs == ("image_embedding",)
    with pytest.raises(ValueError, match="a vector is made of one embedding, but the field image_embedding has 3"):
        conditioner({"image_embedding": torch.rand(2, 3, 8)})
    with pytest.raises(ValueError, match="set conditioner.embedding_width=5"):
        conditioner({"image_embedding": torch.rand(2, 5)})
    with pytest.raises(FileNotFoundError, match="no vision network .*nowhere.*set conditioner.name=FOLDER"):
        ImageConditioner(str(tmp_path / "nowhere")).prepare(None)


def test_tokens_are_pooled_where_there_are_some():
    for choice, expected in (("label", True), ("segmentation", False), ("unconditional", False), ("transformer", True)):
        backbone = resolved(compose("train", ["experiment=txt2img", f"conditioner={choice}"]).backbone)
        assert backbone["pool_tokens"] is expected
