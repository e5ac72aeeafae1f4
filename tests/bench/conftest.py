import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def model_cache(tmp_path_factory, worker_id):
    """Shared models are trained once a run, and not into the cache of the user."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(shared / "cache")
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
