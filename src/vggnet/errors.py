"""The two ways in which vggnet gives up: the caller can mend the first, the run failed in the second."""


class InputError(ValueError):
    """Bad input. The message names the value, where it stands, and the remedy.

    The command line prints it as one line and exits with code 2; nothing has been written.
    """


class RunError(RuntimeError):
    """A run that cannot go on, such as a loss that is not finite. The command line exits with 1."""
