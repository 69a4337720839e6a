import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoint import AUTOENCODER_FILE, MODEL_FILE, find, load, load_autoencoder, read
from ldm.config import build_trusted
from ldm.files.picture import to_levels
from ldm.interop.foreign import CONFIG_KEY

PROMPTS = ["a red heart on a white background", "a blue cat on a black background", "a green dog on a gray background"]


@pytest.mark.e2e
def test_a_moved_checkpoint_is_complete(tiny_run, tmp_path):
    moved = shutil.copy(tiny_run / MODEL_FILE, tmp_path / "elsewhere.safetensors")
    first, second = (load(path).sample(prompts=PROMPTS) for path in (tiny_run, moved))
    assert first.shape == (3, 3, 32, 32)
    assert torch.equal(first, second)


@pytest.mark.e2e
def test_lightning_checkpoint_loads_its_averaged_weights(tiny_run):
    file = tiny_run / "diffusion" / "checkpoints" / "step-00000020.ckpt"
    _, weights = read(file)
    raw = torch.load(file, weights_only=True)
    name = "denoiser.backbone.conv_in.weight"
    assert torch.equal(weights[name], raw["state_dict"][f"model.{name}"])
    assert not torch.equal(weights[name], raw["current_model_state"][f"model.{name}"])
    assert load(file).sample(prompts=PROMPTS[:1]).isfinite().all()


@pytest.mark.e2e
def test_an_image_depends_on_its_seed_and_prompt_alone(tiny_run):
    model = load(tiny_run)
    together = to_levels(model.sample(prompts=PROMPTS, seeds=[5, 6, 7], batch_size=3)).int()
    for place in (2, 0, 1):
        alone = to_levels(model.sample(prompts=[PROMPTS[place]], seeds=[5 + place])).int()
        assert (alone[0] - together[place]).abs().max() <= 2
    assert torch.equal(model.sample(prompts=PROMPTS, seeds=[5, 6, 7]), model.sample(prompts=PROMPTS, seeds=[5, 6, 7]))
    assert not torch.equal(model.sample(prompts=PROMPTS[:1], seeds=[1]), model.sample(prompts=PROMPTS[:1], seeds=[2]))
    with pytest.raises(ValueError, match="3 prompts and 1 seeds"):
        model.sample(prompts=PROMPTS, seeds=[0])


@pytest.mark.e2e
def test_autoencoder_has_statistics_and_keeps_them_in_stage_two(tiny_run):
    network, config = load_autoencoder(tiny_run)
    assert int(network.statistics_count) > 0
    assert not torch.equal(network.scale, torch.ones_like(network.scale))
    model = load(tiny_run)
    assert torch.equal(model.autoencoder.scale, network.scale)
    assert config["_target_"] == "ldm.autoencoder.convolutional.ConvAutoencoder"
    with pytest.raises(ValueError, match="has no latent statistics"):
        load_autoencoder(tiny_run / "autoencoder" / "checkpoints" / "step-00000020.ckpt")


@pytest.mark.e2e
def test_cached_latents_give_the_loss_of_images(tiny_run):
    from ldm.batch import Batch

    model = load(tiny_run)
    image = torch.rand(4, 3, 32, 32) * 2 - 1
    moments = model.autoencoder.encode(image).moments
    losses = []
    for batch in (
        Batch(["k"] * 4, {"caption": ["a red heart"] * 4, "image": image}),
        Batch(["k"] * 4, {"caption": ["a red heart"] * 4, "moments": moments}),
    ):
        torch.manual_seed(3)
        losses.append(model.loss(batch))
    torch.testing.assert_close(losses[0], losses[1])


class Evil:
    def __reduce__(self):
        return (print, ("code from a file was run",))


def test_nothing_from_a_file_is_run(tmp_path, capsys):
    torch.save({"state_dict": {}, CONFIG_KEY: Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil", "pickle"):
        with pytest.raises(ValueError, match="not a checkpoint that can be loaded safely"):
            load(tmp_path / f"{name}.ckpt")
    for target in (
        "os.system",
        "ldm.checkpoint.torch.load",
        "ldm.checkpoint.load",
        "builtins.eval",
        "ldm.data.sources.icons.io.open",
    ):
        save_file(
            {"x": torch.ones(1)},
            tmp_path / "evil.safetensors",
            metadata={CONFIG_KEY: json.dumps({"_target_": target, "_args_": ["id"]})},
        )
        with pytest.raises(ValueError, match="asks to construct"):
            load(tmp_path / "evil.safetensors")
    assert "code from" not in capsys.readouterr().out


def test_trusted_packages_can_be_named():
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    with pytest.raises(ValueError, match="which is no class of ldm"):
        build_trusted({"x": [node]})
    assert build_trusted(node, ("ldm", "torch")).out_features == 3


def unfinished(folder, stage, step, kind):
    """Write a checkpoint of a stage that says what kind of model it holds."""
    file = folder / stage / "checkpoints" / f"step-{step}.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({CONFIG_KEY: {"_target_": kind}}, file)


def test_what_else_lies_in_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"below .*; give a run folder or a .safetensors or .ckpt file$"):
        find(tmp_path)
    unfinished(tmp_path, "autoencoder", 2, "ldm.autoencoder.convolutional.ConvAutoencoder")
    with pytest.raises(FileNotFoundError, match="its checkpoints are not of the kind that is needed here$"):
        find(tmp_path)
    with pytest.raises(FileNotFoundError, match="its checkpoints are not of the kind that is needed here$"):
        load_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the run has not ended, but .*step-2\.ckpt can be given as it is"):
        load_autoencoder(tmp_path, finished=False)
    (tmp_path / AUTOENCODER_FILE).touch()
    with pytest.raises(
        FileNotFoundError,
        match="what is finished there is autoencoder.safetensors, not the kind of model that is needed here",
    ):
        find(tmp_path)
    (tmp_path / MODEL_FILE).touch()
    with pytest.raises(
        FileNotFoundError, match="is finished there is model.safetensors and autoencoder.safetensors, not"
    ):
        find(tmp_path, ("classifier.safetensors",))
    (tmp_path / MODEL_FILE).unlink()
    unfinished(tmp_path, "diffusion", 1, "ldm.model.LatentDiffusion")
    with pytest.raises(FileNotFoundError, match=r"the run has not ended, but .*step-1\.ckpt can be given"):
        find(tmp_path)


def test_what_is_no_checkpoint_is_said_in_plain_words_and_what_is_meant_is_guessed(tmp_path):
    (tmp_path / "README.md").write_text("# A project")
    with pytest.raises(
        ValueError, match=r"README.md is not a checkpoint .*it is a file of another kind; give a run"
    ) as error:
        load(tmp_path / "README.md")
    assert "mmap" not in str(error.value)
    (tmp_path / "txt2img").mkdir()
    (tmp_path / "txt2img" / "config.yaml").touch()
    (tmp_path / "step-00000020.ckpt").touch()
    for typed, meant in (("txt2im", "txt2img"), ("step-0000020.ckpt", "step-00000020.ckpt")):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at .*{typed}; there is .*{meant}$"):
            load(tmp_path / typed)


@pytest.mark.e2e
def test_errors_say_what_got_do(tmp_path, tiny_run):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere; give a run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        load(tmp_path)
    (tmp_path / "half.safetensors").write_bytes((tiny_run / MODEL_FILE).read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load(tmp_path / "half.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not the config of a model"):
        load(tmp_path / "foreign.safetensors")
    alone = tmp_path / "autoencoder.safetensors"
    alone.write_bytes((tiny_run / "autoencoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match=f"not a latent diffusion model; .* beside it: ckpt={tiny_run}$"):
        load(tiny_run / "autoencoder.safetensors")
    own = rf"experiment=txt2img_shards autoencoder.ckpt={alone} data.train=\.\.\. data.val=\.\.\., or for the embedded icons"
    with pytest.raises(
        ValueError, match=f"not a latent diffusion model; .*{own} .*experiment=txt2img autoencoder.ckpt={alone}$"
    ):
        load(alone)
