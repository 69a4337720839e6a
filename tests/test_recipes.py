"""Every experiment has the parameters and operations that were counted, and a batch that processes can share."""

from typing import NamedTuple

import pytest

from ldm.config import CONFIGS
from ldm.plan.build import make_workload
from ldm.plan.operations import count_operations
from ldm.training.validate import check_batches, leave_out_leftovers
from tests import test_config
from tests.training.stages import stages


class Recipe(NamedTuple):
    """What was counted of a stage: parameters, trained and frozen, and operations of an image, forward and backward.

    Images are encoded in each step. The first stage has its discriminator. The vision encoder of an alignment is not counted.
    """

    trained: int
    frozen: int
    forward: int
    backward: int


RECIPES = {
    ("autoencoder", "autoencoder"): Recipe(86_419_496, 14_716_160, 1_018_941_767_680, 1_883_037_433_856),
    ("autoencoder_paper", "autoencoder"): Recipe(86_419_496, 14_716_160, 1_018_941_767_680, 1_883_037_433_856),
    ("bsr_sr", "diffusion"): Recipe(113_622_563, 55_322_782, 425_699_991_552, 160_854_138_880),
    ("celeba256", "diffusion"): Recipe(274_056_163, 55_322_782, 547_637_493_760, 404_750_180_352),
    ("cin256", "diffusion"): Recipe(395_496_708, 67_717_295, 340_187_971_584, 228_135_010_304),
    ("cin256_classifier", "classifier"): Recipe(112_587_240, 67_717_295, 251_504_873_472, 50_768_814_080),
    ("cin256_v2", "diffusion"): Recipe(401_433_091, 55_322_782, 553_691_750_400, 416_865_878_016),
    ("class_icons", "diffusion"): Recipe(2_340_116, 409_863, 127_832_064, 184_006_656),
    ("classifier", "classifier"): Recipe(389_792, 409_863, 47_026_432, 22_479_360),
    ("depth2img", "diffusion"): Recipe(865_913_604, 424_041_703, 1_966_066_757_632, 1_604_507_238_400),
    ("depth_icons", "diffusion"): Recipe(1_576_516, 409_863, 108_668_928, 145_625_088),
    ("ffhq256", "diffusion"): Recipe(274_056_163, 55_322_782, 547_637_493_760, 404_750_180_352),
    ("finetune", "diffusion"): Recipe(859_520_964, 206_714_343, 1_933_230_411_776, 1_603_499_622_400),
    ("finetune_decoder", "autoencoder"): Recipe(52_255_832, 48_879_824, 1_018_941_767_680, 1_338_046_054_400),
    ("finetune_lora", "diffusion"): Recipe(3_188_736, 1_066_235_307, 1_937_787_944_960, 916_697_309_184),
    ("image_variation", "diffusion"): Recipe(859_520_964, 387_620_071, 2_075_532_296_192, 1_593_563_054_080),
    ("inpainting_big", "diffusion"): Recipe(387_245_827, 53_219_486, 905_436_086_272, 601_588_498_432),
    ("inpainting_icons", "diffusion"): Recipe(1_578_244, 409_863, 144_599_040, 145_846_272),
    ("label_classifier", "classifier"): Recipe(385_632, 409_863, 47_018_240, 22_462_976),
    ("layout2img_openimages", "diffusion"): Recipe(300_933_379, 55_322_782, 506_019_651_584, 321_536_000_000),
    ("layout_icons", "diffusion"): Recipe(2_742_628, 409_863, 157_915_136, 244_172_800),
    ("lsun_beds256", "diffusion"): Recipe(274_056_163, 55_322_782, 547_637_493_760, 404_750_180_352),
    ("lsun_churches256", "diffusion"): Recipe(294_966_916, 83_653_863, 314_569_342_976, 83_679_903_744),
    ("mlperf_sd", "diffusion"): Recipe(865_910_724, 424_041_703, 1_966_043_164_672, 1_604_483_645_440),
    ("retrieval_augmented", "diffusion"): Recipe(1_335_480_400, 69_610_963, 1_965_171_720_192, 1_389_515_309_056),
    ("retrieval_icons", "diffusion"): Recipe(3_437_716, 409_863, 147_959_808, 204_109_824),
    ("segmentation_icons", "diffusion"): Recipe(1_579_612, 409_863, 109_056_000, 146_675_712),
    ("semantic_synthesis256", "diffusion"): Recipe(215_229_861, 55_322_782, 552_867_799_040, 415_260_606_464),
    ("semantic_synthesis512", "diffusion"): Recipe(215_229_861, 55_322_782, 2_626_975_465_472, 1_667_417_636_864),
    ("stable_diffusion_1", "diffusion"): Recipe(859_520_964, 206_714_343, 1_933_230_411_776, 1_603_499_622_400),
    ("stable_diffusion_2", "diffusion"): Recipe(865_910_724, 424_041_703, 1_966_043_164_672, 1_604_483_645_440),
    ("super_resolution_icons", "diffusion"): Recipe(1_577_380, 409_863, 108_779_520, 145_735_680),
    ("text2img256", "diffusion"): Recipe(570_214_019, 55_322_782, 579_681_460_224, 468_845_297_664),
    ("txt2img", "autoencoder"): Recipe(409_863, 0, 134_203_392, 267_522_048),
    ("txt2img", "diffusion"): Recipe(2_662_548, 409_863, 135_057_408, 198_457_344),
    ("txt2img_1p4b", "diffusion"): Recipe(1_415_195_844, 83_653_863, 532_695_957_504, 519_923_171_328),
    ("txt2img_modern", "autoencoder"): Recipe(86_586_644, 14_716_160, 1_019_283_963_904, 1_883_721_826_304),
    ("txt2img_modern", "diffusion"): Recipe(865_979_856, 425_052_115, 532_280_508_416, 361_624_207_360),
    ("txt2img_modern_512", "autoencoder"): Recipe(86_586_644, 14_716_160, 4_132_373_463_040, 7_639_023_091_712),
    ("txt2img_modern_512", "diffusion"): Recipe(865_979_856, 425_052_115, 2_001_983_897_600, 1_611_504_517_120),
    ("txt2img_shards", "autoencoder"): Recipe(86_419_496, 14_716_160, 1_018_941_767_680, 1_883_037_433_856),
    ("txt2img_shards", "diffusion"): Recipe(314_140_228, 206_714_343, 353_629_687_808, 133_432_344_576),
    ("variation_icons", "diffusion"): Recipe(2_495_764, 5_061_871, 190_838_528, 184_334_336),
}
"""Experiment and stage -> what it was counted to be."""

USUAL = ("autoencoder", "txt2img", "txt2img_shards", "txt2img_modern")
"""Experiments that are counted in every run of the tests; the others, some seconds each, among the long ones."""

PROCESSES = (1, 2, 4, 8, 16)
"""Numbers of processes by which the batch of each recipe can be shared."""

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def stages_of(experiment):
    given = ["autoencoder.ckpt=none"] if experiment == "finetune_decoder" else []
    config = test_config.composed(experiment, *given)
    leave_out_leftovers(config, [])
    return stages(config)


def test_each_experiment_is_in_the_table():
    assert {experiment for experiment, _ in RECIPES} == set(EXPERIMENTS)


@pytest.mark.parametrize(
    ("experiment", "stage"),
    [
        pytest.param(*recipe, marks=pytest.mark.slow if recipe[0] in USUAL else pytest.mark.long, id="-".join(recipe))
        for recipe in RECIPES
    ],
)
def test_a_recipe_has_the_parameters_and_operations_that_were_counted(experiment, stage):
    workload = make_workload(stages_of(experiment)[stage], "meta", cached=False)
    counts = [0, 0]
    for part in workload.task.parameters():
        counts[not part.requires_grad] += part.numel()
    found = count_operations(workload)
    assert Recipe(*counts, sum(found.forward.values()), found.backward) == RECIPES[experiment, stage]
    assert all(said.startswith("the alignment") for said in workload.missing)


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=() if name == "txt2img" else pytest.mark.slow) for name in EXPERIMENTS]
)
def test_the_batch_of_a_recipe_can_be_shared(experiment):
    made = list(stages_of(experiment).values())
    for processes in PROCESSES:
        check_batches(made, processes)


@pytest.mark.slow
def test_stable_diffusion_2_computes_what_others_counted():
    """The tables of MLPerf Training count 2.41 TFLOP an image for this U-Net, forward and backward, at 512 x 512."""
    workload = make_workload(stages_of("stable_diffusion_2")["diffusion"], "meta", cached=True)
    found = count_operations(workload)
    assert found.forward["network"] + found.backward == pytest.approx(2.41e12, rel=0.002)
