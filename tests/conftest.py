import logging
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# These files take minutes, so they start first; otherwise one process would wait for the other at the end.
LONGEST_FILES = ("test_main.py", "test_training.py", "test_estimators.py", "test_table.py", "test_resume.py")
LONGEST_FILES += ("test_keras_training.py", "test_prune.py", "test_benchmarks.py", "test_old_runs.py")
LONGEST_FILES += ("test_readme.py", "test_sklearn.py", "test_tables.py", "test_examples.py")


def pytest_collection_modifyitems(items):
    """Sorts the longest files to the front; the sort is stable, so the tests of a file keep their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.fixture(autouse=True)
def notes():
    """Notes are on at the start of each test, whatever the last one said."""
    logging.getLogger("iwae_tf").setLevel(logging.INFO)
