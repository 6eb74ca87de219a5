"""Shape types are enforced here, before anything imports the package; and the one tolerance table of the suite."""

import strict_types

strict_types.install()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_warn_always(True)  # torch gives some warnings once per process, to whichever test comes first
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("suite")

# relative errors, by what limits them; nothing else in the suite decides how close is close
TOLERANCE = {
    "rounding": 1e-11,  # two ways to add the same float64 numbers
    "planned": 1e-13,  # the same products and sums of float64 numbers in another order, on average over entries
    "float32": 2e-5,  # the same in float32
    "difference": 1e-6,  # a central difference against a derivative, in float64
    "balance": 1e-12,  # what balance_ promises
    "flow": 1e-3,  # positions of a flow at its default rtol, away from saddles
}


MADE_ONCE = {
    "tests/studies/layers/test_countering_locality.py",
    "tests/data/test_install.py",
    "tests/studies/hierarchies/test_long_range.py",
    "tests/data/test_pathfinder.py",
    "tests/report/test_page.py",
    "tests/studies/laws/test_when_the_law_fails.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files whose fixtures take long to make stay with one worker; all other tests go to whoever is free."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::", maxsplit=1)[0]
            return file if file in MADE_ONCE else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def tolerance() -> dict[str, float]:
    return TOLERANCE


@pytest.fixture
def initial_values():
    """Modules draw theirs from the global generator, which is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _one_thread_and_an_untouched_generator():
    """Workers share two cores; and no function of the library may touch the global generator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    torch.set_num_threads(threads)
