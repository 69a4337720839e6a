"""The benchmarks run; what they measure is for people to read."""

from tests.benchmarks import latents, loader


def test_loader(tmp_path, capsys):
    loader.compare(tmp_path / "x", "small", 320, (16, 16), 16, "png", rounds=1)
    text = capsys.readouterr().out
    assert "plain loop" in text
    assert "ours, 2 workers" in text
    assert "webdataset, 2 workers" in text


def test_latents(tmp_path, capsys):
    latents.measure("small", tmp_path, ["debug=tiny"], steps=1)
    assert "x as long as one from latents" in capsys.readouterr().out
