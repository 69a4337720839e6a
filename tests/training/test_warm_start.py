"""Laws of warm starts: all that fits is taken bit by bit, and nothing is taken that would mean something else."""

import json
import shutil

import pytest
import torch

from ldm.batch import Batch, Condition
from ldm.checkpoint import load, read, save
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import check_options
from ldm.conditioner.class_names import ClassNames
from ldm.config import build, resolved
from ldm.model import LatentDiffusion
from ldm.training.init_account import INIT_FILE
from ldm.training.warm_start import read_model, take_weights
from tests.conditioner.test_conditioner import CAPTIONS, said, save_pretrained
from tests.conftest import forked, forked_ranks, scramble
from tests.training.stages import built, composed, stages
from tests.training.test_run import TINY, same_weights

OPTIONS = ["experiment=txt2img", "debug=tiny", "trainer=cpu"]


def made(*options, taught=False):
    """Return a tiny model; a taught one has random weights everywhere, a tokenizer and latent statistics."""
    model = build(resolved(composed(*OPTIONS, *options).model))
    if taught:
        model.conditioner.prepare([said(CAPTIONS)])
        scramble(model)
        model.autoencoder.statistics_count.fill_(9)
        model.autoencoder.shift.fill_(0.25)
    return model


def taken(model, earlier, *, new=(), same_autoencoder=True):
    """Give a model the weights of another one, whose autoencoder it has already, as in a run."""
    if same_autoencoder:
        model.autoencoder.load_state_dict(earlier.autoencoder.state_dict())
    return take_weights(model, earlier.state_dict(), "earlier", may_be_new=new)


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def loss_of(model, size=32):
    torch.manual_seed(3)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return model.eval().loss(Batch(["a", "b"], {"image": images, "caption": CAPTIONS[:2]}))


def test_a_model_that_takes_all_is_the_earlier_one_bit_by_bit():
    earlier, later = made(taught=True), made()
    account = taken(later, earlier)
    assert equal_states(later, earlier), "the tokenizer, too"
    assert torch.equal(loss_of(later), loss_of(earlier))
    assert account.misfits() == account.extended == {}
    trained = {name for name, part in earlier.named_parameters() if part.requires_grad}
    assert account.taken.keys() == trained


@pytest.mark.parametrize(
    "options",
    [
        ["data.size=64"],
        ["prediction=flow", "schedule=rectified_flow", "weighting=constant"],
        ["conditioner.drop_rate=0.5", "timestep_sampler=uniform", "+backbone.dropout=0.1"],
    ],
    ids=["size", "prediction", "drop rate"],
)
def test_what_has_no_weights_may_be_another(options):
    earlier, later = made(taught=True), made(*options)
    taken(later, earlier)
    assert equal_states(later, earlier)
    assert loss_of(later, *later.size[:1]).isfinite().all()


def test_added_maps_change_nothing_until_they_are_trained():
    """A text-to-image model becomes one conditioned on depth, too; its text transformer is found under another name."""
    earlier = made(taught=True)
    parts = ["conditioner=text_and_depth", "conditioner@conditioner.parts.text=transformer_icons"]
    later = made(*parts)
    account = taken(later, earlier)
    place = "denoiser.backbone.conv_in.weight"
    assert account.extended == {place: [[16, 4, 3, 3], [16, 5, 3, 3]]}
    assert account.misfits() == {}
    assert later.conditioner.parts["text"].tokenizer.to_str() == earlier.conditioner.tokenizer.to_str()
    condition = earlier.conditioner({"caption": CAPTIONS[:2]})
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    before = earlier.denoiser.predict(x, t, condition)[0]
    text = later.conditioner.parts["text"]({"caption": CAPTIONS[:2]})
    for extra in (torch.zeros(2, 1, 8, 8), torch.randn(2, 1, 8, 8)):
        after = later.denoiser.predict(x, t, Condition(tokens=text.tokens, mask=text.mask, concat=extra))[0]
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"conv_in.weight is \[16, 5, 3, 3\] there and \[16, 4, 3, 3\] here"):
        taken(made(), later)


def test_channels_of_latents_are_no_added_maps():
    earlier = made(taught=True)
    later = made("autoencoder.network.latent_channels=8")
    with pytest.raises(ValueError, match=r"conv_in.weight is \[16, 4, 3, 3\] there and \[16, 8, 3, 3\] here"):
        taken(later, earlier, new=["autoencoder"], same_autoencoder=False)


def test_what_does_not_fit_is_named_and_nothing_is_changed():
    earlier, later = made(taught=True), made("backbone.blocks=2")
    before = {name: value.clone() for name, value in later.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the one that is to be trained") as error:
        taken(later, earlier)
    assert "up.0.stages.1.residual.norm1.weight is [48] there and [64] here" in str(error.value)
    assert "init_new=[denoiser.backbone]" in str(error.value)
    assert len(str(error.value).splitlines()) < 12
    own = {name: value for name, value in later.state_dict().items() if not name.startswith("autoencoder.")}
    assert all(torch.equal(value, before[name]) for name, value in own.items())
    account = taken(later, earlier, new=["denoiser.backbone"])
    assert account.new
    assert account.taken
    assert torch.equal(later.denoiser.backbone.conv_in.weight, earlier.denoiser.backbone.conv_in.weight)
    assert "anew: denoiser.backbone (" in account.summary("diffusion")
    with pytest.raises(ValueError, match="init_new names denoise, which is no part of this model; its parts are cond"):
        taken(later, earlier, new=["denoise"])


def test_a_tokenizer_and_its_embeddings_are_taken_together_or_not_at_all():
    earlier, later = made(taught=True), made("conditioner.vocabulary=600")
    before = {name: value.clone() for name, value in later.conditioner.state_dict().items()}
    with pytest.raises(
        ValueError, match="(?s)embed.weight is .* there and .*belongs to conditioner, which is taken as a wh"
    ):
        taken(later, earlier)
    taken(later, earlier, new=["conditioner"])
    after = later.conditioner.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert later.conditioner.tokenizer is None, "it is learned from the captions of the new run"
    assert torch.equal(later.denoiser.backbone.conv_in.weight, earlier.denoiser.backbone.conv_in.weight)


def test_classes_of_other_names_are_other_classes():
    label = ["conditioner=label", "conditioner.num_classes=3", "conditioner.width=32"]
    earlier = made(*label, "conditioner.names=[cat,dog,cow]", taught=True)
    for names in ("[cat,dog,cow]", "null"):
        later = made(*label, f"conditioner.names={names}")
        taken(later, earlier)
        assert later.conditioner.class_names.names == ("cat", "dog", "cow")
    other = made(*label, "conditioner.names=[cat,dog,ape]")
    with pytest.raises(ValueError, match="class_names._extra_state has the names of other classes"):
        taken(other, earlier)
    taken(other, earlier, new=["conditioner"])
    assert other.conditioner.class_names.names == ("cat", "dog", "ape")
    assert not torch.equal(other.conditioner.embed.weight, earlier.conditioner.embed.weight)
    nameless, named = made(*label, taught=True), made(*label, "conditioner.names=[cat,dog,ape]")
    taken(named, nameless)
    assert named.conditioner.class_names.names == ("cat", "dog", "ape"), "which the earlier model did not say"
    assert torch.equal(named.conditioner.embed.weight, nameless.conditioner.embed.weight)
    assert ClassNames(None, field="label", count=2, exact=True).agrees(
        earlier.conditioner.class_names.get_extra_state()
    )


def test_latents_of_another_encoder_are_other_latents():
    earlier, later = made(taught=True), made()
    with pytest.raises(ValueError, match="belongs to another autoencoder, whose latents are others") as error:
        taken(later, earlier, same_autoencoder=False)
    assert "init_new=[autoencoder]" in str(error.value)
    later.autoencoder.load_state_dict(earlier.autoencoder.state_dict())
    with torch.no_grad():
        later.autoencoder.last_layer().add_(1.0)
    mine = later.autoencoder.last_layer().clone()
    taken(later, earlier, same_autoencoder=False)
    assert torch.equal(later.autoencoder.last_layer(), mine), "a decoder that was fine-tuned goes with the same latents"
    other = made()
    taken(other, earlier, new=["autoencoder"], same_autoencoder=False)
    assert float(other.autoencoder.shift.sum()) == 0.0


def test_a_frozen_text_encoder_must_be_the_same(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        save_pretrained(tmp_path / name, "bert")
    text = ["conditioner=huggingface", "conditioner.width=16", "conditioner.max_tokens=12"]
    models = [made(*text, f"conditioner.name={tmp_path / name}") for name in ("one", "one", "two")]
    for model in models:
        model.conditioner.prepare(None)
    earlier, same, other = models
    scramble(earlier.denoiser)
    account = taken(same, earlier)
    assert equal_states(same, earlier)
    assert not any(name.startswith("conditioner") for name in account.taken), "nothing of it is trained"
    with pytest.raises(ValueError, match="is frozen, and has other values there"):
        taken(other, earlier)


def test_the_statistics_of_an_autoencoder_that_is_trained_further_are_estimated_anew():
    stage = stages(composed(*OPTIONS))["autoencoder"]
    earlier, later = (made(taught=one).autoencoder.requires_grad_(True) for one in (True, False))
    account = take_weights(later, earlier.state_dict(), "earlier", may_be_new=[], never=stage.never_taken)
    assert (int(later.statistics_count), float(later.shift.sum()), float(later.scale.mean())) == (0, 0.0, 1.0)
    own, theirs = dict(later.named_parameters()), dict(earlier.named_parameters())
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert account.misfits() == {}


def test_a_counter_that_the_earlier_codebook_did_not_need_begins_at_zero():
    network = ["autoencoder=vq_icons"]
    earlier = made(*network, taught=True).autoencoder.requires_grad_(True)
    later = made(*network, "autoencoder.network.regularizer.revive_after=5").autoencoder.requires_grad_(True)
    account = take_weights(later, earlier.state_dict(), "earlier", may_be_new=[])
    assert account.misfits() == {}
    assert int(later.regularizer.batches) == 0


@pytest.mark.slow
def test_twice_the_resolution_begins_far_below_random_weights():
    """Squares of one colour in the space of pixels: what was learned at 8 x 8 is of use at 16 x 16."""
    options = ["autoencoder=identity", "conditioner=unconditional", "guidance=none", "weighting=constant"]
    options += ["timestep_sampler=uniform", "backbone.pool_tokens=false"]

    def batch(count, size):
        colours = (torch.rand(count, 3, 1, 1) * 2 - 1).expand(-1, -1, size, size)
        return Batch([""] * count, {"image": colours.contiguous()})

    earlier = made(*options, "data.size=8")
    optimizer = torch.optim.Adam(earlier.denoiser.parameters(), 4e-3)
    for _ in range(200):
        optimizer.zero_grad()
        earlier.loss(batch(16, 8)).mean().backward()
        optimizer.step()
    later, random = made(*options, "data.size=16"), made(*options, "data.size=16")
    taken(later, earlier)
    losses = []
    for model in (later, random):
        torch.manual_seed(7)
        with torch.no_grad():
            losses.append(float(model.eval().loss(batch(256, 16)).mean()))
    assert losses[0] < 0.5 * losses[1], losses


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    whole = made(taught=True)
    config = resolved(composed(*OPTIONS).model)
    save(tmp_path / "run" / "model.safetensors", whole, config)
    save(tmp_path / "first" / "autoencoder.safetensors", whole.autoencoder, config["autoencoder"])
    kind, names = type(whole), ("model.safetensors",)
    file, weights = read_model(str(tmp_path / "run"), kind, names, ["ldm"])
    assert file == tmp_path / "run" / "model.safetensors"
    assert weights.keys() == whole.state_dict().keys()
    both = ("autoencoder.safetensors", "model.safetensors")
    for folder in ("first", "run"):
        _, found = read_model(str(tmp_path / folder), type(whole.autoencoder), both, ["ldm"])
        assert found.keys() == whole.autoencoder.state_dict().keys(), folder
    with pytest.raises(
        ValueError, match="holds ConvAutoencoder, but what is trained is LatentDiffusion; to train on thi"
    ):
        read_model(str(tmp_path / "first" / "autoencoder.safetensors"), kind, names, ["ldm"])
    with pytest.raises(
        FileNotFoundError,
        match=r"what is finished there is autoencoder.safetensors, not the kind of model that is needed",
    ):
        read_model(str(tmp_path / "first"), kind, names, ["ldm"])
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_model(str(tmp_path / "nowhere"), kind, names, ["ldm"])
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_model(str(file), kind, names, ["ldm"])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        read_model(str(tmp_path / "foreign.ckpt"), kind, names, ["ldm"])
    for found, error in (({"_target_": "os.system"}, "asks to construct 'os.system'"), ({}, "does not say what kind")):
        save(tmp_path / "bad.safetensors", torch.nn.Linear(1, 1), found)
        with pytest.raises(ValueError, match=error):
            read_model(str(tmp_path / "bad.safetensors"), kind, names, ["ldm"])


def test_a_decoder_is_not_fine_tuned_from_init():
    config = composed("experiment=finetune_decoder", "data=icons", "autoencoder.ckpt=x", "init=y")
    (stage,) = stages(config).values()
    with pytest.raises(ValueError, match="leave out init"):
        stage.check([])


def test_the_autoencoder_of_the_earlier_model_is_given_where_latents_are_trained():
    both = stages(composed(*OPTIONS, "init=x"))
    assert both["autoencoder"].is_given
    assert both["diffusion"].run.given_autoencoder == "x"
    named = stages(composed(*OPTIONS, "init=x", "autoencoder.ckpt=y"))
    assert named["diffusion"].run.given_autoencoder == "y"
    (alone,) = stages(composed(*OPTIONS, "stage=autoencoder_icons", "init=x")).values()
    assert not alone.is_given


def test_names_of_runs_may_be_swept():
    line = read_command_line("train", ["-m", *OPTIONS, "init=runs/a=1,runs/b", "data.size=48"])
    assert line.is_sweep
    assert check_options("train", line)["init"] == "runs/a=1"
    assert composed(*OPTIONS, "init=2024").init == "2024"


@pytest.mark.e2e
@pytest.mark.parametrize("place", ["", "model.safetensors", "diffusion/checkpoints/step-00000020.ckpt"])
def test_a_stage_begins_with_the_averaged_weights(tiny_run, places, place):
    config = composed(*OPTIONS, f"init={tiny_run / place}", "data.size=48", *places)
    stage = built("diffusion", config, tiny_run.parent / "new")
    earlier = load(tiny_run)
    assert equal_states(stage.task.model, earlier)
    assert torch.equal(loss_of(stage.task.model), loss_of(earlier))
    assert stage.warm_start.misfits() == {}
    assert not (tiny_run.parent / "new").exists()


@pytest.mark.e2e
def test_a_run_that_began_with_an_earlier_model_goes_on_from_its_own_checkpoints(tiny_run, places, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, tmp_path / "earlier")
    options = [*TINY, "name=later", "data.size=48", "stage.diffusion.trainer.max_steps=10", places[0]]
    options += [f"paths.runs_dir={runs}"]
    text = forked(*options, f"init={tmp_path / 'earlier'}")
    assert "the stage diffusion begins with the averaged weights of" in text
    assert "conditioner (17 tensors), denoiser.backbone (" in text
    account = json.loads((runs / "later" / "diffusion" / INIT_FILE).read_text())
    assert account["file"] == str(tmp_path / "earlier" / "model.safetensors")
    assert account["taken"]["denoiser.backbone.conv_in.weight"] == [16, 4, 3, 3]
    assert not (runs / "later" / "autoencoder").exists(), "it is that of the earlier model"
    assert load(runs / "later").autoencoder.same_latents(load(tiny_run).autoencoder)
    shutil.copytree(runs / "later", tmp_path / "whole")
    for name in ("model.safetensors", "diffusion/results.json", "diffusion/checkpoints/step-00000010.ckpt"):
        (runs / "later" / name).unlink()
    (tmp_path / "earlier").rename(tmp_path / "moved")
    text = forked(*options, f"init={tmp_path / 'moved'}")
    assert "continuing diffusion" in text
    assert "begins with" not in text
    assert same_weights(runs / "later" / "model.safetensors", tmp_path / "whole" / "model.safetensors")
    text = forked(*options, f"init={tiny_run}", ok=False)
    assert "init: " in text
    assert "it is still there, so this is another" in text
    assert "init: " in forked(*options, ok=False), "without it, the steps already made would have been others"


@pytest.mark.e2e
def test_an_autoencoder_is_trained_further(tiny_run, places):
    first = [*OPTIONS, "stage=autoencoder_icons", "name=further", "data.size=48", f"init={tiny_run}", *places]
    text = forked("train.py", *first)
    assert f"the stage autoencoder begins with the averaged weights of {tiny_run / 'autoencoder.safetensors'}" in text
    further = read(tiny_run.parent / "further" / "autoencoder.safetensors")[1]
    before = read(tiny_run / "autoencoder.safetensors")[1]
    assert int(further["statistics_count"]) == int(before["statistics_count"])
    assert not torch.equal(further["shift"], before["shift"]), "estimated anew"


@pytest.mark.e2e
def test_mistakes_with_init_end_before_anything_is_written(tiny_run, places, tmp_path):
    for options, message in (
        (["init=/nowhere/at/all"], "no checkpoint at /nowhere/at/all"),
        (
            [f"init={tiny_run / 'autoencoder.safetensors'}"],
            "holds ConvAutoencoder, but what is trained is LatentDiffusion",
        ),
        ([f"init={tiny_run}", "conditioner.width=16"], "does not fit the one that is to be trained"),
        ([f"init={tiny_run}", "init_new=conditioner"], "init_new=conditioner cannot be; give a list of words"),
    ):
        text = forked(*TINY, *options, f"paths.data_dir={tmp_path}/data", f"paths.runs_dir={tmp_path}/runs", ok=False)
        assert message in text
        assert "Traceback" not in text
        assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_two_processes_begin_with_the_same_weights(tiny_run, places, home):
    """With steps of no size the model stays what it began as, on both."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=two-warm", f"init={tiny_run}"]
    still = ["optimizer.lr=1e-12", "trainer.max_steps=3", "data.size=48"]
    forked_ranks(*TINY[:-1], *two, *still, *places)
    later, earlier = load(home / "runs" / "two-warm"), load(tiny_run)
    assert isinstance(later, LatentDiffusion)
    assert later.conditioner.tokenizer.to_str() == earlier.conditioner.tokenizer.to_str()
    for (name, ours), theirs in zip(later.named_parameters(), earlier.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6, msg=name)
