"""`python -m iwae_tf.report`."""

from iwae_tf.experiment.command import run_command
from iwae_tf.report.command import main

if __name__ == "__main__":
    run_command(main, "the same command writes the report anew")
