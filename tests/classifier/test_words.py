"""The classifier of words: Bayes' rule, what a prompt means, what it is trained on, and whom it may guide."""

import json
import re
import shlex

import pytest
import torch
import torch.nn.functional as F

from ldm.batch import Batch
from ldm.classifier.caption_classifier import CaptionClassifier
from ldm.classifier.vocabulary import Vocabulary, learn_words, words_of
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import check_options
from ldm.conditioner.base import tensor_to_text
from ldm.diffusion.schedule import CosineSchedule, ScaledLinearSchedule, ShiftedSchedule
from ldm.task.classifier import recall
from tests.classifier.small import SCHEDULE, Plain, check_exact, small, train_to_tell
from tests.conftest import scramble

CAPTIONS = [f"A {color} {icon}, on paper!" for color in ("red", "red", "blue") for icon in ("cat", "heart")]
X, T = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.9])


def words(schedule=SCHEDULE, **options):
    return small(CaptionClassifier, schedule, own={"vocabulary": 8}, **options)


@pytest.fixture
def classifier():
    made = words()
    scramble(made.network)
    scramble(made.head)
    made.vocabulary.prepare([{"caption": CAPTIONS}])
    return made.eval()


def test_words_are_runs_of_letters_in_lower_case():
    assert words_of("A Red-hot cat's 3 CATS, année ２ ﬁsh") == {"a", "red", "hot", "cat", "s", "cats", "année", "fish"}
    assert words_of("1 + 1 = 2_000") == set()


def test_the_vocabulary_has_the_most_frequent_words_that_tell_images_apart():
    captions = [*CAPTIONS, "a unicorn on paper"]
    assert learn_words(iter(captions), 10) == {"red": 4 / 7, "cat": 3 / 7, "heart": 3 / 7, "blue": 2 / 7}
    assert list(learn_words(captions, 2)) == ["red", "cat"]
    with pytest.raises(ValueError, match="3 captions with 3 words have 0 that tell images apart"):
        learn_words(["the same", "the same", "the same thing"], 10)


def test_before_training_a_word_is_as_likely_as_it_is_frequent():
    made = words()
    made.vocabulary.prepare([{"caption": CAPTIONS}])
    fractions = torch.tensor(list(made.vocabulary.fractions.values()))
    torch.testing.assert_close(made(X, T).sigmoid(), fractions.expand(2, -1))


def test_a_prompt_is_the_product_of_its_words_and_denies_nothing(classifier):
    def log_p(prompt):
        return classifier.log_likelihood(X, T, {"caption": [prompt] * 2})

    each = F.logsigmoid(classifier(X, T))
    places = {word: place for place, word in enumerate(classifier.vocabulary.fractions)}
    for word, place in places.items():
        torch.testing.assert_close(log_p(f"a {word}"), each[:, place])
    torch.testing.assert_close(log_p("A red heart"), log_p("red") + log_p("heart"))
    for same in ("heart: red!", "red red heart", "a red heart under a unicorn"):
        torch.testing.assert_close(log_p(same), log_p("a red heart"))
    mixed = classifier.log_likelihood(X, T, {"caption": ["red cat", "blue"]})
    torch.testing.assert_close(mixed, torch.stack([log_p("red cat")[0], log_p("blue")[1]]))


@pytest.mark.parametrize("prompt", ["a unicorn", ""])
def test_a_prompt_without_a_known_word_is_refused(classifier, prompt):
    with pytest.raises(
        ValueError, match=f"knows no word of the prompt '{prompt}'; it knows 4, such as red, cat, heart"
    ):
        classifier.log_likelihood(X, T, {"caption": ["a red cat", prompt]})


def test_words_that_do_not_count_are_reported_once_a_prompt(classifier, caplog):
    with caplog.at_level("INFO"):
        for _ in range(3):
            classifier.log_likelihood(X, T, {"caption": ["a red unicorn", "red heart"]})
    (message,) = caplog.messages
    assert "of the prompt 'a red unicorn' count red; not a, unicorn, which were in nearly all or nearly none" in message
    with caplog.at_level("INFO"):
        for letter in "bcdefghijklmnop":
            classifier.log_likelihood(X, T, {"caption": [f"red {letter}"] * 2})
    assert len(caplog.messages) < 11, "of a few prompts"


@pytest.mark.parametrize("size", [1, 0, True, 2.5])
def test_a_vocabulary_of_fewer_than_two_words_is_refused(size):
    with pytest.raises(ValueError, match=r"model.vocabulary=\S+ cannot be; give a whole number, at least 2"):
        Vocabulary(size)


def test_life_cycle(classifier):
    x = X.clone().requires_grad_()
    batch = Batch(["a", "b"], {"caption": CAPTIONS[:2], "image": X})
    (classifier.loss(batch).sum() + classifier.log_likelihood(x, T, {"caption": CAPTIONS[:2]}).sum()).backward()
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()
    trained = [p for p in classifier.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in trained)
    assert classifier.autoencoder.weight.grad is None
    again = words()
    again.load_state_dict(classifier.state_dict())
    assert torch.equal(again.eval()(X, T), classifier(X, T))
    assert again.vocabulary.fractions == classifier.vocabulary.fractions
    assert all(isinstance(value, torch.Tensor) for value in classifier.state_dict().values())
    assert json.loads(tensor_to_text(classifier.vocabulary.get_extra_state())) == classifier.vocabulary.fractions


def test_what_was_learned_is_not_learned_again():
    vocabulary = Vocabulary(3)
    vocabulary.prepare([{"caption": CAPTIONS}])
    again = Vocabulary(3)
    again.set_extra_state(vocabulary.get_extra_state())
    again.prepare([{"caption": ["other captions"]}])
    assert again.fractions == vocabulary.fractions
    assert torch.equal(again.log_odds, vocabulary.log_odds)


def test_moments_and_images_give_the_same_loss(classifier):
    losses = []
    for batch in (
        Batch(["a", "b"], {"caption": CAPTIONS[:2], "image": X}),
        Batch(["a", "b"], {"caption": CAPTIONS[:2], "moments": classifier.autoencoder.encode(X).moments}),
    ):
        torch.manual_seed(0)
        losses.append(classifier.loss(batch))
    torch.testing.assert_close(*losses)


@pytest.mark.e2e
def test_trained_on_a_mixture_of_gaussians_it_gives_the_exact_log_odds():
    """Each number of a latent is from N(m, v) where the caption says "up", from N(-m, v) where it says "down"."""
    made = words(channel_mult=[1], attention_levels=[])
    made.vocabulary.prepare([{"caption": ["up"] * 2 + ["down"] * 2}])
    train_to_tell(made, lambda signs: {"caption": ["up" if sign > 0 else "down" for sign in signs]})
    up = list(made.vocabulary.fractions).index("up")
    check_exact(lambda logits: logits[:, up].sigmoid(), made)


def test_it_guides_no_model_of_other_latents_or_other_noise(classifier):
    classifier.join(Plain(), ScaledLinearSchedule())
    shifted, scaled, other = Plain(), Plain(), Plain()
    shifted.shift += 0.1
    scaled.scale *= 2
    other.weight.data += 0.5
    for autoencoder in (shifted, scaled, other):
        with pytest.raises(
            ValueError,
            match="was trained on latents of the encoder .* train one on the data of the model that it shall guide",
        ):
            classifier.join(autoencoder, ScaledLinearSchedule())
    for schedule in (
        CosineSchedule(),
        ShiftedSchedule(ScaledLinearSchedule(), shift=1.1),
        ScaledLinearSchedule(start=0.00085, end=0.012),
    ):
        with pytest.raises(
            ValueError, match=r"at t = 0\..* trained with alpha and sigma .* autoencoder.ckpt=... schedule=... "
        ):
            classifier.join(Plain(), schedule)


def test_sizes_that_the_network_cannot_halve_are_refused():
    with pytest.raises(ValueError, match="image size 8 is not a multiple of 16"):
        words(channel_mult=[1, 1, 1, 1, 1])


def test_recall_of_words_is_the_share_found_among_as_many_likeliest_ones():
    multi_hot = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, -1.0, -2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    assert float(recall(logits, multi_hot)) == pytest.approx(2 / 3)
    assert float(recall(multi_hot, multi_hot)) == 1
    assert float(recall(logits[2:], multi_hot[2:])) == 0


def test_what_is_proposed_composes_on_anybodys_data_as_on_the_icons():
    text = CaptionClassifier.how_to_train("autoencoder.ckpt='my run'").replace("=...", "=32")
    own, icons = re.findall(r"python train\.py (experiment=classifier .*?)(?:, or|$)", text)
    configs = [check_options("train", read_command_line("train", shlex.split(typed))) for typed in (own, icons)]
    assert [config.autoencoder.ckpt for config in configs] == ["my run"] * 2
    assert [config.hydra.runtime.choices["data"] for config in configs] == ["shards", "icons"]
    assert [config.model.vocabulary for config in configs] == [1024, 128]
    assert configs[0].stage.classifier.trainer.max_steps > configs[1].stage.classifier.trainer.max_steps
