"""How vggnet gives up: on input that the caller can mend, or on a run that cannot go on."""


class InputError(ValueError):
    """Bad input. The message names the value, where it stands, and the remedy.

    The command line prints it as one line and exits with code 2; nothing has been written.
    """


class RunError(RuntimeError):
    """A run that cannot go on, such as a loss that is not finite. The command line exits with 1."""
