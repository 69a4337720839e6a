"""Measuring models whose conditions are computed from samples: low resolutions and masks, outside of a run."""

import pytest
from PIL import Image

from ldm.config import compose
from ldm.evaluate.program import evaluate
from tests.data.small_shards import encoded, write_tar
from tests.generation.test_restoration import made

CHOSEN = {
    "low_resolution": (
        "degradation=bicubic",
        "degradation=bsr_light",
        "degradation._target_",
        "type degradation=bicubic",
    ),
    "inpainting": ("masks=boxes", "masks=strokes", "mask.", "or have masks drawn: masks=mixed"),
}
"""Name of a conditioner -> how its samples are seen, another way, the option that then differs, and the advice without one."""


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOSEN)
def test_images_are_of_the_way_in_which_samples_are_seen(choice, tmp_path):
    way, other, option, advice = CHOSEN[choice]
    run = made(tmp_path, choice)
    colors = [(20 * number, 255 - 20 * number, 99) for number in range(6)]
    samples = [(f"{number}.png", encoded(Image.new("RGB", (32, 32), color))) for number, color in enumerate(colors)]
    write_tar(tmp_path / "val.tar", [pair for one in samples for pair in (one, (one[0].replace("png", "txt"), b"a"))])

    def measured(*options):
        places = [f"cache={tmp_path / 'cache'}", f"data.cache={tmp_path / 'index'}", f"out={tmp_path / 'scores'}"]
        given = [f"ckpt={run}", f"data.val={tmp_path / 'val.tar'}", "metric=offline", "device=cpu", *places, *options]
        return evaluate(compose("evaluate", given))[0]

    with pytest.raises(ValueError, match=advice):
        measured()
    assert not (tmp_path / "scores").exists()
    found = measured(way)
    assert found["count"] == 6
    before = (tmp_path / "scores" / "images" / "000000.png").read_bytes()
    with pytest.raises(ValueError, match=f"holds images of another request:\n  {option}"):
        measured(other)
    assert (tmp_path / "scores" / "images" / "000000.png").read_bytes() == before
    if choice == "inpainting":
        with Image.open(tmp_path / "scores" / "images" / "000000.png") as image:
            count, color = max(image.getcolors(32 * 32))
        assert color in colors
        assert 32 < count < 32 * 32, "what is not masked is put back before images are measured"
