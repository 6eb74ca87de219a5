"""The type checker that the suite puts around every function of the package: an int is a float, as everywhere."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
