"""Addition modulo a number: the network against a literal loop over pairs, heads and tokens."""

import math

import pytest
import torch

from ranklens.studies.kit import modular_addition as task

SIZES = task.Sizes(modulus=5, width=6, heads=2, head_size=3, hidden=7)
# Relative error of logits in float32.
SINGLE = 1e-4


def stacked(*seeds, small=1.0):
    drawn = [task.initial(SIZES, small, seed) for seed in seeds]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def literal(own, a, b):
    """The logits of one pair, token by token and head by head."""
    tokens = [own["embedding"][number] + own["position"][k] for k, number in enumerate((a, b))]
    stream = tokens[1]
    for head in range(SIZES.heads):
        query, key, value, output = (own[name][head] for name in ("query", "key", "value", "output"))
        scores = torch.stack([(key @ token) @ (query @ tokens[1]) for token in tokens]) / math.sqrt(SIZES.head_size)
        attention = torch.softmax(scores, 0)
        stream = stream + sum(
            weight * output.T @ (value @ token) for weight, token in zip(attention, tokens, strict=True)
        )
    active = torch.relu(stream @ own["hidden"] + own["bias"][0])
    return (stream + active @ own["back"]) @ own["answer"]


def test_logits_by_a_loop_over_heads_and_tokens():
    parameters = stacked(0, 1)
    pairs = torch.tensor([[0, 7, 24], [3, 11, 20]])
    found = task.logits(parameters, pairs)
    for network in range(2):
        own = {name: value[network] for name, value in parameters.items()}
        for example, pair in enumerate(pairs[network].tolist()):
            torch.testing.assert_close(
                found[network, example], literal(own, *divmod(pair, 5)), rtol=SINGLE, atol=SINGLE
            )


def test_answers_are_sums():
    assert task.answers(torch.arange(25), 5).tolist() == [(a + b) % 5 for a in range(5) for b in range(5)]


def test_training_and_test_pairs_are_all_pairs():
    train, test = task.divided(7, 0.7, seed=1)
    assert len(train) == round(0.7 * 49)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(49))
    assert not torch.equal(train, task.divided(7, 0.7, seed=2)[0])


def test_a_small_start_scales_the_weights_of_attention_only():
    usual, small = task.initial(SIZES, 1.0, 3), task.initial(SIZES, 0.01, 3)
    for name, value in usual.items():
        factor = 0.01 if name in ("query", "key", "value", "output") else 1.0
        torch.testing.assert_close(small[name], factor * value)


def test_loss_and_accuracy_of_a_network_that_says_nothing():
    parameters = stacked(0)
    parameters["answer"] = torch.zeros_like(parameters["answer"])
    loss, accuracy = task.fit(parameters, torch.arange(25)[None])
    assert float(loss) == pytest.approx(math.log(5), rel=SINGLE)
    assert float(accuracy) == pytest.approx(1 / 5)  # the first answer, which is right for one pair of five
