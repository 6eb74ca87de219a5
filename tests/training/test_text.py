"""Samples of text: that they are what the text says, and that no test sample is trained on."""

import torch

from ranklens.training import networks, text


def spelled(sample):
    return "".join(text.ALPHABET[k] for k in sample.argmax(0).tolist())


def test_samples_are_of_the_text_and_their_classes_are_what_follows():
    whole = text.manual()
    border = int(text.TRAINED * len(whole))
    found = text.split(30, 20, seed=1)
    for part, count in ((found.train, 30), (found.validation, 20), (found.test, text.TESTED)):
        x, y = part
        assert x.shape == (count, len(text.ALPHABET), text.CONTEXT)
        assert torch.allclose(x.square().mean(), torch.ones(()))
        place = whole if part is not found.test else whole[border:]
        for sample, following in zip(x[:20], y[:20], strict=True):
            assert spelled(sample) + text.ALPHABET[following] in place


def test_the_seed_selects_training_samples_only():
    first, again, other = (text.split(40, 0, seed) for seed in (0, 0, 1))
    assert torch.equal(first.train[0], again.train[0])
    assert not torch.equal(first.train[0], other.train[0])
    assert torch.equal(first.test[0], other.test[0])


def test_the_network_learns_more_than_the_most_frequent_character():
    found = text.split(500, 0, seed=0)
    model = text.text_cnn(seed=0)
    assert networks.fit(model, found, networks.Schedule(100, 32, 0.05, 100), seed=0) == 100
    most = float((found.test[1] == found.test[1].mode().values).double().mean())
    assert networks.accuracy(model, found.test) > 1.3 * most
