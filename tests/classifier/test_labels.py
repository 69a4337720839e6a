"""The classifier of classes: what it predicts, what it is trained on, and what it refuses."""

import re
import shlex

import pytest
import torch

from ldm.batch import Batch
from ldm.classifier.label_classifier import LabelClassifier
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import check_options
from ldm.task.classifier import recall
from tests.classifier.small import check_exact, small, train_to_tell
from tests.conftest import scramble

X, T = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.5, 0.9])


def labels(count=5, **options):
    return small(LabelClassifier, own={"num_classes": count}, **options)


@pytest.fixture
def classifier():
    made = labels()
    scramble(made.network)
    scramble(made.head)
    return made.eval()


def test_before_training_all_classes_are_equally_likely():
    log_p = [labels().log_likelihood(X, T, {"label": [number] * 3}) for number in range(5)]
    torch.testing.assert_close(torch.stack(log_p), torch.full((5, 3), 0.2).log())


def test_the_classes_of_an_image_are_one_of_all(classifier):
    each = torch.stack([classifier.log_likelihood(X, T, {"label": [number] * 3}) for number in range(5)])
    torch.testing.assert_close(each.exp().sum(0), torch.ones(3))
    assert each.std(0).min() > 0.01
    mixed = classifier.log_likelihood(X, T, {"label": torch.tensor([4, 0, 2]), "caption": ["", "", ""]})
    torch.testing.assert_close(mixed, each[[4, 0, 2], [0, 1, 2]])


def test_the_loss_is_the_likelihood_of_the_right_class(classifier):
    batch = Batch(["a", "b", "c"], {"label": torch.tensor([1, 1, 3]), "image": X})
    torch.manual_seed(0)
    losses = classifier.loss(batch)
    torch.manual_seed(0)
    x = classifier.autoencoder.latent(batch)
    t = classifier.timestep_sampler.sample(3, classifier.schedule, x.device)
    torch.testing.assert_close(losses, -classifier.log_likelihood(classifier.noisy(x, t), t, batch.fields))


def test_of_one_right_answer_an_image_the_recall_is_the_accuracy(classifier):
    targets = classifier.targets({"label": [0, 1, 4]})
    logits = torch.tensor([[3.0, 1, 2, 0, 0], [3, 1, 2, 0, 0], [1, 2, 3, 4, 5]])
    assert float(recall(logits, targets)) == pytest.approx(2 / 3)


def test_a_gradient_reaches_the_latents_and_all_that_is_trained(classifier):
    x = X.clone().requires_grad_()
    classifier.log_likelihood(x, T, {"label": [0, 1, 2]}).sum().backward()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()
    trained = [p for p in classifier.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert classifier.autoencoder.weight.grad is None


@pytest.mark.parametrize("count", [1, 0, True, 2.5])
def test_fewer_than_two_classes_are_refused(count):
    with pytest.raises(ValueError, match=r"model.num_classes=\S+ cannot be; give a whole number, at least 2"):
        labels(count)


def test_a_class_that_there_is_not_is_refused_by_the_name_of_its_sample(classifier):
    with pytest.raises(
        ValueError,
        match="label of the sample 'b' has the value 5, but with model.num_classes=5 values are 0 to 4; mend it, or",
    ):
        classifier.reader.check({"label": torch.tensor([4, 5])}, ["a", "b"])


@pytest.mark.e2e
def test_trained_on_a_mixture_of_gaussians_it_gives_the_exact_probabilities():
    """Each number of a latent is from N(m, v) in class 1, from N(-m, v) in class 0."""
    made = labels(2, channel_mult=[1], attention_levels=[])
    train_to_tell(made, lambda signs: {"label": (signs + 1) // 2})
    check_exact(lambda logits: logits.softmax(1)[:, 1], made)


def test_what_is_proposed_composes_on_anybodys_data_as_on_the_icons():
    text = LabelClassifier.how_to_train("autoencoder.ckpt='my run'").replace("=...", "=32")
    own, icons = re.findall(r"python train\.py (experiment=label_classifier .*?)(?:, or|$)", text)
    configs = [check_options("train", read_command_line("train", shlex.split(typed))) for typed in (own, icons)]
    assert [config.hydra.runtime.choices["data"] for config in configs] == ["shards", "icons"]
    assert [config.model.num_classes for config in configs] == [1000, 64]
    assert configs[0].stage.classifier.trainer.max_steps > configs[1].stage.classifier.trainer.max_steps
