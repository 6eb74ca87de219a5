"""EntryRegressor against planted tables, the rules of scikit-learn, and repeated rows."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import ranklens as rl

# Fits of equal data in another form.
SAME = 1e-6


def table(rows=900, *, noise=0.1, seed=0, bias=1.0):
    """Ratings of 30 films by 40 users: a rank-one matrix plus biases of the films."""
    made = np.random.default_rng(seed)
    taste, quality, mean = made.standard_normal(40), made.standard_normal(30), made.standard_normal(30)
    user, film = made.integers(40, size=rows), made.integers(30, size=rows)
    y = 3 + bias * mean[film] + taste[user] * quality[film] + noise * made.standard_normal(rows)
    return pd.DataFrame({"user": [f"user {k:02}" for k in user], "film": [(k, "film") for k in film]}), y


def test_labels_of_any_kind_are_predicted():
    X, y = table()
    regressor = rl.EntryRegressor().fit(X[:800], y[:800])
    assert regressor.rank_ in (1, 2)
    assert regressor.score(X[800:], y[800:]) > 0.95
    assert list(regressor.feature_names_in_) == ["user", "film"]
    means, deviations = regressor.predict(X[800:], return_std=True)
    assert 0.05 < np.median(deviations) < 0.2  # the noise is 0.1
    again = rl.EntryRegressor().fit(X[:800].to_numpy(), y[:800])
    assert np.allclose(again.predict(X[800:].to_numpy()), means, rtol=SAME)


def test_labels_that_were_not_seen_get_the_biases_of_the_others():
    X, y = table(noise=0.01)
    for posterior in (0, 50):
        regressor = rl.EntryRegressor(posterior=posterior).fit(X, y)
        unknown = pd.DataFrame({"user": ["nobody"] * 30, "film": [(k, "film") for k in range(30)]})
        expected = pd.Series(y).groupby(X.film).mean().reindex(unknown.film)  # a film's mean over users
        assert np.corrcoef(regressor.predict(unknown), expected)[0, 1] > 0.9
        both = regressor.predict(pd.DataFrame({"user": ["nobody"], "film": [(99, "film")]}))
        assert abs(both[0] - y.mean()) < 1


def test_a_table_of_three_columns_is_a_tensor():
    made = np.random.default_rng(0)
    factors = [made.standard_normal((d, 2)) for d in (9, 8, 7)]
    indices = np.stack([made.integers(d, size=350) for d in (9, 8, 7)], axis=1)
    y = np.prod([factor[own] for factor, own in zip(factors, indices.T, strict=True)], axis=0).sum(axis=1)
    y = y + 0.02 * made.standard_normal(350)
    regressor = rl.EntryRegressor(biases=False, max_steps=600).fit(indices[:300], y[:300])
    assert regressor.rank_ == 2
    assert regressor.score(indices[300:], y[300:]) > 0.98
    with pytest.raises(ValueError, match="this one has 3"):
        regressor.recommend(3)


def test_a_table_of_one_column_has_biases_only():
    made = np.random.default_rng(0)
    X = made.integers(5, size=(200, 1))
    y = np.arange(5.0)[X[:, 0]] + 0.1 * made.standard_normal(200)
    found = rl.EntryRegressor(max_steps=100).fit(X, y).predict(np.arange(5)[:, None])
    assert np.abs(found - np.arange(5)).max() < 0.2


def test_recommendations_are_the_best_labels_that_were_not_seen():
    X, y = table()
    regressor = rl.EntryRegressor(max_steps=300).fit(X, y)
    found = regressor.recommend("user 03", 4)
    seen = set(X.film[X.user == "user 03"])
    rest = [label for label in regressor.labels_[1] if label not in seen]
    scores = regressor.predict(pd.DataFrame({"user": "user 03", "film": rest}))
    assert list(found.index) == [rest[k] for k in np.argsort(-scores)[:4]]
    assert found.is_monotonic_decreasing
    fewer = regressor.recommend("user 03", 4, exclude=[found.index[0]])
    assert list(fewer.index[:3]) == list(found.index[1:])
    assert len(regressor.recommend("nobody", 100)) == 30
    with pytest.raises(ValueError, match="n is 0"):
        regressor.recommend("user 03", 0)


@pytest.mark.parametrize("posterior", [0, 5])
def test_a_weight_of_two_is_two_rows(posterior):
    X, y = table(rows=500)
    weights = np.random.default_rng(0).integers(0, 3, 500)
    mask = np.random.default_rng(1).random(500) < 0.2
    settings = {"posterior": posterior, "implicit": False, "max_steps": 200, "depth": 2}
    weighted = rl.EntryRegressor(**settings, held_out=lambda indices, seed: mask[weights > 0])
    weighted.fit(X, y, sample_weight=weights)
    rows = np.repeat(np.arange(500), weights)
    repeated = rl.EntryRegressor(**settings, held_out=lambda indices, seed: mask[rows])
    repeated.fit(X.iloc[rows], y[rows])
    unweighted = rl.EntryRegressor(**settings).fit(X, y).predict(X)
    assert np.abs(weighted.predict(X) - unweighted).max() > 0.01
    assert np.abs(weighted.predict(X) - repeated.predict(X)).max() < SAME
    assert weighted.rmse_ == pytest.approx(repeated.rmse_, rel=SAME)
    with pytest.raises(ValueError, match="at least one non-zero"):
        rl.EntryRegressor().fit(X, y, sample_weight=np.zeros(500))


def test_weights_of_any_unit_and_any_range():
    X, y = table(rows=400)
    settings = {"posterior": 10, "implicit": False, "max_steps": 200}
    plain = rl.EntryRegressor(**settings).fit(X, y).predict(X)
    shares = rl.EntryRegressor(**settings).fit(X, y, sample_weight=np.full(400, 1 / 400)).predict(X)
    assert np.allclose(shares, plain, rtol=SAME)
    one_counts = rl.EntryRegressor(**settings).fit(X, y, sample_weight=np.where(np.arange(400) == 3, 1e9, 1.0))
    assert one_counts.predict(X[3:4]) == pytest.approx(y[3], abs=1e-3)


def test_tables_that_are_refused():
    X, y = table(rows=60)
    regressor = rl.EntryRegressor(max_steps=10, posterior=0)
    with pytest.raises(ValueError, match="X has 2 columns of the name 'a'; give every column a name"):
        regressor.fit(X.set_axis(["a", "a"], axis=1), y)
    masked = np.arange(60) == 7
    with pytest.raises(ValueError, match="y is masked in row 7; leave that row out"):
        regressor.fit(X, np.ma.array(y, mask=masked))
    with pytest.raises(ValueError, match="values is masked in row 7"):
        rl.TensorCompleter((60, 2)).fit(
            np.stack([np.arange(60), masked], axis=1).astype(int), np.ma.array(y, mask=masked)
        )


@pytest.mark.slow
def test_features_predict_labels_without_rows():
    made = np.random.default_rng(0)
    ages = pd.DataFrame({"age": made.standard_normal(60), "town": made.choice(["a", "b"], 60)}, index=range(60))
    user, item = made.integers(50, size=1500), made.integers(20, size=1500)  # users 50 to 59 have no row
    effect = made.standard_normal(20)
    y = ages.age.to_numpy()[user] * effect[item] + 0.3 * made.standard_normal(1500)
    new = pd.DataFrame({"user": np.repeat(np.arange(50, 60), 20), "item": np.tile(np.arange(20), 10)})
    truth = ages.age.to_numpy()[new.user] * effect[new.item]
    X = pd.DataFrame({"user": user, "item": item})
    without = rl.EntryRegressor().fit(X, y).score(new, truth)
    score = rl.EntryRegressor(features={"user": ages}).fit(X, y).score(new, truth)
    assert score > 0.9
    assert without < 0.2
    with pytest.raises(ValueError, match="features has the column 'person'"):
        rl.EntryRegressor(features={"person": ages}).fit(X, y)


@pytest.mark.slow
def test_scikit_learn_tools():
    X, y = table()
    regressor = rl.EntryRegressor(max_steps=200, posterior=0)
    assert np.isfinite(cross_val_score(regressor, X, y, cv=3)).all()
    nested = GridSearchCV(regressor, {"depth": [2, 3]}, cv=2)
    assert cross_val_score(nested, X, y, cv=2).min() > 0.8
    text = FunctionTransformer(lambda frame: frame.assign(user=frame.user.str.upper()))
    assert make_pipeline(text, clone(regressor)).fit(X, y).score(X, y) > 0.9
    fitted = rl.EntryRegressor(max_steps=200).fit(X, y)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


CHECKS = """
import json, warnings
from sklearn.utils.estimator_checks import check_estimator
import ranklens as rl
warnings.simplefilter("ignore")
results = check_estimator(rl.EntryRegressor(max_steps=10, posterior=10), on_fail=None)
print(json.dumps([(r["check_name"], r["status"], repr(r["exception"])) for r in results]))
"""


@pytest.mark.slow
def test_scikit_learn_accepts_it():
    """In a Python without the suite's type checker, because scikit-learn passes arguments of all types on purpose."""
    answer = subprocess.run([sys.executable, "-c", CHECKS], capture_output=True, text=True, check=True)
    results = json.loads(answer.stdout)
    assert len(results) > 30
    assert not [result for result in results if result[1] == "failed"]
