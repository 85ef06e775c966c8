import numpy as np

from cpd.versions import installed


def test_what_is_not_installed_has_no_version() -> None:
    assert installed(["no-such-package", "numpy"]) == {"numpy": np.__version__}
