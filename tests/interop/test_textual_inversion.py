"""Words that others have learned: read, written into prompts, and beside diffusers."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import ParameterDict

from ldm import load
from ldm.conditioner.learned_words import LearnedWords
from ldm.conditioner.unconditional import Unconditional
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.interop.textual_inversion import read_words, teach
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import TrailingSpacing
from tests.conftest import forked
from tests.interop import pipelines

PROMPTS = ["a red heart as <toy>", "<toy> and a blue cat on white"]
STEPS = 5


def vectors(count, width=64, seed=3):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def interface(file, count=2):
    """The older file of a user interface; the word is the file's name."""
    parameters = {"*": vectors(count)}
    torch.save({"string_to_token": {"*": 265}, "string_to_param": parameters, "name": "x", "step": 9}, file)
    return file


def tensors(file, **words):
    (torch.save if file.suffix != ".safetensors" else save_file)(words, file)
    return file


def written(folder, kind):
    """A file with the word <toy>."""
    return {
        "one vector": lambda: tensors(folder / "learned_embeds.safetensors", **{"<toy>": vectors(1)[0]}),
        "three vectors": lambda: tensors(folder / "learned_embeds.bin", **{"<toy>": vectors(3)}),
        "interface": lambda: tensors(folder / "<toy>.safetensors", emb_params=vectors(2)),
        "older interface": lambda: interface(folder / "<toy>.pt"),
    }[kind]()


@pytest.mark.parametrize("kind", ["one vector", "three vectors", "interface", "older interface"])
def test_their_pipeline_makes_the_same_images(tmp_path, kind):
    file, pipe = written(tmp_path, kind), pipelines.stable_diffusion(tmp_path)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    noise = SeededNoise([3, 4]).draw((4, 8, 8))

    def theirs():
        found = pipe(PROMPTS, latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
        return torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1

    before = theirs()
    pipe.load_textual_inversion(str(file), token="<toy>")
    after = theirs()
    assert (after - before).std() > 0.01
    model = load(tmp_path / "pipeline", textual_inversions=[file])
    sampler, guidance = DDIM(STEPS, timestep_spacing=TrailingSpacing()), ClassifierFreeGuidance(3.0)
    images = model.sample(prompts=PROMPTS, seeds=[3, 4], sampler=sampler, guidance=guidance)
    torch.testing.assert_close(images, after, atol=1e-3, rtol=0)


def test_a_word_is_found_in_letters_of_any_case_and_not_inside_another():
    words = LearnedWords()
    (toy,), (first, second) = words.add("toy", 1), words.add("toy-like", 2)
    texts = ["a Toy, TOY", "toys of a stoy", "toy-like toy", "toy-likes", "nothing"]
    spelled = [f"a {toy}, {toy}", "toys of a stoy", f"{first}{second} {toy}", f"{toy}-likes", "nothing"]
    assert words.spelled(texts) == spelled
    words.add("0", 1)
    assert words.spelled(["toy-like"]) == [f"{first}{second}"], "no word is found in the tokens of another"
    assert words.read(spelled[2:]) == texts[2:3] + ["toy-likes", "nothing"]


def test_words_are_learned_beside_each_other_and_change_no_other_text(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    files = [tensors(tmp_path / f"word{number}.safetensors", emb_params=vectors(2, seed=number)) for number in range(3)]
    plain, taught = (load(tmp_path / "pipeline", textual_inversions=given).conditioner for given in ([], files))

    def tokens_of(conditioner, text):
        return conditioner({"caption": [text]}).tokens[0]

    torch.testing.assert_close(tokens_of(taught, "a red heart"), tokens_of(plain, "a red heart"))
    found = [tokens_of(taught, f"a word{number}") for number in range(3)]
    assert min((found[a] - found[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.01
    ends = taught.overflow(["a red heart " * 6 + "word1 cat", "a word1"])
    assert ends == ["word1 cat", ""]


REFUSED = {
    "lora": (
        lambda file: tensors(file, conv=torch.zeros(1, 2, 3, 3)),
        "holds no learned words: .* there is 'conv'; a LoRA",
    ),
    "xl": (
        lambda file: tensors(file, clip_l=vectors(1), clip_g=vectors(1, 1280)),
        "two text encoders of Stable Diffusion XL",
    ),
    "numbers": (lambda file: torch.save({"string_to_param": {"*": 3}}, file), "holds no learned words"),
    "lost": (
        lambda file: torch.save({"string_to_param": ParameterDict({"*": vectors(1)})}, file),
        "holds no learned words",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused(tmp_path, name):
    write, message = REFUSED[name]
    file = tmp_path / ("x.safetensors" if name in ("lora", "xl") else "x.pt")
    write(file)
    with pytest.raises(ValueError, match=message):
        read_words(file)


def test_a_missing_file_and_a_word_of_two_files_are_said(tmp_path):
    (tmp_path / "b").mkdir()
    files = [tensors(folder / "toy.safetensors", emb_params=vectors(1)) for folder in (tmp_path, tmp_path / "b")]
    with pytest.raises(ValueError, match="hold the same word 'toy'; give one of them, or rename the file"):
        read_words(files)
    with pytest.raises(
        FileNotFoundError, match=r"no file textual_inversion=.*toi.safetensors; there is .*toy.safetensors"
    ):
        read_words(tmp_path / "toi.safetensors")


def test_a_word_of_another_encoder_is_refused(tmp_path):
    words = read_words(tensors(tmp_path / "toy.safetensors", emb_params=vectors(1, 1024)))
    with pytest.raises(
        ValueError, match=r"toy.safetensors has vectors of 1024 numbers, but this model has no frozen text"
    ):
        teach(Unconditional(), words)
    pipelines.stable_diffusion(tmp_path)
    with pytest.raises(
        ValueError, match="but the text encoder of this model takes 64; a word works with the text encoder"
    ):
        load(tmp_path / "pipeline", textual_inversions=[words[0].file])


@pytest.mark.e2e
def test_the_command(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    file = tensors(tmp_path / "toy.safetensors", emb_params=vectors(2))
    given = [f"ckpt={tmp_path}/pipeline", f"textual_inversion={file}", "n=1", "sampler.steps=2", "device=cpu"]
    forked("sample.py", *given, 'prompt="a red toy"', f"out={tmp_path}/a")
    record = json.loads((tmp_path / "a" / "samples.jsonl").read_text())
    assert record["textual_inversion"] == str(file)
    for options, message in (
        (
            ['prompt="a red heart"'],
            "would change nothing: its word 'toy' is in no prompt; write it into prompt= or negative=",
        ),
        (["mode=reconstruct", f"init={tmp_path}/a"], "would change nothing: "),
    ):
        assert message in forked("sample.py", *given, *options, f"out={tmp_path}/b", ok=False)
    assert not (tmp_path / "b").exists()
