"""Every data set has files, addresses and folders, and every content is checked by some published hash."""

import re

import pytest

from ranklens.data import catalogue

SOURCES = catalogue.SOURCES.items()


@pytest.mark.parametrize(("name", "found"), SOURCES)
def test_every_content_is_checked_by_a_hash(name, found):
    assert catalogue.source(name) is found
    for file in found.files:
        if file.sha256 is None:  # then its archive has one
            assert re.fullmatch("[0-9a-f]{32}", found.archive.md5)
        else:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    hashes = [file.sha256 for file in found.files if file.sha256]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(("name", "found"), SOURCES)
def test_there_is_a_place_to_fetch_from_and_to_put_files_in(name, found):
    assert found.files
    assert found.homes
    assert found.folders[0] == name  # fetched files go to the folder of the data set's name
    assert all(re.fullmatch("https?://[^ ]+/", home) for home in found.homes)
    assert len({file.name for file in found.files}) == len(found.files)
    assert found.archive is None or found.archive.name.endswith((".zip", ".tar.gz"))


def test_files_may_be_packed_unless_their_names_are_given():
    plain = catalogue.File("a", bytes, None)
    assert plain.names == ("a", "a.gz")
    assert catalogue.File("a", bytes, None, forms=("b",)).names == ("b",)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match="name is 'nothing', and there is no such data set to fetch; choose one of mnist"
    ):
        catalogue.source("nothing")
