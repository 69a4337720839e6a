"""Files of statistics: ours and those of others come back as they were, and all else is refused with what was found."""

import numpy as np
import pytest
import torch

from ldm.files.picture import to_levels
from ldm.metric.reference_file import npz_images, read_reference, write_statistics
from ldm.metric.statistics import Reference, ReferenceBuilder, Statistics, evenly_spaced
from tests.metric.test_metric import Pixels
from tests.second_device import second_device

FEATURES = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
STATISTICS = Statistics.of(FEATURES)


class Stranger:
    """An object that a file of numbers does not hold."""


def images(count=9):
    return torch.randint(
        0, 256, (count, 5, 6, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    ).numpy()


def same(found, expected):
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.covariance, expected.covariance)


def read(file, **options):
    return read_reference(file, Pixels(), **options)


def test_our_own_file_comes_back_whole(tmp_path):
    file = tmp_path / "a.safetensors"
    Reference(STATISTICS, FEATURES[:7]).write(file, "pixels")
    found = read(file)
    same(found.statistics, STATISTICS)
    assert found.statistics.count == 20
    assert torch.equal(found.features, FEATURES[:7])
    with pytest.raises(ValueError, match="was made with pixels, not with others"):
        Reference.read(file, "others")


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_statistics_that_are_written_for_others_are_theirs_and_come_back(tmp_path, ending):
    file = tmp_path / "new" / f"a.{ending}"
    write_statistics(file, STATISTICS)
    if ending == "npz":  # as pytorch-fid and clean-fid read them
        with np.load(file) as theirs:
            assert set(theirs.files) == {"mu", "sigma"}
            assert np.array_equal(theirs["sigma"], STATISTICS.covariance.numpy())
    else:  # as torch-fidelity reads its cache
        theirs = torch.load(file, weights_only=False)
        assert np.array_equal(theirs["mu"], STATISTICS.mean.numpy())
    found = read(file)
    same(found.statistics, STATISTICS)
    assert found.statistics.count is found.features is None
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="nothing was changed"):
        write_statistics(file, Statistics.of(FEATURES[:5]))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_clean_fids_features_give_statistics_and_features(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", feats=FEATURES.numpy())
    found = read(tmp_path / "a.npz", real_features=5)
    same(found.statistics, STATISTICS)
    assert torch.equal(found.features, FEATURES[::4])
    assert read(tmp_path / "a.npz").features is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_adms_file_has_statistics_and_its_images_give_features(tmp_path, save):
    file = tmp_path / "a.npz"
    levels = images()
    mean, covariance = STATISTICS.mean.numpy(), STATISTICS.covariance.numpy()
    save(file, arr_0=levels, mu=mean, sigma=covariance, mu_s=np.zeros(7), sigma_s=np.eye(7))
    found = read(file, real_features=3, batch_size=2)
    same(found.statistics, STATISTICS)
    expected = torch.from_numpy(levels[[0, 3, 6], 0, 0]).float() / 127.5 - 1
    torch.testing.assert_close(found.features, expected)
    assert read(file).features is None, "images are not looked at where nobody asks for them"
    assert np.array_equal(torch.cat([to_levels(part) for part in npz_images(file, 4)]).permute(0, 2, 3, 1), levels)


def test_statistics_for_adm_have_those_of_sfid_which_come_back(tmp_path):
    class Places(Pixels):
        num_features = 4
        statistics_names = ("mu_s", "sigma_s")

    file, spatial = tmp_path / "adm.npz", Statistics.of(torch.randn(9, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"ADM's .npz alone"):
        write_statistics(tmp_path / "a.pt", STATISTICS, spatial=spatial)
    write_statistics(file, STATISTICS, spatial=spatial)
    with np.load(file) as theirs:
        assert set(theirs.files) == {"mu", "sigma", "mu_s", "sigma_s"}
    same(read(file).statistics, STATISTICS)
    same(read_reference(file, Places()).statistics, spatial)
    write_statistics(tmp_path / "plain.npz", STATISTICS)
    with pytest.raises(ValueError, match="but no statistics; known are"):
        read_reference(tmp_path / "plain.npz", Places())


def test_images_alone_give_their_own_statistics(tmp_path):
    levels = images()
    np.savez(tmp_path / "a.npz", levels)
    found = read(tmp_path / "a.npz", batch_size=4)
    same(found.statistics, Statistics.of(torch.from_numpy(levels[:, 0, 0]).float() / 127.5 - 1))
    assert found.statistics.count == 9


def broken(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


MEAN, COVARIANCE = np.zeros(3), np.eye(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing, but no statistics; known are"),
        ({"mu": MEAN}, "holds mu, but no statistics"),
        ({"labels": MEAN}, "holds labels, but no statistics"),
        ({"mu": MEAN, "sigma": np.eye(2)}, r"mu \(3,\) float64 and sigma \(2, 2\) float64"),
        ({"mu": MEAN[None], "sigma": COVARIANCE}, r"mu \(1, 3\) float64"),
        ({"mu": MEAN.astype(int), "sigma": COVARIANCE}, r"mu \(3,\) int64"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, "statistics of 4 features, but pixels gives 3"),
        ({"mu": MEAN, "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"mu": MEAN * np.nan, "sigma": COVARIANCE}, "not finite"),
        ({"feats": np.zeros(5)}, r"feats \(5,\) float64"),
        ({"arr_0": images().astype(np.float32)}, r"arr_0 \(9, 5, 6, 3\) float32"),
        ({"arr_0": images().transpose(0, 3, 1, 2).copy()}, r"arr_0 \(9, 3, 5, 6\) uint8"),
    ],
)
def test_what_else_a_file_holds_is_said(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read(broken(tmp_path, **arrays))


def test_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.array([Stranger()], dtype=object), sigma=COVARIANCE)
    torch.save({"mu": Stranger(), "sigma": COVARIANCE}, tmp_path / "a.pt")
    torch.save({"mean": MEAN}, tmp_path / "b.pt")
    for name, message in {
        "a.npz": "no .npz of numbers",
        "a.pt": "other things than numbers",
        "b.pt": "no mu and sigma",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)


def test_files_that_are_missing_cut_off_or_of_another_ending_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no reference statistics at"):
        read(tmp_path / "none.npz")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match="unknown layout"):
        read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="only .npz and .pt are known"):
        write_statistics(tmp_path / "b.csv", STATISTICS)
    whole = broken(tmp_path, mu=MEAN, sigma=COVARIANCE).read_bytes()
    np.save(tmp_path / "b.npy", MEAN)
    for content in (whole[:-30], b"", (tmp_path / "b.npy").read_bytes()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match="no .npz of numbers"):
            read(tmp_path / "a.npz")


def test_parts_of_several_processes_are_put_together():
    """Means and scatters of parts of any size give those of the whole, also far from zero."""
    features = 1e3 + torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    parts = [ReferenceBuilder(Pixels(), range(0, 50, 10)) for _ in range(3)]
    for part, (first, last) in zip(parts, ((0, 1), (1, 30), (30, 50)), strict=True):
        for number in range(first, last, 7):
            rows = range(number, min(number + 7, last))
            part.add(features[list(rows)], rows)
    count = sum(part.count for part in parts)
    mean = sum(part.count * part.mean for part in parts) / count
    scatter = sum(part.scatter_about(mean) for part in parts)
    whole = Statistics.of(features)
    torch.testing.assert_close(mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(scatter / (count - 1), whole.covariance, rtol=1e-9, atol=1e-12)
    expected = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(whole.covariance.numpy(), expected, rtol=1e-9)
    assert [part.store.numbers.tolist() for part in parts] == [[0], [10, 20], [30, 40]]
    empty = ReferenceBuilder(Pixels())
    empty.add(torch.empty(0, 3), [])
    with pytest.raises(ValueError, match="needs two real images or more, got 0"):
        empty.reference()


def test_images_of_another_device_are_collected_there():
    real = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    here = ReferenceBuilder(Pixels(), [2, 5])
    here.update(real, range(7))
    with second_device() as device:
        there = ReferenceBuilder(Pixels(), [2, 5])
        for rows in (range(4), range(4, 7)):
            there.update(real[list(rows)].to(device), rows)
        found = there.reference()
    same(found.statistics, here.reference().statistics)
    assert torch.equal(found.features, here.reference().features)


def test_numbers_are_spread_evenly():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 9) == [0, 1, 2]
    assert evenly_spaced(5, 0) == []
