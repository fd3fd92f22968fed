import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Whole runs, minutes in one file: were one of these the last, the other process would wait for it.
LONGEST_FILES = ("test_main.py", "test_training.py", "test_estimators.py", "test_table.py", "test_resume.py")
LONGEST_FILES += ("test_workers.py", "test_prune.py", "test_benchmarks.py")


def pytest_collection_modifyitems(items):
    """The longest files first; the sort is stable, so tests stay in the order of their files."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)
