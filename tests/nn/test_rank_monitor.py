"""Ranks measured along a training loop, against exact decompositions, and the time that measuring takes."""

import pytest
import torch
from torch import distributed, multiprocessing, nn

import ranklens as rl
from ranklens.nn.rank_monitor import RankMonitor
from ranklens.tensors import measures

# Relative error of measures in float32 against measures from Gram matrices in float64.
SINGLE = 1e-5
# The same for ranks, which are sums over all singular values.
SINGLE_RANK = 1e-4
# Relative difference of the effective rank of a queue from that of all rows, as the monitor promises.
QUEUED = 0.02

pytestmark = pytest.mark.usefixtures("initial_values")


def trained(monitor, model, steps, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        monitor.step()


def test_profiles_are_those_of_the_weights_when_they_were_taken():
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 5)), torch.randn(6, 2, 5, 5)
    monitor = rl.nn.RankMonitor(model, every=3, share=1.0)
    trained(monitor, model, 7, x)
    monitor.finish()
    found = monitor.record()
    assert found.step.values.tolist() == [1, 4, 7]
    assert found.part.values.tolist() == ["0.weight", "2.weight"]
    assert found["at"].values.tolist() == [[1, 2], [4, 5], [7, 7]]
    assert float(found.effective_rank[-1, 1]) == pytest.approx(
        float(rl.effective_rank(model[2].weight.detach())), rel=SINGLE_RANK
    )
    assert float(found.stable_rank[-1, 0]) == pytest.approx(
        float(rl.stable_rank(model[0].weight.detach().flatten(1))), rel=SINGLE_RANK
    )
    assert float(found.frobenius[-1, 1]) == pytest.approx(float(model[2].weight.detach().norm()), rel=SINGLE)


def test_it_takes_no_more_than_its_share():
    model, x = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300)), torch.randn(4, 300)
    monitor = rl.nn.RankMonitor(model, every=1, share=0.1)
    trained(monitor, model, 150, x)
    record = monitor.record()
    assert record.sizes["step"] < 75  # 150 profiles would have been due
    assert record.attrs["share"] < 0.5


def test_components_and_activations():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    deep, x = rl.nn.overparameterize(model, kind="cp"), torch.randn(8, 2, 5, 5)
    monitor = rl.nn.RankMonitor(deep, every=5, share=1.0, activations=("0", "3"))
    trained(monitor, deep, 10, x)
    found = monitor.record()
    assert found.bond.values.tolist() == ["0:r", "3:r"]
    norms = found.component_norm.sel(bond="3:r", step=1).dropna("component")
    assert norms.sizes["component"] == deep[3].composition.network.layout.sizes["r"]
    assert bool((norms.diff("component") <= 0).all())
    assert found.part.values.tolist() == ["0.weight", "3.weight", "0", "3"]
    assert 0 < float(found.effective_rank.sel(part="3")[0]) <= 5
    assert 0 < float(found.effective_rank.sel(part="0")[0]) <= 4
    monitor.close()
    assert not deep[0]._forward_hooks


def test_a_monitor_that_has_seen_nothing_is_empty(tmp_path):
    record = rl.nn.RankMonitor(nn.Linear(2, 2)).record()
    assert record.sizes["step"] == 0
    rl.save(record, tmp_path / "ranks.nc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every is 0"),
        ({"share": 0.0}, "share is 0"),
        ({"queue": 1}, "queue is 1"),
        ({"activations": ["x"]}, "activations has 'x', no name of a module"),
    ],
)
def test_what_makes_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.RankMonitor(nn.Linear(2, 2), **options)


def test_finishing_measures_the_rows_that_there_are():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(5, 4)
    monitor = rl.nn.RankMonitor(model, every=2, activations=("0", "1"), share=1.0)
    model(x)
    monitor.step()
    monitor.finish()
    found = monitor.record()
    assert found.part.values.tolist() == ["0.weight", "2.weight", "0", "1"]
    assert found.rows.sel(part="0").values.tolist() == [5.0]


def test_modules_that_are_not_run_hold_up_no_profile():
    model, x = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), torch.randn(5, 4)
    monitor = rl.nn.RankMonitor(model, every=5, activations=("1",), share=1.0)
    for _ in range(20):
        model[0](x)
        monitor.step()
    assert monitor.record().step.values.tolist() == [1, 6, 11, 16]


def test_parts_are_read_when_they_are_measured():
    model = rl.nn.overparameterize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    monitor = rl.nn.RankMonitor(model, every=9, share=1.0)
    monitor.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    monitor.step()
    found = monitor.record().isel(step=0)
    assert found["at"].values.tolist() == [1, 2]
    assert float(found.frobenius[1]) == pytest.approx(float(model[1].weight.detach().norm()), rel=SINGLE)


def test_channels_of_convolutions_of_every_dimension_are_the_features():
    model, x = nn.Sequential(nn.Conv1d(1, 3, 1)), torch.randn(6, 1, 20)
    monitor = rl.nn.RankMonitor(model, every=1, activations=("0",), share=1.0)
    for _ in range(4):
        model(x)
        monitor.step()
    assert float(monitor.record().effective_rank.sel(part="0").max()) <= 3


def test_small_batches_show_the_rank_of_a_full_pass():
    made = torch.Generator().manual_seed(1)
    layer = nn.Linear(400, 512).requires_grad_(False)
    x = torch.randn(16_384, 400, generator=made)
    monitor = rl.nn.RankMonitor(nn.Sequential(layer), every=100, share=1.0, activations=["0"])
    layer.register_forward_hook(lambda *_: monitor.step())
    for rows in x[:2560].split(32):
        layer(rows)
    monitor.close()
    row = monitor.record().isel(step=0).sel(part="0")
    eigenvalues = torch.linalg.eigvalsh(layer(x).double().T.cov()).clamp_min(0)
    whole = float(measures.effective_rank_of(eigenvalues.sqrt()))
    assert int(row.rows) == 2048
    assert float(row.effective_rank) == pytest.approx(whole, rel=QUEUED)
    assert float(row.effective_rank_of_rows) < (1 - QUEUED) * whole  # without the correction it is too low
    one = layer(x[:32])
    assert float(rl.effective_rank(one - one.mean(0))) < 32


def test_a_weight_that_is_not_finite_is_recorded_and_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    told = []
    monitor = rl.nn.RankMonitor(
        model, every=2, share=1.0, activations=["1"], log=lambda found, step: told.append(found)
    )
    with torch.no_grad():
        model[0].weight[1, 2] = torch.nan
    for _ in range(12):
        model(torch.ones(3, 4))
        monitor.step()
    found = monitor.record()
    assert found.attrs["not_finite"] == {"0.weight": 1, "1": 3}
    assert bool(found.effective_rank.sel(part="0.weight").isnull().all())
    assert bool(found.effective_rank.sel(part="1.weight").notnull().any())
    assert told[-1]["0.weight/effective_rank"] != told[-1]["0.weight/effective_rank"]
    assert told[-1]["1.weight/effective_rank"] > 1


def test_the_log_gets_the_latest_measures_after_every_profile():
    model, told = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), {}
    monitor = RankMonitor(model, every=4, share=1.0, log=lambda found, step: told.update({step: dict(found)}))
    trained(monitor, model, 12, torch.randn(5, 4))
    assert list(told) == [3, 7, 11]
    assert told[11] == monitor.latest()
    assert told[11]["2.weight/effective_rank"] == float(monitor.record().effective_rank.sel(part="2.weight")[-1])
    assert told[11]["2.weight/at"] == 10


def test_updates_are_changes_since_the_last_profile():
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    monitor = rl.nn.RankMonitor(model, every=2, share=1.0, updates=True)
    monitor.step()
    with torch.no_grad():
        model[0].weight += torch.outer(torch.arange(1.0, 7.0), torch.ones(6))
    monitor.step()
    monitor.step()
    found = monitor.record().sel(part="0.weight")
    assert bool(found.update_effective_rank[0].isnull())
    assert float(found.update_stable_rank[1]) == pytest.approx(1.0, rel=SINGLE)
    assert float(found.update_frobenius[1]) == pytest.approx((91 * 6) ** 0.5, rel=SINGLE)
    assert float(found.effective_rank[1]) > 1.5


def test_modules_inside_wrappers_are_found_by_their_own_names():
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 3)))
    for name in ("0", "module.0"):
        monitor = rl.nn.RankMonitor(model, activations=[name], share=1.0)
        model(torch.randn(5, 4))
        monitor.step()
        monitor.finish()
        assert monitor.record().rows.sel(part=name).item() == 5


def test_a_bare_name_is_one_module():
    model = nn.Sequential(nn.Linear(4, 4))
    monitor = rl.nn.RankMonitor(model, activations="0", every=8, share=1.0, queue=64)
    for _ in range(16):
        model(torch.eye(4))
        monitor.step()
    assert "0" in monitor.record().part.values
    with pytest.raises(ValueError, match="activations has '1', no name of a module"):
        rl.nn.RankMonitor(model, activations="1")


def test_outputs_that_are_tuples_or_objects_are_watched():
    lstm = nn.LSTM(3, 5, batch_first=True)
    monitor = rl.nn.RankMonitor(nn.ModuleList([lstm]), every=3, share=1.0, activations=["0"])
    lstm(torch.randn(8, 4, 3))
    monitor.step()
    monitor.finish()
    assert monitor.record().rows.sel(part="0").values.tolist() == [32.0]


def _process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model, told = nn.Sequential(nn.Linear(4, 6)), []
    monitor = RankMonitor(
        model, every=8, share=1.0, activations=["0"], queue=64, log=lambda found, step: told.append(dict(found))
    )
    rows = torch.Generator().manual_seed(rank)
    for _ in range(40):
        model(torch.randn(2 + rank, 4, generator=rows))
        monitor.step()
        if rank:
            monitor._began -= 1.0  # the processes measure at different times
    record = monitor.record().sel(part="0")
    found = {name: torch.tensor(record[name].values) for name in ("rows", "effective_rank")}
    torch.save({**found, "told": len(told)}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_that_train_together_measure_all_rows(tmp_path):
    multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["rows"], second["rows"])
    assert torch.equal(first["effective_rank"], second["effective_rank"])
    assert float(first["rows"][-1]) == 64
    assert first["told"] > 2
    assert second["told"] == 0
