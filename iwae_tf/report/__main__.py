"""`python -m iwae_tf.report`."""

from iwae_tf.report.command import run

if __name__ == "__main__":
    run()
