"Fixtures that several test files share."

import pytest


@pytest.fixture(scope="module")
def one_thread():
    "Results are compared to the last bit, which only the same number of threads promises."
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SEVLM_THREADS", "1")
        yield
