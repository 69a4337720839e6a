"""How the words of a command line reach Hydra, and what folders are called after them."""

import pytest
from omegaconf import OmegaConf

from ldm.config import compose, options_of
from ldm.options.arguments import (
    as_typed,
    command_name,
    is_name,
    is_prose,
    job_name,
    parse_override,
    quote_texts,
    split_values,
)
from tests.cases import mostly_slow


@pytest.mark.parametrize(
    "text",
    ["a cat, a dog: (two) {friends} = [love]", "it's 5 o'clock", "/data/{000..099}.tar", "plain", "50% off"]
    + [
        "[abstract] red",
        '"red" heart',
        "a heart \\",
        "a ${x} heart",
        '["x", "y"]',
        "it\\'s",
        "'a' or 'b'",
        "\\\\' ${y}",
    ],
)
def test_texts_reach_the_config_as_they_were_typed(text):
    config = compose("sample", ["ckpt=x", f"prompt={text}"])
    assert config.prompt == text
    assert quote_texts(quote_texts([f"prompt={text}"])) == quote_texts([f"prompt={text}"])


def test_lists_and_other_options_are_left_to_hydra():
    arguments = ["seed=1,2", "data.train=['/a/{0..1}.tar','/b.tar']", "prompt='quoted already'", "prompts=null"]
    assert quote_texts(arguments) == arguments


NAMES = [
    "Ночной запуск",
    "a=b",
    "my data (1)",
    "[2023]",
    "{a}",
    "/home/Ива́н/ab, c",
    "2024",
    "it's",
    "日本",
    "[a",
    "x\\",
]


@pytest.mark.parametrize("text", mostly_slow(NAMES, ["a=b", "[2023]", "it's", "/home/Ива́н/ab, c"]))
def test_names_and_folders_may_have_any_letters(text):
    options = ["name", "paths.data_dir", "paths.runs_dir", "paths.output_dir", "data.cache", "autoencoder.ckpt"]
    options += ["data.source.folder", "conditioner.name", "logger.wandb.project", "metric.fid.extractor.weights"]
    groups = ["experiment=txt2img", "conditioner=huggingface", "logger=wandb", "metric=fid"]
    config = compose("train", [*groups, *(f"{option}={text}" for option in options)])
    assert [OmegaConf.select(config, option) for option in options] == [text] * len(options)
    pack = ["images", "captions", "out", "image_column", "caption_column"]
    config = compose("pack", [f"{option}={text}" for option in pack])
    assert [OmegaConf.select(config, option) for option in pack] == [text] * len(pack)
    assert compose("ema", [f"run={text}", "length=0.1"]).run == text
    encode = compose("encode", [f"out={text}", "autoencoder.ckpt=a", f"data.train={text}/a.tar", "data.val=b"])
    assert (encode.out, encode.data.train) == (text, f"{text}/a.tar")


@pytest.mark.parametrize("folder", ["mine", "Мои данные", "a=b"])
def test_folders_may_be_interpolated(folder):
    config = compose("train", ["experiment=txt2img", f"data.cache=${{paths.data_dir}}/{folder}"])
    assert config.data.cache == f"data/{folder}"


def test_names_of_jobs_are_safe_and_differ():
    assert job_name(["seed=1", "lr=0.001"]) == "lr=0.001,seed=1" == job_name(["lr=0.001", "seed=1"])
    assert job_name([]) == "defaults"
    many = [job_name([f"data.train='/a b/{{0..{number}}}.tar'", "x=" + 300 * "ы"]) for number in range(20)]
    assert len(set(many)) == 20
    assert job_name(["a=b/c"]) != job_name(["a=b-c"]) != job_name(["a='b-c'"])
    for name in many:
        assert len(name.encode()) < 200
        assert "/" not in name
        assert " " not in name


SWEPT = [
    ("autoencoder.ckpt=runs/a,runs/b", ["runs/a", "runs/b"]),
    ("conditioner.name=x,y", ["x", "y"]),
    ("data.train=/a/{0..1}.tar,/b/{2,3}.tar", ["/a/{0..1}.tar", "/b/{2,3}.tar"]),
    ("out=Мои/1,Мои/2", ["Мои/1", "Мои/2"]),
    ("name=1,2", ["1", "2"]),
    ('prompt=choice("a red, big {cat}","it\'s b")', ["a red, big {cat}", "it's b"]),
    ("prompt='a','b, c'", ["a", "b, c"]),
    ("ckpt='a,b',c", ["a,b", "c"]),
    ("seed=range(1,3)", [1, 2]),
]


@pytest.mark.parametrize(("option", "values"), SWEPT, ids=[option for option, _ in SWEPT])
def test_every_option_can_be_swept(option, values):
    (argument,) = quote_texts([option], sweep=True)
    assert quote_texts([argument], sweep=True) == [argument]
    jobs = [f"x={value}" for value in parse_override(argument).sweep_string_iterator()]
    assert [parse_override(job).value() for job in jobs] == values


@pytest.mark.parametrize("option", ["prompt=a cat, a dog", "ckpt=/data/a{1,2}", "prompt=it's, well"])
def test_one_text_in_a_sweep_stays_one(option):
    (argument,) = quote_texts([option], sweep=True)
    assert not parse_override(argument).is_sweep_override()
    assert parse_override(argument).value() == option.partition("=")[2]


def test_what_hydra_reads_is_hydras():
    for option in ("ckpt=${oc.env:HOME}/x", "ckpt='a,b'", "data.train=[/a/1.tar,/b.tar]", "name=null"):
        assert quote_texts([option]) == [option]
    assert quote_texts(["data.train=[/a/{0..1}.tar,/b.tar]"]) == ["data.train=['/a/{0..1}.tar',/b.tar]"]
    assert quote_texts(["lora=[a=b.safetensors,c d.safetensors]"]) == ["lora=['a=b.safetensors',c d.safetensors]"]
    assert quote_texts(["name=2024", "ckpt=1e3"]) == ["name='2024'", "ckpt='1e3'"]
    assert quote_texts(["ckpt=a,b"]) == ["ckpt='a,b'"], "of which there are two only in a sweep"


def test_only_options_of_texts_are_quoted():
    """A number, say, of a name in the lists would become a text."""
    groups = ["conditioner=huggingface", "logger=wandb", "metric=fid", "alignment=repa"]
    for name in ("train", "sample", "pack", "ema", "encode"):
        config = compose(name, ["experiment=txt2img", *groups] if name == "train" else [])
        for option, value in options_of(config).items():
            if not isinstance(value, dict) and (is_name(option) or is_prose(option)):
                assert value is None or isinstance(value, str), option


def test_what_was_typed_is_shown_without_our_quotes():
    for option in ("data.train=/a/{0..1}.tar", "name=2024", "seed=1", "ckpt=a,b", "name=a b"):
        assert as_typed(quote_texts([option])[0]) == option


def test_values_are_split_outside_of_brackets_and_quotes():
    assert split_values("a,{b,c}, [d,e] ,'f,g',it's,h") == ["a", "{b,c}", "[d,e]", "'f,g'", "it's", "h"]


def test_commands_are_named_as_the_program_was_begun(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "train.py").touch()
    begun = [
        ("checkout", "train.py", "python train.py"),
        ("checkout", "/usr/bin/ldm-sample", "ldm-train"),
        ("checkout", "/somewhere/ldm/ema/__main__.py", "python train.py"),
        (".", f"{tmp_path}/checkout/sample.py", "python checkout/train.py"),
        (".", "/somewhere/ldm/ema/__main__.py", "ldm-train"),
    ]
    for folder, program, name in begun:
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setattr("sys.argv", [program])
        assert command_name("train") == name
